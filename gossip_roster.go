package peercache

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A roster is what gossip believes of the cluster: this process, as it wants to be
// seen, and everybody who is taken for alive. peers.go fills it from memberlist's
// events; it knows nothing of memberlist itself.
type roster struct {
	name     string        // this process's gossip name
	addr     string        // where it gossips, as others are told
	signal   chan struct{} // room for one: what changed returns
	rejected atomic.Int64
	proven   bool // peers prove who they are: a URL may be at another address than its gossip

	// mu is a leaf: memberlist holds its own lock when it calls us, and takes it in
	// every one of its methods. Nothing is called with mu held.
	mu struct {
		sync.Mutex
		self  member
		meta  []byte // self encoded; replaced, never written to
		told  []byte // what memberlist tells others of this process
		joins uint64
		peers map[string]peerRecord // by gossip name, without self
		lost  lostMembers
		left  departures // who said so
		// met tells who answered at a URL that several processes have, by boot.
		met    map[string]uint64
		frozen bool // nothing changes any more
	}
}

// A peerRecord holds copies: a *memberlist.Node is written to by memberlist, under
// a lock of its own, for as long as it lives.
type peerRecord struct {
	member
	addr   string
	joined uint64 // counts up: tells which of two joined later
	err    error  // why it is no member of this ring; nil for most
}

func newRoster(self member, addr string) (*roster, error) {
	meta, err := self.meta()
	if err != nil {
		return nil, err
	}
	r := &roster{name: self.gossipName(), addr: addr, signal: make(chan struct{}, 1)}
	r.mu.self = self
	r.mu.meta = padded(meta)
	r.mu.peers = make(map[string]peerRecord)
	r.mu.met = make(map[string]uint64)
	return r, nil
}

// members returns all processes of the cluster that are believed alive, this one
// included, sorted by URL; the slice is the caller's.
//
// A URL appears once. Of several processes with one URL it is the one that was met
// there; before anybody was, the one that joined last, as this process saw it: a
// restart is more likely than a mistake. This process's own URL is always itself.
func (r *roster) members() []member {
	r.mu.Lock()
	defer r.mu.Unlock()
	latest := make(map[string]peerRecord, 1+len(r.mu.peers))
	for _, p := range r.mu.peers {
		if p.err != nil {
			continue
		}
		q, twin := latest[p.url]
		boot, met := r.mu.met[p.url]
		if !twin || met && p.boot == boot || !(met && q.boot == boot) && p.joined > q.joined {
			latest[p.url] = p
		}
	}
	latest[r.mu.self.url] = peerRecord{member: r.mu.self}
	list := make([]member, 0, len(latest))
	for _, p := range latest {
		list = append(list, p.member)
	}
	slices.SortFunc(list, func(a, b member) int { return cmp.Compare(a.url, b.url) })
	return list
}

// knows reports whether the process of this boot is alive and has this URL.
func (r *roster) knows(url string, boot uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, known := r.mu.peers[member{url: url, boot: boot}.gossipName()]
	return known && p.err == nil
}

// urlAt returns the URL of the process that gossips at an address, "" if there is none.
func (r *roster) urlAt(addr string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var latest peerRecord
	for _, p := range r.mu.peers {
		if p.addr == addr && p.joined >= latest.joined {
			latest = p
		}
	}
	return latest.url
}

// twins returns the URLs that several live processes have.
func (r *roster) twins() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := map[string]int{r.mu.self.url: 1}
	var urls []string
	for _, p := range r.mu.peers {
		if p.err != nil {
			continue
		}
		if count[p.url]++; count[p.url] == 2 {
			urls = append(urls, p.url)
		}
	}
	return urls
}

// answers notes who was met at a URL.
func (r *roster) answers(url string, boot uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, alive := r.mu.peers[member{url: url, boot: boot}.gossipName()]; alive && !r.mu.frozen {
		r.mu.met[url] = boot
	}
}

// addrs returns the gossip addresses of all others that are alive, sorted; also of
// those whose meta data keeps them out of members.
func (r *roster) addrs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	set := make(map[string]struct{}, len(r.mu.peers))
	for _, p := range r.mu.peers {
		set[p.addr] = struct{}{}
	}
	return slices.Sorted(maps.Keys(set))
}

