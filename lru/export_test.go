package lru

import "fmt"

// Audit stops the cache by locking all shards and holds its accounts against
// its entries: queues against index and slab, bytes against entries, budgets against shards.
func (c *Cache[V]) Audit() error {
	for i := range c.shards {
		c.shards[i].mu.Lock()
		defer c.shards[i].mu.Unlock()
	}
	var sum room
	for i := range c.shards {
		s := &c.shards[i]
		n := 0
		for id := range s.queues {
			q := &s.queues[id]
			var bytes int64
			count := 0
			newer := ref(0)
			for r := q.newest; r != 0; r = s.slab.node(r).older {
				e := s.slab.node(r)
				if count++; count > q.n || e.newer != newer || e.queue != queueID(id) || s.findLocked(e.hash, s.slab.key(r)) != r {
					return fmt.Errorf("shard %d: queue %d and index disagree", i, id)
				}
				if c.at(s.slab.key(r)) != i {
					return fmt.Errorf("shard %d has a key of another", i)
				}
				bytes += int64(e.bytes)
				newer = r
			}
			if count != q.n || q.oldest != newer || bytes != q.bytes {
				return fmt.Errorf("shard %d: queue %d counts %d entries of %d bytes, it has %d of %d", i, id, q.n, q.bytes, count, bytes)
			}
			n += count
			sum = sum.plus(roomOf(bytes, queueID(id) == minorQueue))
		}
		used := 0
		s.slab.inUse(1, len(s.slab.pages), func(ref, *node[V]) { used++ })
		if n != s.index.n || n != used {
			return fmt.Errorf("shard %d: queues have %d entries, the index %d, the slab %d", i, n, s.index.n, used)
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
	if used := b.used.Load(); sum > used || used > b.max.Load() {
		return fmt.Errorf("entries have %d bytes, %d are taken of %d", sum, used, b.max.Load())
	}
	return nil
}

// ShardLens returns how many entries each shard has.
func (c *Cache[V]) ShardLens() []int {
	lens := make([]int, len(c.shards))
	for i := range c.shards {
		lens[i] = c.shards[i].index.n
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

func (c *Cache[V]) at(key string) int {
	at, _ := c.spot(key)
	return at
}
