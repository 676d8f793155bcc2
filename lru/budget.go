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

// maxCharge is the most that one entry may be charged for: a node has 32 bits for
// it.
const maxCharge = math.MaxUint32

// charge returns what an entry is accounted for: math.MaxInt64, which fits
// nowhere, if that is more than an int64 holds.
func charge(key string, size int64) int64 {
	fixed := int64(len(key)) + Overhead
	return fixed + min(max(size, 0), math.MaxInt64-fixed)
}

// A room is bytes of the two budgets. A minor entry takes the same of both, a
// major one nothing of the second.
type room struct{ all, minor int64 }

func roomOf(bytes int64, minor bool) room {
	if minor {
		return room{bytes, bytes}
	}
	return room{bytes, 0}
}

func (r room) plus(o room) room  { return room{r.all + o.all, r.minor + o.minor} }
func (r room) minus(o room) room { return room{r.all - o.all, r.minor - o.minor} }
func (r room) min(o room) room   { return room{min(r.all, o.all), min(r.minor, o.minor)} }
func (r room) max(o room) room   { return room{max(r.all, o.all), max(r.minor, o.minor)} }

// A budget is a number of bytes that is never exceeded, but while Resize makes it
// smaller.
type budget struct {
	max atomic.Int64 // changed by Resize only

	// used is the part of max that is taken: by entries, by calls that are about
	// to insert one, and by at most one gather under way. It goes up before an
	// entry comes or grows, and down after one went or shrank, so it is never
	// less than the sum over the entries.
	used atomic.Int64
}

// take takes what is free, up to most, or nothing if that is less than least. It
// returns how much it took. With most <= 0 there is nothing to take.
func (b *budget) take(least, most int64) int64 {
	if most <= 0 {
		return 0
	}
	for {
		used := b.used.Load()
		n := min(most, b.max.Load()-used)
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

// A pair of budgets bounds a cache: one all entries together, and one within it
// the minor ones.
type budgets struct{ all, minor budget }

// take takes need or nothing, and returns which part of need there was no room
// for: none if it took it. Parts of 0 or less are met already.
func (b *budgets) take(need room) (short room) {
	if need.minor > 0 && b.minor.take(need.minor, need.minor) == 0 {
		return room{minor: need.minor}
	}
	if need.all > 0 && b.all.take(need.all, need.all) == 0 {
		b.minor.release(need.minor)
		return room{all: need.all}
	}
	return room{}
}

// takeFree takes what is free of most.
func (b *budgets) takeFree(most room) room {
	return room{b.all.take(0, most.all), b.minor.take(0, most.minor)}
}

// release gives back the parts of r that are more than 0.
func (b *budgets) release(r room) {
	b.all.release(r.all)
	b.minor.release(r.minor)
}

// roomLocked takes need of the budgets, or nothing, and reports whether it did.
// It evicts a few entries of s for it, but not keep. For a minor entry, which is
// what needs minor bytes, these are minor ones as long as MinorBytes is in the
// way, and major ones then. For a major entry they are minor ones as long as
// there are any, also in other shards, where only gather gets at them.
func (c *Cache[V]) roomLocked(s *shard[V], need room, keep ref, now int64) bool {
	for range homeVictims {
		short := c.budget.take(need)
		if short == (room{}) {
			return true
		}
		var freed room
		if short.minor > 0 || need.minor <= 0 && c.budget.minor.used.Load() > 0 {
			freed = s.evictMinorLocked(keep, now)
		} else {
			freed = s.evictMajorLocked(need.all, keep, now)
		}
		if freed == (room{}) {
			return false
		}
		c.budget.release(freed)
	}
	return c.budget.take(need) == room{}
}

// gather takes need of the budgets, or nothing, and reports whether it did. It
// takes what is free and evicts one entry of each shard in turn, from the shard
// at next on, of the classes that roomLocked does, but not keep, a ref of the shard
// home. What it has it holds, so that each victim brings it nearer and small
// insertions cannot starve a large one. The caller holds c.gathering until the bytes
// have become part of an entry, and reports who is gone after it has let go of it.
// No part of need is less than 0.
func (c *Cache[V]) gather(need room, home int, keep ref, now int64) (ok bool, gone []departure[V]) {
	if need.all > c.budget.all.max.Load() || need.minor > c.budget.minor.max.Load() {
		return false, nil // a Resize came in between: evicting everything would not help
	}
	var have room
	minorless := 0 // how many shards in a row had no minor entry to evict
	for barren, next := 0, home+1; barren < barrenRounds*len(c.shards); next++ {
		got := c.budget.takeFree(need.minus(have))
		have = have.plus(got)
		if have == need {
			return true, gone
		}

		at := next & (len(c.shards) - 1)
		s := &c.shards[at]
		kept := ref(0)
		if at == home {
			kept = keep
		}
		var freed room
		s.mu.Lock()
		if need.minor == 0 || have.minor < need.minor {
			freed = s.evictMinorLocked(kept, now)
		}
		minorless++
		if freed.minor > 0 {
			minorless = 0
		}
		// Bytes of the minor budget may be taken for an entry still to come, or
		// by keep: a round without a find is as good as none taken.
		if freed == (room{}) && have.minor == need.minor &&
			(need.minor > 0 || minorless >= len(c.shards) || c.budget.minor.used.Load() == 0) {
			freed = s.evictMajorLocked(0, kept, now)
		}
		gone = append(gone, s.takeGoneLocked()...)
		s.mu.Unlock()

		have = have.plus(freed)
		c.budget.release(have.minus(need)) // the last victim may have been larger than what was missing
		have = have.min(need)
		barren++
		if got != (room{}) || freed != (room{}) {
			barren = 0
		}
	}
	c.budget.release(have)
	return false, gone
}

// shrink evicts entries of each shard in turn until the budgets are not exceeded,
// the minor ones first. It locks each shard at least once: a call that has read the
// bound before it was changed takes what it takes before it lets go of its shard.
func (c *Cache[V]) shrink(now int64) (gone []departure[V]) {
	over := func(b *budget) bool { return b.used.Load() > b.max.Load() }
	all, minor := &c.budget.all, &c.budget.minor
	for barren, next := 0, 0; barren < barrenRounds*len(c.shards); next++ {
		if next >= len(c.shards) && !over(all) && !over(minor) {
			break
		}
		s := &c.shards[next&(len(c.shards)-1)]
		var freed room
		s.mu.Lock()
		if over(all) || over(minor) {
			freed = s.evictMinorLocked(0, now)
		}
		if freed == (room{}) && over(all) && (minor.used.Load() == 0 || barren >= len(c.shards)) {
			freed = s.evictMajorLocked(0, 0, now)
		}
		gone = append(gone, s.takeGoneLocked()...)
		s.mu.Unlock()
		c.budget.release(freed)
		barren++
		if freed != (room{}) {
			barren = 0
		}
	}
	return gone
}