// changed returns the channel that has a value after any change of members. It is
// for one reader, and never closed.
func (r *roster) changed() <-chan struct{} { return r.signal }

// rejections counts the members that were kept out because of their meta data, each
// time they changed it.
func (r *roster) rejections() int64 { return r.rejected.Load() }

// change sets this process's state and reports whether that is news to tell.
func (r *roster) change(s state) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	self := r.mu.self
	self.state = s
	meta, err := self.meta()
	if err != nil || r.mu.frozen || self == r.mu.self { // newRoster has seen all that can be wrong
		return false
	}
	r.mu.self, r.mu.meta = self, padded(meta)
	return true
}

// meta returns what others are to know of this process.
func (r *roster) meta() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.meta
}

// toTell reports whether others are told something else than meta.
func (r *roster) toTell() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !bytes.Equal(r.mu.meta, r.mu.told)
}

// tells notes that memberlist tells others meta of this process.
func (r *roster) tells(meta []byte) {
	meta = bytes.Clone(meta)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.told = meta
}

// put notes that the process called name is alive, at addr, and says meta of itself.
// The error says why it is kept out of members. put keeps nothing of meta.
func (r *roster) put(name, addr string, meta []byte, joined bool) error {
	m, err := parseMeta(meta)
	if err == nil && m.gossipName() != name {
		err = errors.New("its name and its meta data do not match")
	}
	if err == nil {
		var at netip.AddrPort
		if at, err = netip.ParseAddrPort(addr); err == nil && !r.proven {
			err = checkHome(m.url, at.Addr().Unmap())
		}
	}
	r.mu.Lock()
	frozen := r.mu.frozen
	if !frozen {
		p, known := r.mu.peers[name]
		if joined || !known {
			r.mu.joins++
			p.joined = r.mu.joins
		}
		p.member, p.addr, p.err = m, addr, err
		r.mu.peers[name] = p
		r.mu.lost.found(m.url, addr)
		delete(r.mu.left, m.url)
	}
	r.mu.Unlock()
	if frozen {
		return nil
	}
	if err != nil {
		r.rejected.Add(1)
	}
	notify(r.signal)
	return err
}

// drop notes that the process called name has left or is dead. Who has left said so
// before, in its state; memberlist does not tell the two apart.
func (r *roster) drop(name string) {
	r.mu.Lock()
	p, known := r.mu.peers[name]
	known = known && !r.mu.frozen
	if known {
		delete(r.mu.peers, name)
		if r.mu.met[p.url] == p.boot {
			delete(r.mu.met, p.url)
		}
		switch {
		case p.err != nil || r.replacedLocked(p):
		case p.state == stateLeaving:
			r.mu.left.add(p.url, now())
		default:
			r.mu.lost.add(p.url, p.addr, now())
		}
	}
	r.mu.Unlock()
	if known {
		notify(r.signal)
	}
}

// departed reports whether the process at a URL has left and none has come since, and when.
func (r *roster) departed(url string) (at int64, left bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, left = r.mu.left[url]
	return at, left
}

// replacedLocked reports whether a process that is alive has the URL or the address
// of p, which is not.
func (r *roster) replacedLocked(p peerRecord) bool {
	if p.url == r.mu.self.url || p.addr == r.addr {
		return true
	}
	for _, q := range r.mu.peers {
		if q.url == p.url || q.addr == p.addr {
			return true
		}
	}
	return false
}

// missed returns the addresses of lost members that it is time to try, for a process
// that last asked a time ago.
func (r *roster) missed(ago time.Duration) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.lost.draw(now(), 1+len(r.mu.peers), ago)
}

// deaths counts those that were lost since it was last asked.
func (r *roster) deaths() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.mu.lost.deaths
	r.mu.lost.deaths = 0
	return n
}

// lost counts the members that are lost now.
func (r *roster) lost() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int64(len(r.mu.lost.byURL))
}

// freeze makes everything stay as it is.
func (r *roster) freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.frozen = true
}

// notify makes a channel with room for one hold a value.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
