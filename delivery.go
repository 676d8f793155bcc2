package peercache

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// The delivery of removals: each peer has a box of its own, so that one that hangs holds
// up nobody else. What is in a box goes out together, and stays until the peer has
// confirmed it: for as long as pendingLife, however long ago the call has returned.

const (
	// confirmTimeout is how long Set, Remove and Clear wait for peers to confirm. It is
	// less than gossip takes to declare a peer dead, and more than a pause of the garbage
	// collector or a lost packet.
	confirmTimeout = 2 * time.Second

	// Between two attempts to reach a peer there is deliverFirst, doubling to
	// deliverLongest: what it missed it has within half a second of its return. Breakers
	// have no part in it, and any sign of life begins the next attempt at once.
	deliverFirst   = 100 * time.Millisecond
	deliverLongest = 500 * time.Millisecond

	// deliverTimeout bounds one attempt. A peer that is alive takes a millisecond.
	deliverTimeout = time.Second

	// pendingLife is how long a peer that does not confirm is tried. Then it has to ask by
	// itself, as it does anyway when it meets anybody.
	pendingLife = 10 * time.Minute

	// leavingLife is for how long a process may serve that gossip has lost while it was
	// leaving: it may have been cut off with all its entries still to be handed over.
	leavingLife = handoverTimeout + leaveTimeout + lingerTime

	// maxPending and maxPendingBytes are what waits for a peer that does not answer. Beyond
	// that they are dropped, and the peer is told that it has to catch up: it would find no
	// more in the log either. For one that answers, but slower than there are calls, it is
	// maxBacklog times that (arbitrary: so many calls wait at once in no service that is well).
	maxPending      = 10_000
	maxPendingBytes = maxLogBytes
	maxBacklog      = 10
)

var (
	errUntold  = errors.New("peercache: the peer has not confirmed yet")
	errUnheard = errors.New("peercache: another peer knows it, gossip has not told of it yet")
)

// A postman delivers the removals of one process.
type postman struct {
	with    *coherence
	pending atomic.Int64 // removals that some peer has not confirmed

	mu        sync.Mutex // guards the fields below
	boxes     map[string]*box
	strangers int // boxes of peers that had not been members when they were made
}

// A box holds what one peer has not confirmed.
type box struct {
	postman *postman
	peer    string
	knock   chan struct{} // room for one: a sign of life
	strange bool          // the peer had not been a member when the box was made

	mu      sync.Mutex // guards the fields below
	parcels []parcel   // the oldest first
	gone    int        // how many have been before them
	bytes   int        // of the parcels
	behind  uint64     // the peer has to catch up with this process's ids up to here; 0: nothing was dropped
	since   int64      // when the last was dropped
	busy    bool       // a goroutine delivers
	failing bool       // the last attempt failed
	ended   bool       // the postman has forgotten the box: nothing may be added
}

// A parcel is a removal on its way to one peer, and the call that waits for it.
type parcel struct {
	*removal
	record *wire.Record // the removal as it travels: one for all peers
	call   *tally
	since  int64
}

// departures are the URLs of processes that have left, with when that was noticed. The zero
// value is ready.
type departures map[string]int64

// add notes that a process has left, and forgets those that nothing can wait for any more.
func (d *departures) add(url string, at int64) {
	if *d == nil {
		*d = make(departures)
	}
	maps.DeleteFunc(*d, func(_ string, since int64) bool { return time.Duration(at-since) > pendingLife })
	(*d)[url] = at
}

// send has peers told of removals. The tally counts their confirmations.
func (p *postman) send(peers []string, removals []*removal, t *tally) {
	at := now()
	parcels := make([]parcel, len(removals))
	for i, r := range removals {
		parcels[i] = parcel{r, r.toWire(), t, at}
	}
	for _, peer := range peers {
		for b := p.box(peer); b != nil && !b.add(parcels); b = p.box(peer) { // it was forgotten meanwhile
		}
	}
}

