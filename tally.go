package peercache

import "sync"

// A tally counts the peers that confirm a Set, Remove or Clear.
//
// All members that the caller knew when the call began have to. Each says with its
// confirmation whom it knows itself; where those are others, they are asked for and told
// too, so that a process which has just joined is told by a caller that has not heard of
// it.
type tally struct {
	hash uint64        // of the members that the caller knew
	done chan struct{} // closed when nobody is waited for
	meet func(peer string)

	mu      sync.Mutex // guards the fields below
	waiting map[string]*confirmation
	told    map[string]bool // and the caller itself
	met     map[uint64]bool // hashes whose members are told
	ended   bool
}

// A confirmation is what is known of one that is waited for.
type confirmation struct {
	removals int   // that it has not confirmed
	err      error // of the last attempt, nil before that ended
}

// newTally returns a tally for a number of removals. meet is called, without waiting for
// it, for a peer whose members are to be asked for; it leads to a call of join.
func newTally(self string, known audience, removals int, meet func(*tally, string)) *tally {
	t := &tally{hash: known.hash, done: make(chan struct{}), told: map[string]bool{self: true}, met: make(map[uint64]bool)}
	t.waiting = make(map[string]*confirmation, len(known.peers))
	t.meet = func(peer string) { meet(t, peer) }
	t.awaitLocked(known.peers, removals)
	t.endLocked()
	return t
}

// awaitLocked has those waited for that are not told yet, and returns them.
func (t *tally) awaitLocked(peers []string, removals int) (news []string) {
	for _, peer := range peers {
		if !t.told[peer] {
			t.told[peer] = true
			t.waiting[peer] = &confirmation{removals: removals}
			news = append(news, peer)
		}
	}
	return news
}

func (t *tally) endLocked() {
	if len(t.waiting) == 0 && !t.ended {
		t.ended = true
		close(t.done)
	}
}

// confirmed notes that a peer has applied one of the removals, and which members it knows.
// 0 stands for one that has left.
func (t *tally) confirmed(peer string, hash uint64) {
	t.mu.Lock()
	c := t.waiting[peer]
	if c == nil {
		t.mu.Unlock()
		return
	}
	if c.removals--; c.removals > 0 {
		t.mu.Unlock()
		return
	}
	meet := hash != 0 && hash != t.hash && !t.met[hash]
	if meet {
		t.met[hash] = true // its peer is waited for until its members are
		c.removals = 1
	} else {
		delete(t.waiting, peer)
		t.endLocked()
	}
	t.mu.Unlock()
	if meet {
		t.meet(peer)
	}
}

// join adds the members that a confirmed peer knows, and returns those that have to be
// told; err is why they are not known.
func (t *tally) join(peer string, members []string, removals int, err error) (news []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failedLocked(peer, err)
		return nil
	}
	news = t.awaitLocked(members, removals)
	delete(t.waiting, peer)
	t.endLocked()
	return news
}

// failed notes that an attempt to tell a peer failed. Others follow.
func (t *tally) failed(peer string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failedLocked(peer, err)
}

func (t *tally) failedLocked(peer string, err error) {
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
