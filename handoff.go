package peercache

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/consistenthash"
	"github.com/peercache/peercache/internal/wire"
)

// Handing over: how entries get from one memory to another instead of being loaded again.
// When the ring changes, who holds an entry sends it to those who have become its owners,
// the hottest entries first; so does a node that leaves, with all that it holds. The
// owner of a key sends what it has loaded, or was given by a Set, to the key's replicas.
// What is needed before it has come is asked for (peek.go).
//
// What travels has the ids of all invalidations that were applied to the key when the
// value was born. It is kept only where these cover what the receiver has applied: nothing
// that was removed comes back.

const (
	// moveQuiet is how long a ring has to stand before entries follow it: others hear of
	// the change tenths of a second earlier or later.
	moveQuiet = 500 * time.Millisecond

	// A batch of entries is what one request holds. One goes after the other.
	batchKeys  = 512
	batchBytes = 1 << 20

	// sendBytes is how many bytes a second go to one peer at most, so that Gets do not
	// suffer: half of a gigabit link (arbitrary).
	sendBytes = 64 << 20

	// sendKeys is how many keys wait to go to one peer. Entries are looked up when it is
	// their turn, so that only the keys take memory.
	sendKeys = 1 << 18

	// pushTimeout bounds one batch, and a peer that takes none is tried once more after
	// pushRetry: it may be about to hear where it stands.
	pushTimeout = time.Second
	pushRetry   = 250 * time.Millisecond

	// handoverTimeout bounds how long a node that leaves hands over.
	handoverTimeout = 5 * time.Second
)

// A mover sends entries of a process's caches to others.
type mover struct {
	net     network
	engines func() []*engine
	waiting atomic.Int64  // keys that wait to be sent
	idle    chan struct{} // room for one: a sender has nothing to send

	mu      sync.Mutex // guards the fields below
	senders map[string]*sender
	from    *consistenthash.Table // the oldest that entries have not followed from
	timer   *time.Timer
	stopped bool
}

// A sender sends to one peer.
type sender struct {
	mover *mover
	peer  string

	// Of the goroutine that sends: what the peer's clock said, 0 if that is not known,
	// and when.
	clock   uint64
	clockAt int64

	mu    sync.Mutex // guards the fields below
	queue []crate
	busy  bool
}

// A crate is one entry to be sent, as long as it is there.
type crate struct {
	engine *engine
	key    string
}

func newMover(net network, engines func() []*engine) *mover {
	return &mover{net: net, engines: engines, idle: make(chan struct{}, 1), senders: make(map[string]*sender)}
}

// turned has entries follow a change of the ring, once that stands.
func (m *mover) turned(from *consistenthash.Table) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return
	}
	if m.from == nil {
		m.from = from
	}
	if m.timer == nil {
		m.timer = time.AfterFunc(moveQuiet, m.follow)
		return
	}
	m.timer.Reset(moveQuiet)
}

func (m *mover) follow() {
	m.net.background(func() {
		m.mu.Lock()
		from := m.from
		m.from = nil
		m.mu.Unlock()
		if r := m.net.view(); from != nil && !r.left {
			m.move(from, r.table, false)
		}
	})
}

// stop ends what turned began.
func (m *mover) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	if m.timer != nil {
		m.timer.Stop()
	}
}

// move has entries sent that are to be elsewhere by another table, and returns how many.
// leaving says that this process is not in that because it leaves.
func (m *mover) move(from, to *consistenthash.Table, leaving bool) (sent int) {
	p := newPlan(from, to, m.net.view().url, leaving)
	if p.nothing() {
		return 0
	}
	for _, e := range m.engines() {
		copies := 1 + e.opts.Replicas
		wanted := func(key string, rec record) bool {
			return rec.flags&copiedRecord == 0 && len(p.targets(e.hash(key), copies)) > 0
		}
		for _, entry := range e.store.items.HottestOf(sendKeys, now(), wanted) {
			for _, peer := range p.targets(e.hash(entry.Key), copies) {
				m.send(peer, e, entry.Key)
				sent++
			}
		}
	}
	return sent
}

// send has an entry sent to a peer, unless too much waits for that.
func (m *mover) send(peer string, e *engine, key string) {
	m.mu.Lock()
	s := m.senders[peer]
	if s == nil {
		s = &sender{mover: m, peer: peer}
		m.senders[peer] = s
	}
	m.mu.Unlock()
	s.mu.Lock()
	if len(s.queue) >= sendKeys {
		s.mu.Unlock()
		return
	}
	s.queue = append(s.queue, crate{e, key})
	m.waiting.Add(1)
	start := !s.busy
	s.busy = true
	s.mu.Unlock()
	if start && !m.net.background(s.run) {
		s.drop()
	}
}

// retain forgets the senders to peers that are gone.
func (m *mover) retain(known func(peer string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for peer, s := range m.senders {
		if !known(peer) && s.isIdle() {
			delete(m.senders, peer)
		}
	}
}

func (s *sender) isIdle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.busy
}