// box returns the box of a peer. It is nil for one that never was a member where there are
// too many of those: the call ends without its confirmation.
func (p *postman) box(peer string) *box {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.boxes[peer]; b != nil {
		return b
	}
	b := &box{postman: p, peer: peer, knock: make(chan struct{}, 1), strange: !p.with.circle.knows(peer)}
	if b.strange {
		if p.strangers == maxMembers {
			return nil
		}
		p.strangers++
	}
	if p.boxes == nil {
		p.boxes = make(map[string]*box)
	}
	p.boxes[peer] = b
	return b
}

// forgetLocked forgets a box that has ended.
func (p *postman) forgetLocked(b *box) {
	delete(p.boxes, b.peer)
	if b.strange {
		p.strangers--
	}
}

// knock begins the next attempt to reach a peer, of which there is a sign of life.
func (p *postman) knock(peer string) {
	if p.pending.Load() == 0 {
		return
	}
	p.mu.Lock()
	b := p.boxes[peer]
	p.mu.Unlock()
	if b != nil {
		notify(b.knock)
	}
}

// retain forgets the boxes of peers that nothing is known of any more and that are empty.
func (p *postman) retain(known func(peer string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for peer, b := range p.boxes {
		if !known(peer) && b.end() {
			p.forgetLocked(b)
		}
	}
}

// forget forgets the box of a peer that is no member, if it is empty.
func (p *postman) forget(b *box) {
	if p.with.circle.has(b.peer) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.boxes[b.peer] == b && b.end() { // else another has taken its place
		p.forgetLocked(b)
	}
}

// end has nothing be added to a box that is empty. It reports whether it is.
func (b *box) end() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = b.ended || b.emptyLocked()
	return b.ended
}

func (b *box) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.emptyLocked()
}

func (b *box) emptyLocked() bool { return len(b.parcels) == 0 && b.behind == 0 && !b.busy }

// add puts copies of parcels into the box. It reports false if the box has ended.
func (b *box) add(parcels []parcel) bool {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return false
	}
	b.parcels = append(b.parcels, parcels...)
	for _, p := range parcels {
		b.bytes += p.size()
	}
	b.postman.pending.Add(int64(len(parcels)))
	b.boundLocked()
	start := !b.busy
	b.busy = true
	b.mu.Unlock()
	if start && !b.postman.with.net.background(b.work) {
		b.close(nil) // this process has left, and nobody has to be told
	}
	return true
}

// boundLocked drops what is too much for the box, the oldest first.
func (b *box) boundLocked() {
	parcels, bytes := maxPending, maxPendingBytes
	if !b.failing {
		parcels, bytes = maxBacklog*parcels, maxBacklog*bytes
	}
	n, left := 0, b.bytes
	for len(b.parcels)-n > parcels || left > bytes {
		b.behind = max(b.behind, b.parcels[n].seq)
		left -= b.parcels[n].size()
		n++
	}
	if n > 0 {
		b.since = now()
		b.dropLocked(n)
	}
}

// dropLocked takes the first n parcels out of the box.
func (b *box) dropLocked(n int) {
	b.postman.pending.Add(-int64(n))
	for _, p := range b.parcels[:n] {
		b.bytes -= p.size()
	}
	clear(b.parcels[:n])
	b.gone += n
	if b.parcels = b.parcels[n:]; len(b.parcels) == 0 {
		b.parcels = nil
	}
}

// work delivers until the box is empty, which ends it if its peer is no member: others
// know the peer, or it was one.
func (b *box) work() {
	b.deliver()
	b.postman.forget(b)
}

