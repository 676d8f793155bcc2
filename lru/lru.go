// Package lru is a store of values by string key, bounded by bytes: the sum of
// what its entries are charged for never exceeds the bound, at no moment and
// under any concurrency. Entries expire, and when room is needed those make it
// that are least likely to be asked for again. The name is the trade's for such a
// store; least recent use is only one of the things it goes by: see policy.go.
//
// An entry is major or minor. Minor entries are for what is welcome but not
// missed, such as copies of what lives elsewhere: they have a bound of their own
// within that of the cache, and make room for major ones before any of these
// does. See [Terms].
//
// The keys are spread over shards, each behind one mutex. The bounds are not
// divided among them: they are numbers for the whole cache, taken from before an
// entry goes in and given back after one has gone out, so that an entry of up to
// the whole bound fits whatever the number of shards.
//
// The package knows no clock, no loader and no network, and starts neither
// goroutines nor timers. Every call that depends on time is told what time it
// is: nanoseconds of any one clock of the caller's, which may be negative. No
// value of it means "none"; an entry that never expires expires at
// [math.MaxInt64].
package lru

import (
	"hash/maphash"
	"math/bits"
	"runtime"
	"sync"
)

// Overhead is what an entry is charged for beside its key and its value, in
// bytes: its node, without the V, which belongs to the size that the caller names;
// its share of the index and of the sketch; and what the allocator rounds up for
// key and value. Measured with Go 1.26 on 64 bits, all that is from 59 bytes, where
// nothing was ever evicted, to 82; TestHeapIsWhatIsCharged holds it against the heap.
const Overhead = 72

// minorShare is the part of MaxBytes that minor entries may take by default: one
// eighth, arbitrary.
const minorShare = 8

// The default number of shards: enough for each processor to find one that is free; one
// for each maxShardBytes at least, for when its index grows a shard stands still, a few
// hundred microseconds for the entries of so many bytes; but none with less than
// minShardBytes, for the policy of a shard of few entries cannot tell what they are worth
// (below a few hundred it costs half a point of hit ratio).
const (
	shardsPerProc = 16
	maxShards     = 1024
	minShardBytes = 1 << 20
	maxShardBytes = 4 << 20
)

// Options configures a [Cache].
type Options[V any] struct {
	// MaxBytes bounds the sum of len(key) + Size + [Overhead] over all
	// entries. Zero or less keeps nothing.
	MaxBytes int64

	// MinorBytes bounds the same sum over the minor entries, which count
	// towards MaxBytes too. Zero means an eighth of MaxBytes, and more than
	// MaxBytes means MaxBytes; less than zero keeps no minor entry.
	MinorBytes int64

	// Shards is the number of independently locked parts, rounded up to a
	// power of two. Zero or less means 16 for each of GOMAXPROCS or one for each
	// 4 MiB of MaxBytes, whichever is more, at most 1,024 and at most one for each
	// MiB.
	Shards int

	// OnDeparture, if it is not nil, is called once for each entry that is not in
	// the cache any more, also for a value that another has replaced; not for a
	// value that Set refused, and not for one that Update has changed. It runs on
	// the goroutine whose call made the entry go, before that call returns and
	// without any lock held: it may call the cache. Calls come from many
	// goroutines at once, and those of two goroutines in no order.
	OnDeparture func(key string, v V, cause Cause)
}

// A Cause is why an entry left a [Cache].
type Cause uint8

// The causes.
const (
	Evicted  Cause = iota // to make room
	Expired               // found at or after its expiry
	Removed               // by Remove or RemoveFunc
	Replaced              // by a Set of its key, also one that kept nothing
	Cleared               // by Clear
	causes
)

// String returns the name of the cause in lower case.
func (c Cause) String() string {
	if c >= causes {
		return "unknown"
	}
	return [causes]string{"evicted", "expired", "removed", "replaced", "cleared"}[c]
}

// Terms are what an entry is kept under.
type Terms struct {
	// Size is the number of bytes of the value: the V itself, as
	// [unsafe.Sizeof] has it, and what only it refers to. Less than zero counts
	// as zero. An entry of 4 GiB and more is not kept.
	Size int64

	// Expires is when the entry is fresh no more.
	Expires int64

	// Minor entries are bounded by MinorBytes and evicted first. Room for a
	// major entry is made by the minor ones, of whatever shard, and by major
	// ones only when none are left. Room for a minor entry is made by minor
	// ones where MinorBytes would be exceeded, and else by major ones: a cache
	// that is full of major entries could never keep a minor one otherwise. So
	// minor entries displace major ones, but never by more than MinorBytes.
	Minor bool
}

// Stats counts what happened to a [Cache] since it was made.
type Stats struct {
	Hits      int64 // Gets that found a fresh entry
	MinorHits int64 // of these, a minor one
	Misses    int64 // Gets that did not

	// Entries that left, by cause.
	Evictions, Expirations, Removals, Replacements, Cleared int64
}

