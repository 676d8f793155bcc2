// Package lru is a store of values by string key, bounded by bytes: the sum of
// what its entries are charged for never exceeds the bound, at no moment and
// under any concurrency. Entries expire, and when room is needed the least
// recently used make it.
//
// An entry is major or minor. Minor entries are for what is welcome but not
// missed, such as copies of what lives elsewhere: they have a bound of their own
// within that of the cache, and make room for major ones before any of these
// does. See [Terms].
//
// The keys are spread over shards, each a map and a recency list behind one
// mutex. The bounds are not divided among them: they are numbers for the whole
// cache, taken from before an entry goes in and given back after one has gone
// out, so that an entry of up to the whole bound fits whatever the number of
// shards.
//
// The package knows no clock, no loader and no network, and starts neither
// goroutines nor timers. Every call that depends on time is told what time it
// is: nanoseconds of any one clock of the caller's, which may be negative. No
// value of it means "none"; an entry that never expires expires at
// [math.MaxInt64].
package lru

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"runtime"
	"sync"
	"unsafe"
)

// Overhead is what an entry is charged for beside its key and its value, in
// bytes: the links and headers of the node it lives in, and its share of the
// map. The V itself, which is part of the node, belongs to the size that the
// caller names, since its size differs from cache to cache.
const Overhead = int64(unsafe.Sizeof(entry[uintptr]{})-unsafe.Sizeof(uintptr(0))) + mapShare

// mapShare is the average of what one entry costs in a map from string to
// pointer, and of what the allocator rounds up for key, node and value. A slot
// takes 25 bytes; where entries come and go between a third and seven eighths
// of the slots are in use, depending on where between two doublings the map
// is. Measured with Go 1.26 on 64 bits, all that from 49 to 92;
// TestHeapIsWhatIsCharged holds it against the heap.
const mapShare = 72

// minorShare is the part of MaxBytes that minor entries may take by default: one
// eighth, arbitrary.
const minorShare = 8

// maxShards bounds the default; arbitrary, 32 KiB of shards.
const maxShards = 256

// Options configures a [Cache].
type Options struct {
	// MaxBytes bounds the sum of len(key) + Size + [Overhead] over all
	// entries. Zero or less keeps nothing.
	MaxBytes int64

	// MinorBytes bounds the same sum over the minor entries, which count
	// towards MaxBytes too. Zero means an eighth of MaxBytes, and more than
	// MaxBytes means MaxBytes; less than zero keeps no minor entry.
	MinorBytes int64

	// Shards is the number of independently locked parts, rounded up to a
	// power of two. Zero or less means four for each of GOMAXPROCS, at most
	// 256. With one shard the order of eviction is exactly that of use within
	// a class; with more it is so within a shard.
	Shards int
}

