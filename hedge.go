package peercache

import (
	"slices"
	"sync"
	"time"
)

// Hedges: in a cache with replicas, a fetch whose owner takes its time is answered by a
// replica if that has the value in memory. The owner goes on being waited for, and nothing
// is loaded for it: an owner that is slow because it loads has no replicas of what it
// loads, and what it loads must not be loaded twice.
//
// The idea, and the share of requests that are worth repeating, are from Dean and Barroso,
// The Tail at Scale (Communications of the ACM 56, 2013).

const (
	// hedgeTick is how often fetches are looked at, while there are any.
	hedgeTick = 2500 * time.Microsecond

	// A fetch is hedged after twice the time in which hedgeQuantile of the cache's fetches
	// are answered, but not before hedgeFirst and at hedgeLast at the latest, all in ticks.
	hedgeQuantile = 0.95
	hedgeFirst    = 5 * time.Millisecond / hedgeTick
	hedgeLast     = 50 * time.Millisecond / hedgeTick

	// hedgeStep is by how much a fetch that is not answered in time moves the quantile, in
	// ticks (arbitrary: some two hundred slow ones take it from one end to the other).
	hedgeStep = 0.05

	// One fetch in hedgeShare may be hedged, whatever happens: when an owner hangs its
	// replicas are not to get all of its load at once. What was not needed is saved up, for
	// hedgeSaved hedges (arbitrary).
	hedgeShare = 20
	hedgeSaved = 64

	// maxHedged bounds the fetches of one tick that are looked at (arbitrary: 1.6 million
	// a second).
	maxHedged = 1 << 12
)

// A hedger looks after the fetches of a cache.
type hedger struct {
	engine *engine

	mu      sync.Mutex                  // guards the fields below
	buckets [hedgeLast + 1][]begunFetch // those of the last ticks, by the tick modulo their number
	tick    int                         // counts them
	usual   float64                     // in how many ticks all but 1 - hedgeQuantile are answered
	credit  int                         // hedgeShare of it are one hedge
	running bool                        // the timer is
	timer   *time.Timer                 // nil before the first fetch
}

func newHedger(e *engine) *hedger { return &hedger{engine: e} }

// watch looks after fetches that a peer was asked for. A nil hedger does not.
func (h *hedger) watch(peer string, flights ...*flight) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.credit = min(h.credit+len(flights), hedgeSaved*hedgeShare)
	bucket := h.ageLocked(0)
	for _, f := range flights[:min(len(flights), maxHedged-len(*bucket))] {
		*bucket = append(*bucket, begunFetch{f, peer})
	}
	switch {
	case h.running:
	case h.timer == nil:
		h.timer = time.AfterFunc(hedgeTick, h.look)
	default:
		h.timer.Reset(hedgeTick)
	}
	h.running = true
}

// ageLocked returns the fetches that began some ticks ago.
func (h *hedger) ageLocked(ticks int) *[]begunFetch {
	return &h.buckets[(h.tick+len(h.buckets)-ticks)%len(h.buckets)]
}

// look goes over the fetches once a tick, while there are any.
func (h *hedger) look() {
	h.mu.Lock()
	h.tick++
	h.learnLocked()
	late := h.lateLocked()
	h.running = h.engine.node.lifetime().Err() == nil &&
		slices.ContainsFunc(h.buckets[:], func(b []begunFetch) bool { return len(b) > 0 })
	if h.running {
		h.timer.Reset(hedgeTick)
	}
	h.mu.Unlock()
	h.hedge(late)
}

// learnLocked moves the quantile: up if of those that began so long ago more are still
// under way than its rest, else down.
func (h *hedger) learnLocked() {
	age := max(int(h.usual), 1)
	for _, f := range *h.ageLocked(age) {
		if f.flight.isDone() {
			h.usual -= hedgeStep * (1 - hedgeQuantile)
		} else {
			h.usual += hedgeStep * hedgeQuantile
		}
	}
	h.usual = min(max(h.usual, float64(hedgeFirst)/2), float64(hedgeLast)/2)
}

// lateLocked forgets the fetches that began twice as long ago, and returns those of them
// that are still under way, as far as the credit goes.
func (h *hedger) lateLocked() (late []begunFetch) {
	for age := int(2 * h.usual); age < len(h.buckets); age++ {
		bucket := h.ageLocked(age)
		for _, f := range *bucket {
			if h.credit >= hedgeShare && !f.flight.isDone() {
				h.credit -= hedgeShare
				late = append(late, f)
			}
		}
		clear(*bucket)
		*bucket = (*bucket)[:0]
	}
	return late
}

// hedge asks for each fetch the next owner of its key what it has in memory.
func (h *hedger) hedge(late []begunFetch) {
	e := h.engine
	if len(late) == 0 || e.node.coherence().ledger.isFresh() {
		return
	}
	r := e.ring()
	byHolder := make(map[string][]*flight)
	for _, f := range late {
		owners := r.owners(e.hash(f.flight.key), 1+e.opts.Replicas)
		i := slices.IndexFunc(owners, func(peer string) bool {
			return peer != f.owner && peer != r.url && e.node.healthy(peer)
		})
		if i >= 0 {
			f.flight.shard.hedges.Add(1)
			byHolder[owners[i]] = append(byHolder[owners[i]], f.flight)
		}
	}
	if len(byHolder) > 0 {
		e.node.background(func() { e.peekAll(byHolder) })
	}
}