// A Cache is a byte-bounded store of values by key. All methods are safe for
// concurrent use. Keys are copied.
type Cache[V any] struct {
	seed        maphash.Seed
	shards      []shard[V]
	onDeparture func(key string, v V, cause Cause)
	minorBytes  int64 // as Options had it

	_ [64]byte // a hit reads what is above; every insertion writes what is below

	budget budgets

	// gathering is held by the one call that is collecting room from all the
	// shards. Two that each held half of what they need would wait for each
	// other for ever; those that find enough at once take it in one step under
	// their shard's mutex and hold nothing. Locked before any shard's mutex.
	gathering sync.Mutex
}

// New returns an empty cache.
func New[V any](opts Options[V]) *Cache[V] {
	n := opts.Shards
	if n <= 0 {
		n = min(max(shardsPerProc*runtime.GOMAXPROCS(0), int(min(opts.MaxBytes/maxShardBytes, maxShards))), maxShards)
	}
	n = 1 << bits.Len(uint(n-1))
	if fit := max(1, min(opts.MaxBytes/minShardBytes, maxShards)); opts.Shards <= 0 && n > int(fit) {
		n = 1 << (bits.Len(uint(fit)) - 1) // rounded down: none is to have less
	}
	c := &Cache[V]{
		seed:        maphash.MakeSeed(),
		shards:      make([]shard[V], n),
		onDeparture: opts.OnDeparture,
		minorBytes:  opts.MinorBytes,
	}
	for i := range c.shards {
		c.shards[i].watched = opts.OnDeparture != nil
	}
	c.bound(opts.MaxBytes)
	return c
}

// bound sets the budgets.
func (c *Cache[V]) bound(maxBytes int64) {
	maxBytes = max(maxBytes, 0)
	minor := min(max(c.minorBytes, 0), maxBytes)
	if c.minorBytes == 0 {
		minor = maxBytes / minorShare
	}
	c.budget.all.max.Store(maxBytes)
	c.budget.minor.max.Store(minor)
}

// Get returns the value of key if it is there and has not expired, and counts as
// a use. An expired entry is dropped. Get does not allocate.
func (c *Cache[V]) Get(key string, now int64) (V, bool) {
	v, _, ok := c.GetTerms(key, now)
	return v, ok
}

// GetTerms is Get for those who want to know until when the entry is kept, too.
func (c *Cache[V]) GetTerms(key string, now int64) (v V, expires int64, ok bool) {
	s, hash := c.home(key)
	s.mu.Lock()
	r := s.findLocked(hash, key)
	if r == 0 {
		s.misses++
		s.mu.Unlock()
		return v, 0, false
	}
	n := s.slab.node(r)
	if n.expired(now) {
		s.misses++
		c.budget.release(s.removeLocked(r, Expired))
		c.unlock(s)
		return v, 0, false
	}
	if n.uses < maxUses {
		n.uses++
	}
	s.hits[n.queue]++
	v, expires = n.v, n.expires
	s.mu.Unlock()
	return v, expires, true
}

// Peek returns the value of key if it is there and has not expired, and changes
// nothing.
func (c *Cache[V]) Peek(key string, now int64) (V, bool) {
	v, _, ok := c.PeekTerms(key, now)
	return v, ok
}

