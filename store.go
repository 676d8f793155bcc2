package peercache

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/consistenthash"
	"github.com/peercache/peercache/lru"
)

// What a cache holds: an lru of records and, in shards, the flights that will
// fill it. Storing and removing happen under the shard's mutex together with
// the flights they concern; a hit takes only the lru's own lock. Which items are
// worth keeping is decided in engine.go and load.go.

// shardCount is how many parts a store has. It bounds how many goroutines can
// start or end flights at once without meeting; 64 is plenty for any machine
// and costs 12 KiB (arbitrary).
const shardCount = 64

// A store is what one cache holds in one process.
type store struct {
	seed   maphash.Seed
	shards [shardCount]shard
	items  *lru.Cache[record]
	born   int64 // when the cache was made
	clock  clock

	view     func() *ring // nil for a cache without a node
	hash     uint64       // seed of the hash that finds owners
	mayAct   int          // how many owners of a key may act for it
	hotTTL   time.Duration
	staleFor time.Duration
	margin   int64 // what the lru keeps for longer than this is within its life, whatever the clock

	// Of invalidations, in a cache on a node.
	fence    *fence
	age      func(ids)           // hears what is not remembered with keys any more, before it is not
	clearing sync.Mutex          // held while everything is dropped
	cleared  atomic.Pointer[ids] // of Clears, remembered for all keys
	clearAt  int64               // when the last came; guarded by clearing
}

type shard struct {
	counters

	mu      sync.Mutex // guards the fields below
	flights [flightKinds]map[string]*flight
	memory  memory // of invalidations
	closed  bool

	_ [64]byte // keeps neighbours off this shard's last cache line
}

func newStore(hash uint64, opts Options, net network) *store {
	s := &store{
		seed:   maphash.MakeSeed(),
		items:  lru.New[record](lru.Options[record]{MaxBytes: opts.MaxBytes}),
		born:   now(),
		hash:   hash,
		mayAct: max(mayActOwners, 2+opts.Replicas),
		hotTTL: max(opts.HotTTL, 0),

		staleFor: opts.StaleFor,
	}
	if net != nil {
		s.view = net.view
		s.fence = net.coherence().fence
		s.age = net.coherence().ledger.age
	}
	s.clock.coarse = net == nil
	s.margin = int64(s.staleFor)
	if s.clock.coarse {
		s.margin += int64(lag)
	}
	s.clock.now.Store(now())
	for i := range s.shards {
		for kind := range s.shards[i].flights {
			s.shards[i].flights[kind] = make(map[string]*flight)
		}
	}
	return s
}

func (s *store) shard(key string) *shard {
	return &s.shards[maphash.String(s.seed, key)%shardCount]
}

// A sighting is how a record was found in memory.
type sighting uint8

const (
	missing  sighting = iota
	plain             // within its life, and nothing has changed since it was stored
	doubtful          // judge says whether it may be served
)

// get returns the record of key, for a caller in this process, and when the lru drops
// it. It is all that most hits do: no allocation, no lock but that of the lru's shard,
// no system call without a node. The lru counts it.
func (s *store) get(key string) (rec record, expires int64, seen sighting) {
	// What is not there costs no reading of the clock.
	rec, expires, ok := s.items.GetTerms(key, past)
	if !ok {
		return rec, 0, missing
	}
	at := s.clock.time()
	seen = s.sighted(rec, expires, at)
	if seen == doubtful && expires <= at {
		// The lru drops it when it is looked for at that time, and counts that as a Get.
		sh := s.shard(key)
		sh.uncount(rec)
		sh.notGets.Add(1)
		return s.getAt(key, at)
	}
	return rec, expires, seen
}

// getAt is get at a time.
func (s *store) getAt(key string, at int64) (rec record, expires int64, seen sighting) {
	rec, expires, ok := s.items.GetTerms(key, at)
	if !ok {
		return rec, 0, missing
	}
	return rec, expires, s.sighted(rec, expires, at)
}

// sighted says whether a record that is there at a time is to be judged.
func (s *store) sighted(rec record, expires, at int64) sighting {
	if expires-at <= s.margin || s.view != nil && (rec.ring != s.view().version || at > s.fence.until.Load()) {
		return doubtful
	}
	return plain
}

// getForPeer returns the item of key for a peer that asks at a time: a use like any other,
// but no Get.
func (s *store) getForPeer(key string, at int64) (it item, stale, ok bool) {
	sh := s.shard(key)
	sh.served.Add(1)
	rec, expires, seen := s.getAt(key, at)
	sh.notGets.Add(1)
	if seen == missing {
		return it, false, false
	}
	sh.uncount(rec)
	if seen == plain {
		return s.itemOf(rec, expires), false, true
	}
	return s.judge(key, rec, expires, at)
}

