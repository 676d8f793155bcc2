package peercache

import "sync"

// A tally counts the peers that confirm a Set, Remove or Clear.
//
// All members that the caller knew when the call began have to. Each says with its
// confirmation whom it knows itself, and who is among these and was not told is told and
// waited for too: so a process that has just joined is told by a caller that has not heard
// of it.
type tally struct {
	self     string
	hash     uint64 // of the members that the caller knew
	removals int
	more     func(peers []string) // has peers told; it does not wait
	done     chan struct{}        // closed when nobody is waited for

	mu      sync.Mutex // guards the fields below
	waiting map[string]*confirmation
	known   []string            // whom the caller knew
	told    map[string]struct{} // these and more; nil before somebody knew others
	ended   bool
}

// maxMembers is how many processes may be told because peers know them, in one call and in
// all: each is sent requests (arbitrary: five times as many as a cluster is made for).
const maxMembers = 1000

// A confirmation is what is known of one that is waited for.
type confirmation struct {
	removals int   // that it has not confirmed
	err      error // of the last attempt, nil before that ended
}

// newTally returns a tally of a number of removals, of which the members that are known
// are told. The caller sets more.
func newTally(self string, known audience, removals int) *tally {
	t := &tally{self: self, hash: known.hash, removals: removals, known: known.peers, done: make(chan struct{})}
	t.waiting = make(map[string]*confirmation, len(known.peers))
	all := make([]confirmation, len(known.peers))
	for i, peer := range known.peers {
		all[i].removals = removals
		t.waiting[peer] = &all[i]
	}
	t.endLocked()
	return t
}

func (t *tally) endLocked() {
	if len(t.waiting) == 0 && !t.ended {
		t.ended = true
		close(t.done)
	}
}

// confirmed notes that a peer has applied one of the removals, and whom it knows: nobody,
// if it has left.
func (t *tally) confirmed(peer string, members audience) {
	t.mu.Lock()
	c := t.waiting[peer]
	if c == nil {
		t.mu.Unlock()
		return
	}
	var news []string
	if members.hash != t.hash {
		news = t.newsLocked(members.peers)
	}
	if c.removals--; c.removals == 0 {
		delete(t.waiting, peer)
	}
	t.endLocked()
	t.mu.Unlock()
	if len(news) > 0 {
		t.more(news)
	}
}

// newsLocked returns those of peers that are not told yet, and waits for them from now on.
func (t *tally) newsLocked(peers []string) (news []string) {
	if t.told == nil {
		t.told = map[string]struct{}{t.self: {}}
		for _, peer := range t.known {
			t.told[peer] = struct{}{}
		}
	}
	for _, peer := range peers {
		if _, told := t.told[peer]; told || len(t.told) > len(t.known)+maxMembers {
			continue
		}
		t.told[peer] = struct{}{}
		if u, err := normalizeURL(peer); err != nil || u.String() != peer {
			continue // no member's
		}
		t.waiting[peer] = &confirmation{removals: t.removals}
		news = append(news, peer)
	}
	return news
}

// failed notes that an attempt to tell a peer failed. Others follow.
func (t *tally) failed(peer string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.waiting[peer]; c != nil {
		c.err = err
	}
}

// result returns nil or the *PartialError; missing is the error of peers that have said
// nothing yet.
func (t *tally) result(missing error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		return nil
	}
	errs := make(map[string]error, len(t.waiting))
	for peer, c := range t.waiting {
		errs[peer] = missing
		if c.err != nil {
			errs[peer] = c.err
		}
	}
	return &PartialError{Peers: errs}
}
