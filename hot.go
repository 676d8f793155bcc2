package peercache

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Hot keys: what peers ask of its owner so often that it burdens that is, in a cache with
// replicas, asked of these too. The owner measures it, for it hears all of them, and says
// so with its answers. Who asks chooses between two of those who hold the key, by chance,
// and takes the one that has less of its requests under way (Mitzenmacher, The Power of
// Two Choices in Randomized Load Balancing, 2001).
//
// Where processes keep copies of what they fetch, no key is asked for often: each asks
// once in HotTTL. So this is for caches that keep none, and for entries that live shortly.

const (
	// hotRate is how often in a second a key is asked for that is hot: some hundredth of
	// what a processor answers (arbitrary).
	hotRate = 1000

	// hotLife is for how long a process goes by what it was told.
	hotLife = 2 * time.Second

	// maxHot bounds the keys that a process knows to be hot (arbitrary: at hotRate they are
	// more requests than it sends).
	maxHot = 1 << 10
)

// A meter measures how often keys are asked for. Keys of the same slot are measured
// together: a key that is taken for hot without being so costs next to nothing, for its
// replicas hold it as well.
type meter struct {
	slots [1 << 10]atomic.Uint64 // a second, and how often keys were asked for in it
}

// count counts a request for the key with this hash, and reports whether that is hot.
func (m *meter) count(hash uint64) bool {
	slot := &m.slots[hash%uint64(len(m.slots))]
	second := uint64(uint32(now() / int64(time.Second)))
	for {
		old := slot.Load()
		next := old + 1
		if old>>32 != second {
			next = second<<32 | 1
		}
		if slot.CompareAndSwap(old, next) {
			return next&(1<<32-1) > hotRate
		}
	}
}

// A hotlist is what a process was told of hot keys.
type hotlist struct {
	n     atomic.Int32 // len(until): most caches have none
	mu    sync.Mutex   // guards until
	until map[string]int64
}

func newHotlist() *hotlist { return &hotlist{until: make(map[string]int64)} }

// learn notes that a key is hot. A nil hotlist forgets it.
func (h *hotlist) learn(key string) {
	if h == nil {
		return
	}
	at := now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.until[key]; !known && len(h.until) >= maxHot {
		maps.DeleteFunc(h.until, func(_ string, until int64) bool { return until <= at })
		if len(h.until) >= maxHot {
			return
		}
	}
	h.until[key] = after(at, hotLife)
	h.n.Store(int32(len(h.until)))
}

// has reports whether a key was hot lately.
func (h *hotlist) has(key string) bool {
	if h == nil || h.n.Load() == 0 {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	until, known := h.until[key]
	if !known {
		return false
	}
	if until > now() {
		return true
	}
	delete(h.until, key)
	h.n.Store(int32(len(h.until)))
	return false
}

// source returns whom to ask for a key: its owner, or if it is hot one of those who hold it.
func (e *engine) source(f begunFetch) string {
	if !e.hot.has(f.flight.key) {
		return f.owner
	}
	r := e.ring()
	holders := slices.DeleteFunc(r.owners(e.hash(f.flight.key), 1+e.opts.Replicas), func(peer string) bool {
		return peer == r.url || !e.node.healthy(peer)
	})
	if len(holders) == 0 {
		return f.owner
	}
	rand.Shuffle(len(holders), func(i, j int) { holders[i], holders[j] = holders[j], holders[i] })
	if len(holders) > 1 && e.node.underWay(holders[1]) < e.node.underWay(holders[0]) {
		return holders[1]
	}
	return holders[0]
}
