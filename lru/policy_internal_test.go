package lru

import (
	"math"
	"strconv"
	"testing"
)

// TestEvictionLooksAtFew: an eviction where every entry of its class has been used as
// often as is counted takes one all the same, and does not go through all of them.
func TestEvictionLooksAtFew(t *testing.T) {
	const n = 10_000
	for name, evict := range map[string]func(s *shard[int]) room{
		"major": func(s *shard[int]) room { return s.evictMajorLocked(0, 0, 0) },
		"minor": func(s *shard[int]) room { return s.evictMinorLocked(0, 0) },
	} {
		c := New[int](Options[int]{MaxBytes: 1 << 30, MinorBytes: 1 << 30, Shards: 1})
		for i := range n {
			key := strconv.Itoa(i)
			c.Set(key, 0, i, Terms{Expires: math.MaxInt64, Minor: name == "minor"})
			for range maxUses + 1 {
				c.Get(key, 0)
			}
		}
		s := &c.shards[0]
		uses := func() (sum int) {
			s.slab.inUse(1, len(s.slab.pages), func(_ ref, n *node[int]) { sum += int(n.uses) })
			return sum
		}
		if got := uses(); got != n*maxUses {
			t.Fatalf("%s: %d uses are counted, want %d", name, got, n*maxUses)
		}
		for i := range 100 {
			before := uses()
			freed := evict(s)
			c.budget.release(freed)
			if freed.all == 0 || s.index.n != n-1-i {
				t.Fatalf("%s: eviction %d frees %+v and leaves %d entries of %d", name, i, freed, s.index.n, n)
			}
			if lost := before - uses(); lost > maxUses*2*maxMoves {
				t.Errorf("%s: eviction %d took %d uses off, want at most those of %d entries", name, i, lost, 2*maxMoves)
			}
		}
		if err := c.Audit(); err != nil {
			t.Error(err)
		}
	}
}

// TestEvictionSparesWhomItIsToldTo: with all but one gone, that one stays, whatever
// queue it is in.
func TestEvictionSparesWhomItIsToldTo(t *testing.T) {
	for id := range queues {
		for _, at := range []int{0, 5, 9} { // the oldest, one of those between, the newest
			c := New[int](Options[int]{MaxBytes: 1 << 30, Shards: 1})
			s := &c.shards[0]
			var keep ref
			for i := range 10 {
				key := strconv.Itoa(i)
				c.Set(key, 0, i, Terms{Expires: math.MaxInt64, Minor: id == minorQueue})
				_, hash := c.spot(key)
				r := s.findLocked(hash, key)
				if id == mainQueue {
					s.moveLocked(mainQueue, r)
				}
				if i == at {
					keep = r
				}
			}
			evict := func() room { return s.evictMajorLocked(0, keep, 0) }
			if id == minorQueue {
				evict = func() room { return s.evictMinorLocked(keep, 0) }
			}
			for range 9 {
				freed := evict()
				if freed == (room{}) {
					t.Errorf("queue %d: nothing is evicted with %d entries beside number %d", id, s.index.n-1, at)
				}
				c.budget.release(freed)
			}
			if freed := evict(); freed != (room{}) || s.index.n != 1 || s.slab.used(keep) == nil {
				t.Errorf("queue %d: %+v is freed and %d are left, want number %d", id, freed, s.index.n, at)
			}
			if err := c.Audit(); err != nil {
				t.Error(err)
			}
		}
	}
}
