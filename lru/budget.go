package lru

import (
	"math"
	"sync/atomic"
)

// This file is about bytes: what an entry is charged for, and how room for it
// is found in its own shard or in all of them. What becomes of the room is the
// caller's business.

const (
	// homeVictims is how many entries of its own shard an insertion may evict
	// before it turns to all the shards in rotation; arbitrary. Replacing like
	// by like takes one or two. Without a limit one large value would empty its
	// shard, recently used entries and all, while older ones live on elsewhere.
	homeVictims = 8

	// barrenRounds is how often in a row gather goes round all the shards
	// without finding a byte before it gives up; arbitrary. One round can come
	// out empty while others move bytes from the shards ahead of it to those
	// behind it, but hardly one after the other.
	barrenRounds = 8
)

// charge returns what an entry is accounted for: math.MaxInt64, which fits
// nowhere, if that is more than an int64 holds.
func charge(key string, size int64) int64 {
	fixed := int64(len(key)) + Overhead
	return fixed + min(max(size, 0), math.MaxInt64-fixed)
}

// A budget is the one number that bounds a cache.
type budget struct {
	max int64

	// used is the part of max that is taken: by entries, and by at most one
	// gather under way. It goes up before an entry comes or grows, and down
	// after one went or shrank, so it is never less than the sum over the
	// entries.
	used atomic.Int64
}

// take takes what is free, up to most, or nothing if that is less than least. It
// returns how much it took.
func (b *budget) take(least, most int64) int64 {
	for {
		used := b.used.Load()
		n := min(most, b.max-used)
		if n < least {
			return 0
		}
		if b.used.CompareAndSwap(used, used+n) {
			return n
		}
	}
}

// release gives n bytes back. With n <= 0 there is nothing to give back.
func (b *budget) release(n int64) {
	if n > 0 {
		b.used.Add(-n)
	}
}

// roomLocked takes need bytes of the budget, or nothing, and reports whether it
// did; a need of 0 or less is met already. It evicts a few entries of s for it,
// but not keep.
func (c *Cache[V]) roomLocked(s *shard[V], need int64, keep *entry[V], now int64) bool {
	if need <= 0 {
		return true
	}
	for range homeVictims {
		if c.budget.take(need, need) == need {
			return true
		}
		freed := s.evictLocked(keep, now)
		if freed == 0 {
			return false
		}
		c.budget.release(freed)
	}
	return c.budget.take(need, need) == need
}

// gather takes need bytes of the budget, or nothing, and reports whether it did.
// It evicts one entry of each shard in turn, from the shard at next on, but not
// keep, and takes what is free. What it has it holds, so that each victim brings
// it nearer and small insertions cannot starve a large one. The caller holds
// c.gathering until the bytes have become part of an entry.
func (c *Cache[V]) gather(need int64, next int, keep *entry[V], now int64) bool {
	var have int64
	for barren := 0; have < need && barren < barrenRounds*len(c.shards); next++ {
		s := &c.shards[next&(len(c.shards)-1)]
		s.mu.Lock()
		got := s.evictLocked(keep, now)
		s.mu.Unlock()
		got += c.budget.take(0, max(need-have-got, 0))
		have += got
		barren++
		if got > 0 {
			barren = 0
		}
	}
	if have < need {
		c.budget.release(have)
		return false
	}
	c.budget.release(have - need) // the last victim may have been larger than what was missing
	return true
}
