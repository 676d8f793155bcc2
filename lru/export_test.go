package lru

import "fmt"

// Audit stops the cache by locking all shards and holds its accounts against
// its entries: rings against map, bytes against entries, budgets against shards.
func (c *Cache[V]) Audit() error {
	for i := range c.shards {
		c.shards[i].mu.Lock()
		defer c.shards[i].mu.Unlock()
	}
	var sum room
	for i := range c.shards {
		s := &c.shards[i]
		n := 0
		for _, minor := range []bool{false, true} {
			r := s.ring(minor)
			var bytes int64
			hand := r.hand == nil
			for e := range r.all() {
				if n++; s.entries[e.key] != e || e.next.prev != e || e.prev.next != e || e.minor != minor || n > len(s.entries) {
					return fmt.Errorf("shard %d: rings and map disagree", i)
				}
				bytes += e.bytes
				hand = hand || r.hand == e
			}
			if !hand || (r.hand == nil) != (r.front == nil) {
				return fmt.Errorf("shard %d: hand is off its ring", i)
			}
			if bytes != r.bytes {
				return fmt.Errorf("shard %d: counts %d bytes, entries have %d", i, r.bytes, bytes)
			}
			sum = sum.plus(roomOf(bytes, minor))
		}
		if n != len(s.entries) {
			return fmt.Errorf("shard %d: rings have %d entries, the map %d", i, n, len(s.entries))
		}
	}
	if err := c.budget.all.audit(sum.all); err != nil {
		return err
	}
	return c.budget.minor.audit(sum.minor)
}

// audit holds b against the sum over its entries, which was read before and may
// be behind it.
func (b *budget) audit(sum int64) error {
	if used := b.used.Load(); sum > used || used > b.max {
		return fmt.Errorf("entries have %d bytes, %d are taken of %d", sum, used, b.max)
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
	return func() { c.budget.all.release(n) }, c.budget.all.take(n, n) == n
}

// HoldMinor is Hold for the budget of the minor entries.
func (c *Cache[V]) HoldMinor(n int64) (release func(), ok bool) {
	return func() { c.budget.minor.release(n) }, c.budget.minor.take(n, n) == n
}