// deliver delivers until the box is empty.
func (b *box) deliver() {
	c := b.postman.with
	pause := deliverFirst
	for {
		batch, after, behind := b.next()
		if len(batch) == 0 && behind == 0 {
			return
		}
		members, err := b.attempt(batch, after, behind)
		switch {
		case err == nil:
			pause = deliverFirst
			for _, p := range batch {
				p.call.confirmed(b.peer, members)
			}
			continue
		case c.net.lifetime().Err() != nil:
			b.close(errLeft)
			return
		case errors.Is(err, errDraining), b.departed(err):
			b.close(nil)
			return
		}
		b.mu.Lock()
		b.failing = true
		b.boundLocked()
		for _, p := range b.parcels {
			p.call.failed(b.peer, err)
		}
		b.mu.Unlock()
		b.expire()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-b.knock:
		case <-c.net.lifetime().Done():
		}
		timer.Stop()
		pause = min(2*pause, deliverLongest)
	}
}

// departed reports whether the peer has left, when an attempt to reach it has failed. That
// gossip says so is not enough: it says the same of one that was cut off while it was
// leaving, and it may not have told yet that the process has started anew. So the peer has
// to refuse connections, since all that the box holds was sent: what a dial brought counts
// for redialLongest.
func (b *box) departed(err error) bool {
	at, left := b.postman.with.net.departed(b.peer)
	if !left {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	sent := b.since
	if n := len(b.parcels); n > 0 {
		sent = b.parcels[n-1].since
	}
	t := now()
	return refused(err) && time.Duration(t-sent) > redialLongest || time.Duration(t-at) > leavingLife
}

// next returns what goes out next, as much as fits a request, and how many were before it.
// If there is nothing, the goroutine that asks is done.
func (b *box) next() (batch []parcel, after int, behind uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, keys := 0, 0
	for n < len(b.parcels) && keys+max(len(b.parcels[n].keys), 1) <= wire.MaxKeys {
		keys += max(len(b.parcels[n].keys), 1)
		n++
	}
	b.busy = n > 0 || b.behind > 0
	return slices.Clone(b.parcels[:n]), b.gone, b.behind
}

// attempt sends a batch, and takes it out of the box if the peer confirms it. It returns
// whom the peer knows.
func (b *box) attempt(batch []parcel, after int, behind uint64) (members audience, err error) {
	c := b.postman.with
	if c.vetting != nil && !c.circle.knows(b.peer) && c.vetting() {
		return members, errUnheard // a sign of life follows when gossip tells of it
	}
	if behind > 0 {
		if err := c.awaken(b.peer, behind); err != nil {
			return members, err
		}
	}
	if len(batch) > 0 {
		members = c.audience()
		records := make([]*wire.Record, len(batch))
		for i, p := range batch {
			records[i] = p.record
		}
		resp, err := c.call(b.peer, &wire.Request{Op: &wire.Request_Invalidate{Invalidate: &wire.Invalidate{
			Records: records, Members: members.hash,
		}}}, deliverTimeout)
		if err != nil {
			return members, err
		}
		if len(resp.GetMembers()) > 0 {
			members = audience{peers: resp.GetMembers()}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failing = false
	if b.behind == behind {
		b.behind = 0
	}
	b.dropLocked(max(after+len(batch)-b.gone, 0)) // some may have been dropped meanwhile
	return members, nil
}

// expire gives up what nobody has confirmed for too long.
func (b *box) expire() {
	at := now()
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for n < len(b.parcels) && time.Duration(at-b.parcels[n].since) > pendingLife {
		n++
	}
	b.dropLocked(n)
	if time.Duration(at-b.since) > pendingLife {
		b.behind = 0
	}
}

// close empties the box for good: its peer has left, which is as good as a confirmation,
// or this process has.
func (b *box) close(err error) {
	b.mu.Lock()
	left := slices.Clone(b.parcels)
	b.dropLocked(len(left))
	b.behind, b.busy = 0, false
	b.mu.Unlock()
	for _, p := range left {
		if err == nil {
			p.call.confirmed(b.peer, audience{})
		} else {
			p.call.failed(b.peer, err)
		}
	}
}
