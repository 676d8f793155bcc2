package lru

import "fmt"

// Audit stops the cache by locking all shards and holds its accounts against
// its entries: ring against map, bytes against entries, budget against shards.
func (c *Cache[V]) Audit() error {
	for i := range c.shards {
		c.shards[i].mu.Lock()
		defer c.shards[i].mu.Unlock()
	}
	var sum int64
	for i := range c.shards {
		s := &c.shards[i]
		var bytes int64
		hand := s.hand == nil
		e := s.front
		for range len(s.entries) {
			if e == nil || s.entries[e.key] != e || e.next.prev != e || e.prev.next != e {
				return fmt.Errorf("shard %d: ring and map disagree", i)
			}
			bytes += e.bytes
			hand = hand || s.hand == e
			e = e.next
		}
		if e != s.front || !hand || (s.hand == nil) != (s.front == nil) {
			return fmt.Errorf("shard %d: ring does not close or hand is off it", i)
		}
		if bytes != s.bytes {
			return fmt.Errorf("shard %d: counts %d bytes, entries have %d", i, s.bytes, bytes)
		}
		sum += bytes
	}
	// The sum is read before the budget, which may be ahead of it.
	if used := c.budget.used.Load(); sum > used || used > c.budget.max {
		return fmt.Errorf("entries have %d bytes, %d are taken of %d", sum, used, c.budget.max)
	}
	return nil
}

// ShardLens returns how many entries each shard has.
func (c *Cache[V]) ShardLens() []int {
	lens := make([]int, len(c.shards))
	for i := range c.shards {
		lens[i] = len(c.shards[i].entries)
	}
	return lens
}

// Hold takes n bytes of the budget as if an entry were about to come, and
// reports whether they were free. release gives them back.
func (c *Cache[V]) Hold(n int64) (release func(), ok bool) {
	return func() { c.budget.release(n) }, c.budget.take(n, n) == n
}