// look returns the item of key if it may be served, for those who only look: it
// counts nothing.
func (s *store) look(key string) (it item, stale, ok bool) {
	rec, expires, ok := s.items.PeekTerms(key, past)
	if !ok {
		return it, false, false
	}
	return s.judge(key, rec, expires, now())
}

// judge says of what the lru holds whether it may be served at a time, and by this node.
// It is stale if that is so only because of StaleFor. The time is the exact one: the coarse
// clock cannot tell what is late in its life.
func (s *store) judge(key string, rec record, expires, at int64) (it item, stale, ok bool) {
	it = s.itemOf(rec, expires)
	if expires <= at {
		return it, false, false
	}
	if s.view == nil {
		return it, it.expires <= at, true
	}
	if !s.fence.open(at) {
		return it, false, false
	}
	r := s.view()
	if it.ring != r.version {
		if it, ok = s.reconsider(key, it, r, at); !ok {
			return it, false, false
		}
	}
	if it.expires > at {
		return it, false, true
	}
	stale = r.mayAct(consistenthash.Hash(s.hash, key), s.mayAct, at)
	return it, stale, stale
}

// fresh returns the item of key if it is within its life, for those who only look.
func (s *store) fresh(key string) (item, bool) {
	it, stale, ok := s.look(key)
	return it, ok && !stale
}

// peek is fresh by the exact clock.
func (s *store) peek(key string) (item, bool) {
	at := now()
	rec, expires, ok := s.items.PeekTerms(key, at)
	if !ok {
		return item{}, false
	}
	it := s.itemOf(rec, expires)
	if s.view != nil {
		if !s.fence.open(at) {
			return item{}, false
		}
		if r := s.view(); it.ring != r.version {
			it, ok = s.reconsider(key, it, r, at)
		}
	}
	return it, ok && it.expires > at
}

// reconsider looks at an item under a ring that is newer than what was known
// when it was stored. Where this node may no longer act for the key the item is
// a copy from now on. It is asked once for each ring, but again and again while the node
// may act by an older table only: for as long the item keeps all of its life, with which
// it may be handed to the new owner.
func (s *store) reconsider(key string, it item, r *ring, at int64) (item, bool) {
	until := r.mayActUntil(consistenthash.Hash(s.hash, key), s.mayAct, at)
	if !r.left && !it.copied && until > at && until != never {
		return it, true
	}
	var seen item
	ok := s.update(key, at, func(it *item) {
		switch {
		case r.left:
			it.ring = r.version
			it.asCopy(after(r.leftAt, s.hotTTL))
		case it.copied || until == never:
			it.ring = r.version
		case until <= at:
			it.ring = r.version
			it.asCopy(after(at, s.hotTTL))
		}
		seen = *it
	})
	return seen, ok && s.terms(seen).Expires > at
}

// update has f change the item of key in one step, if there is one that the lru has
// not dropped, and reports whether it did. f may run twice and must not call the
// store.
func (s *store) update(key string, at int64, f func(it *item)) bool {
	return s.items.Update(key, at, func(rec record, t lru.Terms) (record, lru.Terms) {
		it := s.itemOf(rec, t.Expires)
		f(&it)
		return s.recordOf(it), s.terms(it)
	})
}

// join returns the item of key if it is fresh by now, or its flight of this
// kind, which is new and the caller's to run if started is true. own says that a
// load is on behalf of a node that may act for the key, by the ring of this
// version.
//
// Looking again under the mutex is what makes loads one: a flight that ended
// after the caller's miss stored its value before it freed the slot.
func (s *store) join(kind flightKind, key string, version uint32, own bool) (it item, f *flight, started bool, err error) {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return item{}, nil, false, ErrClosed
	}
	if it, ok := s.fresh(key); ok {
		return it, nil, false, nil
	}
	f = sh.flights[kind][key]
	if f != nil && s.fence != nil && !s.fence.open(now()) && f.pauses != s.fence.pauses() {
		// It began before the process was stopped: what it brings may be as old as what
		// is in memory (TestGetBehindTheFenceJoinsNothingFromBeforeThePause).
		s.unlinkLocked(sh, f)
		f = nil
	}
	if f == nil {
		f = &flight{key: key, kind: kind, shard: sh, ring: version, done: make(chan struct{})}
		f.need = s.knownLocked(sh, key)
		if s.fence != nil {
			f.pauses = s.fence.pauses()
		}
		sh.flights[kind][key] = f
		started = true
	}
	f.own = f.own || own
	f.ring = min(f.ring, version)
	return item{}, f, started, nil
}

// begin gives a flight the function that ends its context, unless the flight has
// ended already because the cache was closed; it reports whether it has not.
func (s *store) begin(f *flight, cancel func()) bool {
	sh := f.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f.cancel = cancel
	return !f.ended
}

