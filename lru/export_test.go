package lru

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
	"reflect"
)

// Audit stops the cache by locking all there is and holds its accounts against
// its entries: queues against index and slab, bytes against entries, budgets
// against shards.
func (c *Cache[V]) Audit() error {
	c.gathering.Lock() // a Resize under way is not within its bound yet
	defer c.gathering.Unlock()
	for i := range c.shards {
		c.shards[i].mu.Lock()
		defer c.shards[i].mu.Unlock()
	}
	var sum room
	for i := range c.shards {
		s := &c.shards[i]
		held, err := s.audit()
		if err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
		sum = sum.plus(held)
		var misplaced string
		s.slab.inUse(1, len(s.slab.pages), func(r ref, n *node[V]) {
			if at, hash := c.spot(s.slab.key(r)); at != i || hash != n.hash {
				misplaced = fmt.Sprintf("the entry at %d with hash %x is of shard %d with hash %x", r, n.hash, at, hash)
			}
		})
		if misplaced != "" {
			return fmt.Errorf("shard %d: %s", i, misplaced)
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

// audit returns what the entries of the shard are charged for.
func (s *shard[V]) audit() (held room, err error) {
	if err := s.slab.audit(); err != nil {
		return room{}, err
	}
	if err := s.index.audit(); err != nil {
		return room{}, err
	}
	n := 0
	for id := range s.queues {
		q := &s.queues[id]
		var bytes int64
		count := 0
		newer := ref(0)
		for r := q.newest; r != 0; r = s.slab.node(r).older {
			e := s.slab.node(r)
			switch count++; {
			case count > q.n:
				return room{}, fmt.Errorf("queue %d has more than its %d entries", id, q.n)
			case e.newer != newer || e.queue != queueID(id):
				return room{}, fmt.Errorf("the entry at %d of queue %d says that it is behind %d in queue %d, it is behind %d", r, id, e.newer, e.queue, newer)
			case s.slab.used(r) == nil:
				return room{}, fmt.Errorf("queue %d has an entry at %d, which the slab says is free", id, r)
			case s.findLocked(e.hash, s.slab.key(r)) != r:
				return room{}, fmt.Errorf("the entry at %d of queue %d cannot be found by its key", r, id)
			case int64(e.bytes) < int64(s.slab.keyBytes(r))+Overhead || e.uses > maxUses:
				return room{}, fmt.Errorf("the entry at %d is charged for %d bytes with a key of %d, and has %d uses", r, e.bytes, s.slab.keyBytes(r), e.uses)
			}
			bytes += int64(e.bytes)
			newer = r
		}
		if count != q.n || q.oldest != newer || bytes != q.bytes {
			return room{}, fmt.Errorf("queue %d counts %d entries of %d bytes, it has %d of %d", id, q.n, q.bytes, count, bytes)
		}
		n += count
		held = held.plus(roomOf(bytes, queueID(id) == minorQueue))
	}
	used := 0
	s.slab.inUse(1, len(s.slab.pages), func(ref, *node[V]) { used++ })
	if n != s.index.n || n != used {
		return room{}, fmt.Errorf("queues have %d entries, the index %d, the slab %d", n, s.index.n, used)
	}
	if len(s.gone) != 0 {
		return room{}, fmt.Errorf("%d departures were not reported", len(s.gone))
	}
	if p := &s.policy; p.began && (p.share < shareLeast-1 || p.share > shareMost) {
		return room{}, fmt.Errorf("the share of the small queue is %d", p.share)
	}
	return held, nil
}

// audit holds the words of the table against their count and against the places
// where a probe looks for them.
func (x *index) audit() error {
	n := 0
	for i, word := range x.slots {
		if word == 0 {
			continue
		}
		n++
		for at := x.home(uint32(word >> 32)); at != i; at = x.next(at) {
			if x.slots[at] == 0 {
				return fmt.Errorf("index: slot %d of %d, home %d, is behind the empty slot %d", i, len(x.slots), x.home(uint32(word>>32)), at)
			}
		}
	}
	if n != x.n || n*fullDen > len(x.slots)*fullNum {
		return fmt.Errorf("index: %d of %d slots are taken, %d are counted", n, len(x.slots), x.n)
	}
	return nil
}

// audit holds each page against the lists it should be in, and sees that nothing
// that is free keeps memory.
func (s *slab[V]) audit() error {
	listed := make([]int, len(s.pages))
	for class, head := range s.partial {
		prev, empty := uint32(0), 0
		for id := head; id != 0; id = s.pages[id].next {
			p := &s.pages[id]
			if listed[id]++; listed[id] > 1 || p.prev != prev || int(p.class) != class || p.free == 0 || p.nodes == nil {
				return fmt.Errorf("slab: page %d of class %d, free %x, behind %d, is in the list of class %d, behind %d", id, p.class, p.free, p.prev, class, prev)
			}
			if p.free == allFree {
				empty++
			}
			prev = id
		}
		if empty > 1 {
			return fmt.Errorf("slab: class %d keeps %d empty pages", class, empty)
		}
	}
	unused := make([]int, len(s.pages))
	for _, id := range s.unused {
		if id == 0 {
			return errors.New("slab: page 0 is said to be unused")
		}
		if int(id) < len(s.pages) { // others were cut off
			unused[id]++
		}
	}
	for id := 1; id < len(s.pages); id++ {
		p := &s.pages[id]
		if p.nodes == nil {
			if unused[id] == 0 || listed[id] != 0 || !reflect.ValueOf(*p).IsZero() {
				return fmt.Errorf("slab: page %d, without nodes, is %d times among the unused and %d times among those with room", id, unused[id], listed[id])
			}
			continue
		}
		long := int(p.class) == longClass
		if (listed[id] == 1) != (p.free != 0) || (p.long != nil) != long || len(p.keys) != pageNodes*int(keyRoom[p.class]) {
			return fmt.Errorf("slab: page %d of class %d, free %x, has %d bytes for keys, is %d times among those with room",
				id, p.class, p.free, len(p.keys), listed[id])
		}
		for free := p.free; free != 0; free &= free - 1 {
			slot := bits.TrailingZeros32(free)
			if !reflect.ValueOf(&p.nodes[slot].v).Elem().IsZero() || long && p.long[slot] != "" {
				return fmt.Errorf("slab: node %d of page %d is free and refers to what was there", slot, id)
			}
		}
	}
	return nil
}

// Seed makes an empty cache hash like others of the same seed.
func (c *Cache[V]) Seed(seed maphash.Seed) { c.seed = seed }

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

// SmallShare returns the share of the small queue of the first shard, 0 to 1, as
// the policy wants it now.
func (c *Cache[V]) SmallShare() float64 {
	s := &c.shards[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(s.policy.share) / (1 << shareBits)
}

// Haunt makes the sketch of key's shard take key for one that was asked for n
// times more, as other keys do that it cannot tell from it.
func (c *Cache[V]) Haunt(key string, n int) {
	s, hash := c.home(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policy.sketch.add(hash, n)
}