// Terms are what an entry is kept under.
type Terms struct {
	// Size is the number of bytes of the value: the V itself, as
	// [unsafe.Sizeof] has it, and what only it refers to. Less than zero counts
	// as zero.
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

// Stats counts what left a [Cache] without having been asked to, since the
// cache was made.
type Stats struct {
	Evictions   int64 // fresh entries dropped to make room for others
	Expirations int64 // entries found expired, and dropped
}

// A Cache is a byte-bounded store of values by key. All methods are safe for
// concurrent use. Keys are kept as they are given: a key that is part of a
// larger string keeps all of it in memory.
type Cache[V any] struct {
	seed   maphash.Seed
	shards []shard[V]

	_ [64]byte // a hit reads what is above; every insertion writes what is below

	budget budgets

	// gathering is held by the one call that is collecting room from all the
	// shards. Two that each held half of what they need would wait for each
	// other for ever; those that find enough at once take it in one step under
	// their shard's mutex and hold nothing. Locked before any shard's mutex.
	gathering sync.Mutex
}

// New returns an empty cache.
func New[V any](opts Options) *Cache[V] {
	n := opts.Shards
	if n <= 0 {
		n = min(4*runtime.GOMAXPROCS(0), maxShards)
	}
	c := &Cache[V]{
		seed:   maphash.MakeSeed(),
		shards: make([]shard[V], 1<<bits.Len(uint(n-1))),
	}
	c.budget.all.max = max(opts.MaxBytes, 0)
	c.budget.minor.max = min(max(opts.MinorBytes, 0), c.budget.all.max)
	if opts.MinorBytes == 0 {
		c.budget.minor.max = c.budget.all.max / minorShare
	}
	return c
}

// Get returns the value of key if it is there and has not expired, and makes it
// the most recently used of its class and shard. An expired entry is dropped and
// counted as an expiration. Get does not allocate.
func (c *Cache[V]) Get(key string, now int64) (V, bool) {
	var v V
	s := &c.shards[c.home(key)]
	s.mu.Lock()
	e := c.freshLocked(s, key, now)
	if e == nil {
		s.mu.Unlock()
		return v, false
	}
	s.ring(e.minor).toFront(e)
	v = e.v
	s.mu.Unlock()
	return v, true
}

// Peek returns the value of key if it is there and has not expired, and changes
// nothing.
func (c *Cache[V]) Peek(key string, now int64) (V, bool) {
	var v V
	s := &c.shards[c.home(key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil || e.expired(now) {
		return v, false
	}
	return e.v, true
}

// Set stores v under key on the terms t, as the most recently used of its class
// and shard, and makes room for it. What it replaces may be of either class.
// Each Set also looks at a few entries of the shard, in turn, and drops those
// that have expired, so that what is never asked for again does not stay for
// ever.
//
// Set reports whether v was kept. It is not if it would exceed MaxBytes by
// itself, or MinorBytes if it is minor, or has expired already, or, which takes
// a storm of concurrent calls, if everybody else was quicker to take the room
// made for it. Whatever was there under key before is gone then, too.
func (c *Cache[V]) Set(key string, now int64, v V, t Terms) bool {
	bytes := charge(key, t.Size)
	if !c.admits(bytes, t) || t.Expires <= now {
		c.Remove(key)
		return false
	}
	home := c.home(key)
	s := &c.shards[home]

	s.mu.Lock()
	c.budget.release(s.sweepLocked(now))
	// What is replaced pays for its successor: only the difference is taken,
	// or given back once the smaller one is in place.
	e := s.entries[key]
	growth := roomOf(bytes, t.Minor).minus(e.charged())
	if c.roomLocked(s, growth, e, now) {
		s.putLocked(e, key, v, bytes, t)
		c.budget.release(room{}.minus(growth))
		s.mu.Unlock()
		return true
	}
	if e != nil {
		c.budget.release(s.removeLocked(e))
	}
	s.mu.Unlock()

	c.gathering.Lock()
	defer c.gathering.Unlock()
	if !c.gather(roomOf(bytes, t.Minor), home+1, nil, now) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Another Set of the key may have come in between; it came first, then.
	e = s.entries[key]
	replaced := e.charged()
	s.putLocked(e, key, v, bytes, t)
	c.budget.release(replaced)
	return true
}

// Update replaces value and terms of the fresh entry of key by what f makes of
// them, in one step as other calls see it, and without counting as a use; but an
// entry that changes class becomes the most recently used of its new one. It
// reports whether it did: not if key has no fresh entry, and not if there is no
// room to be made for what the entry would grow by, or for a minor one within
// MinorBytes, in which case it stays exactly as it was. An expiry that has
// passed is kept like any other, and the entry is expired.
//
// f runs with the shard locked: it must be quick and must not call the cache.
// It may run twice, the second time perhaps on another value, so it should do
// nothing but compute; what it notes for the caller counts only if Update
// returns true. It must not write to what v refers to, which readers share.
func (c *Cache[V]) Update(key string, now int64, f func(v V, t Terms) (V, Terms)) bool {
	home := c.home(key)
	e, short := c.update(home, key, now, room{}, f)
	if short == (room{}) {
		return e != nil
	}
	c.gathering.Lock()
	defer c.gathering.Unlock()
	if !c.gather(short, home+1, e, now) {
		return false
	}
	e, short = c.update(home, key, now, short, f)
	return e != nil && short == room{}
}

// update applies f to the fresh entry of key if the entry's growth fits in what
// can be taken at once and have, taken before, which it uses or gives back. Else
// it returns the entry as it was and what it would grow by.
func (c *Cache[V]) update(home int, key string, now int64, have room, f func(V, Terms) (V, Terms)) (*entry[V], room) {
	s := &c.shards[home]
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := have
	defer func() { c.budget.release(rest) }() // deferred because f may panic

	e := c.freshLocked(s, key, now)
	if e == nil {
		return nil, room{}
	}
	v, t := f(e.v, Terms{Size: e.bytes - int64(len(key)) - Overhead, Expires: e.expires, Minor: e.minor})
	bytes := charge(key, t.Size)
	if !c.admits(bytes, t) {
		return nil, room{}
	}
	growth := roomOf(bytes, t.Minor).minus(e.charged())
	if !c.roomLocked(s, growth.minus(have), e, now) {
		return e, growth.max(room{})
	}
	s.amendLocked(e, v, bytes, t)
	rest = have.minus(growth)
	return e, room{}
}

// Remove drops the entry of key and reports whether there was one, fresh or
// expired.
func (c *Cache[V]) Remove(key string) bool {
	s := &c.shards[c.home(key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		return false
	}
	c.budget.release(s.removeLocked(e))
	return true
}

// Clear drops everything, in constant time for each shard. It is not one step:
// what is set meanwhile may stay or go.
func (c *Cache[V]) Clear() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		c.budget.release(s.clearLocked())
		s.mu.Unlock()
	}
}

// All iterates over the entries that are fresh at now, shard by shard, the major
// ones of a shard before the minor ones and the most recently used first. It counts as no use. A shard is copied when
// the iteration reaches it and no lock is held while the loop's body runs, so
// the body may call the cache, and may meet an entry that is there no more.
func (c *Cache[V]) All(now int64) iter.Seq2[string, V] {
	type pair struct {
		key string
		v   V
	}
	return func(yield func(string, V) bool) {
		var pairs []pair
		for i := range c.shards {
			s := &c.shards[i]
			clear(pairs) // do not keep the last shard's values alive
			pairs = pairs[:0]
			s.mu.Lock()
			for i := range s.rings {
				for e := range s.rings[i].all() {
					if !e.expired(now) {
						pairs = append(pairs, pair{e.key, e.v})
					}
				}
			}
			s.mu.Unlock()
			for _, p := range pairs {
				if !yield(p.key, p.v) {
					return
				}
			}
		}
	}
}

// Len returns the number of entries, expired ones that were not found yet
// included.
func (c *Cache[V]) Len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.entries)
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
		st.Evictions += s.evictions
		st.Expirations += s.expirations
		s.mu.Unlock()
	}
	return st
}

// home returns the index of key's shard.
func (c *Cache[V]) home(key string) int {
	return int(maphash.String(c.seed, key) & uint64(len(c.shards)-1))
}

// admits reports whether an entry is within the bounds by itself.
func (c *Cache[V]) admits(bytes int64, t Terms) bool {
	return bytes <= c.budget.all.max && (!t.Minor || bytes <= c.budget.minor.max)
}

// freshLocked returns the entry of key, or nil if there is none that has not
// expired. An expired one is dropped.
func (c *Cache[V]) freshLocked(s *shard[V], key string, now int64) *entry[V] {
	e := s.entries[key]
	if e == nil || !e.expired(now) {
		return e
	}
	s.expirations++
	c.budget.release(s.removeLocked(e))
	return nil
}