// end gives a flight its outcome, unless it has one: stores the item, frees the
// slot, wakes who waits, in this order. A Get that finds the slot free must find
// the item too, or it would load again. It reports whether the outcome was taken.
func (s *store) end(f *flight, out outcome) bool {
	sh := f.shard
	sh.mu.Lock()
	if f.ended {
		sh.mu.Unlock()
		return false
	}
	f.ended = true
	out.item.ring = f.ring
	if f.kind == loadFlight && !f.own {
		out.item.asCopy(out.copyUntil)
	}
	if !f.detached {
		s.settleLocked(f, out)
		delete(sh.flights[f.kind], f.key)
	}
	f.outcome = out
	sh.mu.Unlock()
	close(f.done)
	for _, w := range f.watchers { // nobody adds to them once it has ended
		w.by.flightEnded(f, w.i)
	}
	return true
}

// settleLocked does with an outcome what is to be done in memory. What was there
// before can only be a stale item, for fresh ones start no flight; or what a peer has
// pushed since, which is better than a copy of the same.
func (s *store) settleLocked(f *flight, out outcome) {
	answered := out.err == nil || out.item.absent
	switch {
	case out.settled:
	case answered && !out.item.fleeting:
		if !out.item.copied || !s.pushedLocked(f.key) {
			s.keepLocked(f.key, out.item)
		}
	case s.staleFor == 0: // nothing can be there that is to go
	case answered && out.item.copied && s.pushedLocked(f.key):
	case answered:
		s.forget(f.key) // there is something else now, and it is not to be kept
	default:
		s.postpone(f.key)
	}
}

// pushedLocked reports whether a key that had a flight has a fresh item that is no copy:
// the owner's replica, say, came before its answer
// (TestCopyDoesNotReplaceWhatWasPushedMeanwhile).
func (s *store) pushedLocked(key string) bool {
	it, stale, ok := s.look(key)
	return ok && !stale && !it.copied
}

// The pause between loads that are to replace a stale item and fail.
const (
	retryFirst   = 100 * time.Millisecond
	retryLongest = 5 * time.Second
	retryUnit    = 10 * time.Millisecond
)

// postpone puts off the next load for a stale item, by twice the last pause and
// shortened by up to a fifth at random, so that what failed together is not tried
// again together.
func (s *store) postpone(key string) {
	at := now()
	s.update(key, at, func(it *item) {
		pause := min(retryFirst<<min(it.failures, 10), retryLongest)
		it.failures = min(it.failures, 100) + 1
		it.retry = s.retryTick(at + int64(pause-rand.N(pause/5)))
	})
}

// due reports whether a stale item may be replaced by a load now.
func (s *store) due(it item) bool {
	left := int32(it.retry - s.retryTick(now()))
	return it.failures == 0 || left <= 0 || left > int32(retryLongest/retryUnit)
}

// retryTick is a time as items have it: in units of retryUnit since the cache was
// made, modulo 2^32, which is 497 days. What lies further ahead than the longest
// pause is long past.
func (s *store) retryTick(at int64) uint32 {
	return uint32((at - s.born) / int64(retryUnit))
}

// abort ends a flight that the cache no longer waits for, and its context.
func (s *store) abort(f *flight, err error) {
	s.end(f, outcome{err: err})
	sh := f.shard
	sh.mu.Lock()
	cancel := f.cancel
	sh.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// keepLocked puts an item into the lru. The shard's mutex is held, or a removal
// that ran meanwhile would be undone.
func (s *store) keepLocked(key string, it item) {
	s.items.Set(key, now(), s.recordOf(it), s.terms(it))
}

// inflate charges the decoded form of an item that was kept without it. If
// there is no room for both the item goes.
func (s *store) inflate(key string, it item) {
	same := false
	ok := s.update(key, now(), func(kept *item) {
		same = kept.decoded == it.decoded
		kept.inflated = kept.inflated || same
	})
	if !ok && same { // same is a hint: at worst a newer item goes
		s.forget(key)
	}
}

// forget drops what is held for key and leaves its flights alone: what they
// will bring is no worse than what goes.
func (s *store) forget(key string) { s.items.Remove(key) }

// close drops everything and ends all flights with ErrClosed.
func (s *store) close() {
	for i := range s.shards {
		sh := &s.shards[i]
		var flights []*flight
		sh.mu.Lock()
		sh.closed = true
		for kind := range sh.flights {
			for key, f := range sh.flights[kind] {
				delete(sh.flights[kind], key)
				f.detached = true
				flights = append(flights, f)
			}
		}
		sh.mu.Unlock()
		for _, f := range flights {
			s.abort(f, ErrClosed)
		}
	}
	s.items.Clear()
}