// drain waits until nothing waits to be sent, or ctx ends.
func (m *mover) drain(ctx context.Context) {
	for m.waiting.Load() > 0 {
		select {
		case <-m.idle:
		case <-ctx.Done():
			return
		}
	}
}

// run sends what waits, batch by batch.
func (s *sender) run() {
	for failed := false; ; {
		batch := s.next()
		if len(batch) == 0 {
			return
		}
		n, size, err := s.push(batch)
		s.sent(n)
		pause := time.Duration(size) * time.Second / sendBytes
		switch {
		case err == nil:
			failed = false
		case failed || s.mover.net.lifetime().Err() != nil:
			s.drop()
			return
		default:
			failed = true
			pause = pushRetry
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.mover.net.lifetime().Done():
		}
		timer.Stop()
	}
}

// next returns the crates of one cache that come next. If there are none, the goroutine
// that asks is done.
func (s *sender) next() []crate {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < min(len(s.queue), batchKeys) && s.queue[n].engine == s.queue[0].engine {
		n++
	}
	s.busy = n > 0
	if n == 0 {
		s.queue = nil
		notify(s.mover.idle)
	}
	return s.queue[:n:n]
}

// sent takes the first n crates out of the queue.
func (s *sender) sent(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.queue[:n])
	s.queue = s.queue[n:]
	s.mover.waiting.Add(-int64(n))
}

// drop empties the queue: the peer takes nothing, or this process has left.
func (s *sender) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mover.waiting.Add(-int64(len(s.queue)))
	s.queue, s.busy = nil, false
	notify(s.mover.idle)
}

// push sends the first of a batch, as many as fit a request. It returns how many they are
// and how large.
func (s *sender) push(batch []crate) (n, size int, err error) {
	e := batch[0].engine
	if s.clock == 0 {
		if err := s.call(e, &wire.Push{}, pushTimeout, 0); err != nil {
			return 0, 0, err
		}
	}
	push := &wire.Push{Applied: s.mover.net.coherence().ledger.applied().toWire()} // first: what comes meanwhile is with the entries
	start := now()
	for n < len(batch) && size < batchBytes {
		if entry := e.entryFor(batch[n].key); entry != nil {
			push.Entries = append(push.Entries, entry)
			size += len(entry.GetKey()) + len(entry.GetValue())
		}
		n++
	}
	if len(push.GetEntries()) == 0 {
		return n, 0, nil
	}
	if err = s.call(e, push, pushTimeout+transit(size), start); err != nil {
		return 0, 0, err
	}
	e.store.shard(batch[0].key).handed.Add(int64(len(push.GetEntries())))
	return n, size, nil
}

// call sends a push, whose entries have the lives that they had at a time. The peer finds
// out by its clock for how long it was on its way, which may be long where one of the two
// was stopped.
func (s *sender) call(e *engine, push *wire.Push, timeout time.Duration, at int64) error {
	push.Mark, push.MarkAgeMs = s.clock, uint64(max(at-s.clockAt, 0)/int64(time.Millisecond))
	resp, err := s.mover.net.coherence().call(s.peer, &wire.Request{Cache: e.name, Op: &wire.Request_Push{Push: push}}, timeout)
	s.clock, s.clockAt = resp.GetMark(), now() // 0 after an error: the peer may be another process next
	return err
}

// A plan tells where entries go when one table follows another.
type plan struct {
	from, to *consistenthash.Table
	self     string
	leaving  bool
	stays    map[string]bool // who is in to
}

func newPlan(from, to *consistenthash.Table, self string, leaving bool) *plan {
	p := &plan{from: from, to: to, self: self, leaving: leaving, stays: make(map[string]bool)}
	for _, n := range to.Nodes() {
		p.stays[n.ID] = true
	}
	return p
}

// nothing reports whether nobody is left to send anything to.
func (p *plan) nothing() bool { return p.to.Len() == 0 || p.to.Len() == 1 && p.stays[p.self] }

// targets returns whom this process sends the entry of a key to, of which there are to be
// copies. It is for the first of those who had it and are still there to send it, and for
// one that leaves; all who are to have it and had it not get it. What one that leaves
// holds though it is others' by now, these may not have got yet.
func (p *plan) targets(hash uint64, copies int) []string {
	slot := consistenthash.Slot(hash)
	var rooms [2][mayActOwnersMax]int
	had := p.from.AppendOwners(rooms[0][:0], slot, copies)
	isSelf := func(i int) bool { return p.from.Nodes()[i].ID == p.self }
	switch {
	case !p.leaving:
		first := slices.IndexFunc(had, func(i int) bool { return isSelf(i) || p.stays[p.from.Nodes()[i].ID] })
		if first < 0 || !isSelf(had[first]) {
			return nil
		}
	case !slices.ContainsFunc(had, isSelf):
		had = nil
	}
	var targets []string
	for _, i := range p.to.AppendOwners(rooms[1][:0], slot, copies) {
		url := p.to.Nodes()[i].ID
		hadIt := slices.ContainsFunc(had, func(i int) bool { return p.from.Nodes()[i].ID == url })
		if url != p.self && !hadIt {
			targets = append(targets, url)
		}
	}
	return targets
}