// PeekTerms is to Peek what [Cache.GetTerms] is to Get.
func (c *Cache[V]) PeekTerms(key string, now int64) (v V, expires int64, ok bool) {
	s, hash := c.home(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.findLocked(hash, key)
	if r == 0 || s.slab.node(r).expired(now) {
		return v, 0, false
	}
	n := s.slab.node(r)
	return n.v, n.expires, true
}

// Set stores v under key on the terms t and makes room for it. What it replaces may
// be of either class. A key that is new to the cache begins in a queue for what has
// yet to prove itself; one that was there keeps its place.
//
// Each Set also looks at a few entries of the shard, in turn, and drops those that
// have expired, so that what is never asked for again does not stay for ever.
//
// Set reports whether v was kept. It is not if it would exceed MaxBytes by
// itself, or MinorBytes if it is minor, or has expired already, or, which takes
// a storm of concurrent calls, if everybody else was quicker to take the room
// made for it. Whatever was there under key before is gone then, too.
func (c *Cache[V]) Set(key string, now int64, v V, t Terms) bool {
	bytes := charge(key, t.Size)
	if !c.admits(bytes, t) || t.Expires <= now {
		c.remove(key, Replaced)
		return false
	}
	at, hash := c.spot(key)
	s := &c.shards[at]

	s.mu.Lock()
	c.budget.release(s.sweepLocked(now))
	// What is replaced pays for its successor: only the difference is taken,
	// or given back once the smaller one is in place.
	r := s.findLocked(hash, key)
	if r == 0 && !t.Minor {
		entries, small := s.majorsLocked()
		s.policy.missed(hash, entries, small)
	}
	growth := roomOf(bytes, t.Minor).minus(s.chargedLocked(r))
	if c.roomLocked(s, growth, r, now) {
		s.putLocked(r, hash, key, v, bytes, t)
		c.budget.release(room{}.minus(growth))
		c.unlock(s)
		return true
	}
	if r != 0 {
		c.budget.release(s.removeLocked(r, Replaced))
	}
	c.unlock(s)
	return c.setGathered(key, now, v, t)
}

// setGathered is Set for an entry for which its own shard cannot make room.
func (c *Cache[V]) setGathered(key string, now int64, v V, t Terms) bool {
	bytes := charge(key, t.Size)
	at, hash := c.spot(key)
	s := &c.shards[at]

	c.gathering.Lock()
	ok, gone := c.gather(roomOf(bytes, t.Minor), at, 0, now)
	if ok {
		s.mu.Lock()
		// Another Set of the key may have come in between; it came first, then.
		r := s.findLocked(hash, key)
		replaced := s.chargedLocked(r)
		s.putLocked(r, hash, key, v, bytes, t)
		c.budget.release(replaced)
		gone = append(gone, s.takeGoneLocked()...)
		s.mu.Unlock()
	}
	c.gathering.Unlock()
	c.report(gone)
	return ok
}

// Remove drops the entry of key and reports whether there was one, fresh or
// expired.
func (c *Cache[V]) Remove(key string) bool { return c.remove(key, Removed) }

func (c *Cache[V]) remove(key string, cause Cause) bool {
	s, hash := c.home(key)
	s.mu.Lock()
	defer c.unlock(s)
	r := s.findLocked(hash, key)
	if r == 0 {
		return false
	}
	c.budget.release(s.removeLocked(r, cause))
	return true
}

// Clear drops everything, in constant time for each shard if there is no
// OnDeparture. It is not one step: what is set meanwhile may stay or go.
func (c *Cache[V]) Clear() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		c.budget.release(s.clearLocked())
		c.unlock(s)
	}
}

// Resize changes MaxBytes, and MinorBytes with it where that was given as a part of
// it. When it returns, what is held is within the new bound. The number of shards
// stays what it is.
func (c *Cache[V]) Resize(maxBytes, now int64) {
	c.gathering.Lock()
	c.bound(maxBytes)
	gone := c.shrink(now)
	c.gathering.Unlock()
	c.report(gone)
}

// Len returns the number of entries, expired ones that were not found yet
// included.
func (c *Cache[V]) Len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += s.index.n
		s.mu.Unlock()
	}
	return n
}

// Bytes returns how much of MaxBytes is taken: the sum of len(key) + Size +
// [Overhead] over all entries, and what a Set or Update under way has reserved.
// It takes no lock.
func (c *Cache[V]) Bytes() int64 {
	return c.budget.all.used.Load()
}

// MinorBytes returns how much of MinorBytes is taken, counted like Bytes. It
// takes no lock.
func (c *Cache[V]) MinorBytes() int64 {
	return c.budget.minor.used.Load()
}

// Stats returns the counters, shard by shard.
func (c *Cache[V]) Stats() Stats {
	var st Stats
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, n := range s.hits {
			st.Hits += n
		}
		st.MinorHits += s.hits[minorQueue]
		st.Misses += s.misses
		st.Evictions += s.left[Evicted]
		st.Expirations += s.left[Expired]
		st.Removals += s.left[Removed]
		st.Replacements += s.left[Replaced]
		st.Cleared += s.left[Cleared]
		s.mu.Unlock()
	}
	return st
}

// spot returns the index of key's shard, and its hash within the shard.
func (c *Cache[V]) spot(key string) (at int, hash uint32) {
	h := maphash.String(c.seed, key)
	return int(h & uint64(len(c.shards)-1)), uint32(h >> 32)
}

func (c *Cache[V]) home(key string) (s *shard[V], hash uint32) {
	at, hash := c.spot(key)
	return &c.shards[at], hash
}

// admits reports whether an entry is within the bounds by itself.
func (c *Cache[V]) admits(bytes int64, t Terms) bool {
	return bytes <= min(c.budget.all.max.Load(), maxCharge) && (!t.Minor || bytes <= c.budget.minor.max.Load())
}

// unlock releases a shard's mutex and then reports who has gone meanwhile.
func (c *Cache[V]) unlock(s *shard[V]) {
	gone := s.takeGoneLocked()
	s.mu.Unlock()
	c.report(gone)
}

func (c *Cache[V]) report(gone []departure[V]) {
	for _, d := range gone {
		c.onDeparture(d.key, d.v, d.cause)
	}
}
