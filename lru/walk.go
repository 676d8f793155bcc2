package lru

import (
	"cmp"
	"iter"
	"slices"
)

// This file goes through all entries while others go on using the cache: a few
// pages at a time are copied under the shard's mutex, and looked at without it.
// Nodes never move, so that an entry that is there all the time is met once.

// walkPages is how many pages are copied at once: up to 992 entries, which takes
// some 20 µs.
const walkPages = 32

// An Entry is a key with its value and the terms it is kept under.
type Entry[V any] struct {
	Key   string
	Value V
	Terms Terms
}

// A found is an entry as walk met it.
type found[V any] struct {
	Entry[V]
	at    ref
	stamp uint32
	heat  int
}

// walk calls yield for the entries of a shard that want wants, which is called
// with the shard locked, until yield returns false. It reports whether it did not.
func (c *Cache[V]) walk(s *shard[V], want func(r ref, n *node[V]) bool, yield func(found[V]) bool) bool {
	var batch []found[V]
	for page := uint32(1); page != 0; {
		clear(batch) // do not keep the last pages' values alive
		batch = batch[:0]
		s.mu.Lock()
		page = s.slab.inUse(page, walkPages, func(r ref, n *node[V]) {
			if want(r, n) {
				batch = append(batch, found[V]{
					Entry: Entry[V]{s.slab.key(r), n.v, s.termsLocked(r)},
					at:    r, stamp: n.stamp, heat: s.heatLocked(n),
				})
			}
		})
		s.mu.Unlock()
		for _, f := range batch {
			if !yield(f) {
				return false
			}
		}
	}
	return true
}

// All iterates over the entries that are fresh at now, in no order. It counts as no
// use. No lock is held while the loop's body runs, so the body may call the cache,
// and may meet an entry that is there no more. Entries that come while it runs may
// be met or not.
func (c *Cache[V]) All(now int64) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for i := range c.shards {
			fresh := func(_ ref, n *node[V]) bool { return !n.expired(now) }
			if !c.walk(&c.shards[i], fresh, func(f found[V]) bool { return yield(f.Key, f.Value) }) {
				return
			}
		}
	}
}

// RemoveFunc drops the entries for which f returns true, fresh or expired, and
// returns how many. No lock is held while f runs, so f may call the cache. An entry
// whose value was replaced after f has seen it stays.
func (c *Cache[V]) RemoveFunc(f func(key string, v V) bool) int {
	removed := 0
	for i := range c.shards {
		s := &c.shards[i]
		all := func(ref, *node[V]) bool { return true }
		c.walk(s, all, func(e found[V]) bool {
			if f(e.Key, e.Value) && c.removeSame(s, e) {
				removed++
			}
			return true
		})
	}
	return removed
}

// removeSame drops an entry if its value is still the one that was found.
func (c *Cache[V]) removeSame(s *shard[V], e found[V]) bool {
	s.mu.Lock()
	defer c.unlock(s)
	if n := s.slab.used(e.at); n == nil || n.stamp != e.stamp {
		return false
	}
	c.budget.release(s.removeLocked(e.at, Removed))
	return true
}

// heats is the number of values of heatLocked.
const heats = (maxCount+maxUses+1)*(maxUses+1) + maxUses + 1

// heatLocked says how much an entry has been used lately: minor ones less than any
// major one. The uses that its counter holds the sketch has not seen yet; of those
// with as many, they are the later ones.
func (s *shard[V]) heatLocked(n *node[V]) int {
	if n.queue == minorQueue {
		return int(n.uses)
	}
	uses := int(n.uses)
	return maxUses + 1 + (s.policy.sketch.count(n.hash)+uses)*(maxUses+1) + uses
}

// Hottest returns up to n of the entries that are fresh at now and most likely to be
// asked for again, these first, and minor ones after all the others. It counts as no
// use. It looks at all entries twice, a few at a time, so that others are not held
// up; what changes meanwhile it may see or not.
func (c *Cache[V]) Hottest(n int, now int64) []Entry[V] {
	if n <= 0 {
		return nil
	}
	// How hot the n-th is, first: to sort all would be to copy all.
	var count [heats]int
	for i := range c.shards {
		s := &c.shards[i]
		c.walk(s, func(_ ref, n *node[V]) bool {
			if !n.expired(now) {
				count[s.heatLocked(n)]++
			}
			return false
		}, nil)
	}
	least, hotter := heats-1, 0
	for ; least > 0 && hotter+count[least] < n; least-- {
		hotter += count[least]
	}

	var list []found[V]
	room := n - hotter // for those that are just as hot as the n-th
	for i := range c.shards {
		s := &c.shards[i]
		c.walk(s, func(_ ref, n *node[V]) bool {
			heat := s.heatLocked(n)
			if n.expired(now) || heat < least || heat == least && room == 0 {
				return false
			}
			if heat == least {
				room--
			}
			return true
		}, func(f found[V]) bool {
			list = append(list, f)
			return true
		})
	}
	return hottest(list, n)
}

// HottestOf is Hottest among the entries that are wanted, of which it says whether they
// are without holding a lock. It takes memory for all of them.
func (c *Cache[V]) HottestOf(n int, now int64, wanted func(key string, v V) bool) []Entry[V] {
	var list []found[V]
	for i := range c.shards {
		s := &c.shards[i]
		c.walk(s, func(_ ref, n *node[V]) bool { return !n.expired(now) }, func(f found[V]) bool {
			if wanted(f.Key, f.Value) {
				list = append(list, f)
			}
			return true
		})
	}
	return hottest(list, n)
}

// hottest returns the first n of a list, by heat.
func hottest[V any](list []found[V], n int) []Entry[V] {
	slices.SortStableFunc(list, func(a, b found[V]) int { return cmp.Compare(b.heat, a.heat) })
	entries := make([]Entry[V], min(max(n, 0), len(list)))
	for i := range entries {
		entries[i] = list[i].Entry
	}
	return entries
}
