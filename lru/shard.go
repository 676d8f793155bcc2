package lru

import "sync"

// This file is one shard: a slab of nodes, an index to find them, queues to order
// them. It counts its own bytes but knows nothing of the budgets: what a method frees
// it returns, and the caller gives it back. Which entry goes is in policy.go.

// sweepSteps is how many nodes a Set looks at for expired entries. It must be more
// than the one entry that a Set adds, for the sweep to get round.
const sweepSteps = 3

type shard[V any] struct {
	// What a hit writes is in one cache line, and what it reads beside that in the
	// next: with two processors each Get takes the line from the other one every
	// second time, and a second line would double what that costs. For that a shard
	// is a number of whole lines, whether the first begins at a line, as in large
	// slices, or 8 bytes behind, after the word that the allocator puts before
	// smaller ones (TestHitWritesOneCacheLine).
	mu     sync.Mutex    // guards the fields below
	hits   [queues]int64 // by queue, where the entry was found
	misses int64
	_      [24]byte

	index  index
	slab   slab[V]
	queues [queues]queue
	policy policy

	swept ref    // where the sweep is
	stamp uint32 // counts the values stored
	left  [causes]int64

	// gone are entries whose departure is to be reported once the mutex is
	// released; nil where nobody wants to know.
	gone    []departure[V]
	watched bool

	// To nine lines: the next shard's mutex is on another one, and those of many
	// shards are not all in the same few sets of the processor's cache.
	_ [104]byte
}

// A departure is an entry that is not in the cache any more.
type departure[V any] struct {
	key   string
	v     V
	cause Cause
}

// findLocked returns the place of key, 0 if it is not there.
func (s *shard[V]) findLocked(hash uint32, key string) ref {
	x := &s.index
	if len(x.slots) == 0 {
		return 0
	}
	for i := x.home(hash); ; i = x.next(i) {
		word := x.slots[i]
		if word == 0 {
			return 0
		}
		if uint32(word>>32) == hash && s.slab.holds(ref(word), key) {
			return ref(word)
		}
	}
}

// putLocked stores v at r, or in a new node if r is 0. What is replaced stays where
// it is in its queue, unless it changes class. The bytes have been taken from the
// budgets.
func (s *shard[V]) putLocked(r ref, hash uint32, key string, v V, bytes int64, t Terms) {
	if r != 0 {
		s.noteLocked(r, Replaced)
		s.amendLocked(r, v, bytes, t)
		return
	}
	r = s.slab.add(key)
	n := s.slab.node(r)
	n.v, n.bytes, n.expires, n.hash, n.uses = v, uint32(bytes), t.Expires, hash, 0
	s.stampLocked(n)
	s.index.add(hash, r)
	s.pushLocked(firstQueue(t.Minor), r)
}

func (s *shard[V]) stampLocked(n *node[V]) {
	s.stamp++
	n.stamp = s.stamp
}

func firstQueue(minor bool) queueID {
	if minor {
		return minorQueue
	}
	return smallQueue
}

// amendLocked gives the entry at r other contents where it is in its queue. If it
// changes class it begins anew in the other.
func (s *shard[V]) amendLocked(r ref, v V, bytes int64, t Terms) {
	n := s.slab.node(r)
	s.queues[n.queue].bytes += bytes - int64(n.bytes)
	n.v, n.bytes, n.expires = v, uint32(bytes), t.Expires
	s.stampLocked(n)
	if t.Minor != (n.queue == minorQueue) {
		n.uses = 0
		s.moveLocked(firstQueue(t.Minor), r)
	}
}

// removeLocked drops the entry at r and returns what it was charged for. What the
// counter of an expired one knows goes on counting for its key, which may well be
// loaded again.
func (s *shard[V]) removeLocked(r ref, cause Cause) room {
	s.noteLocked(r, cause)
	n := s.slab.node(r)
	if cause == Expired && n.queue != minorQueue {
		s.policy.sketch.add(n.hash, int(n.uses))
	}
	freed := s.chargedLocked(r)
	s.pullLocked(r)
	s.index.drop(n.hash, r)
	s.slab.drop(r)
	return freed
}

// noteLocked counts the departure of the entry at r and has it reported.
func (s *shard[V]) noteLocked(r ref, cause Cause) {
	s.left[cause]++
	if s.watched {
		s.gone = append(s.gone, departure[V]{s.slab.key(r), s.slab.node(r).v, cause})
	}
}

// chargedLocked returns what the entry at r takes of the budgets, nothing for 0.
func (s *shard[V]) chargedLocked(r ref) room {
	if r == 0 {
		return room{}
	}
	n := s.slab.node(r)
	return roomOf(int64(n.bytes), n.queue == minorQueue)
}

func (s *shard[V]) termsLocked(r ref) Terms {
	n := s.slab.node(r)
	return Terms{
		Size:    int64(n.bytes) - int64(s.slab.keyBytes(r)) - Overhead,
		Expires: n.expires,
		Minor:   n.queue == minorQueue,
	}
}

// sweepLocked looks at the next few nodes, drops those that have expired and returns
// what they were charged for. It goes through the slab, not through a queue: looking
// at the ends would wait behind one entry that lives for long and is never used.
func (s *shard[V]) sweepLocked(now int64) room {
	var freed room
	at, end := s.swept, ref(len(s.slab.pages))<<pageShift
	for range sweepSteps {
		if at >= end {
			at = 1 << pageShift
		}
		if at >= end {
			break
		}
		if s.slab.pages[at>>pageShift].nodes == nil { // a step for all of it: there may be many
			at = (at>>pageShift + 1) << pageShift
			continue
		}
		if n := s.slab.used(at); n != nil && n.expired(now) {
			freed = freed.plus(s.removeLocked(at, Expired))
			end = ref(len(s.slab.pages)) << pageShift // fewer, perhaps
		}
		at++
	}
	s.swept = at
	return freed
}

// clearLocked drops all entries, and what the policy has learnt of them, and returns
// what they were charged for.
func (s *shard[V]) clearLocked() room {
	var freed room
	n := 0
	for id := range s.queues {
		q := &s.queues[id]
		freed = freed.plus(roomOf(q.bytes, queueID(id) == minorQueue))
		n += q.n
	}
	if s.watched {
		s.slab.inUse(0, len(s.slab.pages), func(r ref, _ *node[V]) { s.noteLocked(r, Cleared) })
	} else {
		s.left[Cleared] += int64(n)
	}
	s.index, s.slab, s.queues = index{}, slab[V]{}, [queues]queue{}
	s.policy = policy{mainHitsWas: s.hits[mainQueue]}
	s.swept = 0
	return freed
}

func (s *shard[V]) majorsLocked() (entries, small int) {
	small = s.queues[smallQueue].n
	return small + s.queues[mainQueue].n, small
}

// takeGoneLocked returns the departures to be reported, which are the caller's now.
func (s *shard[V]) takeGoneLocked() []departure[V] {
	gone := s.gone
	s.gone = nil
	return gone
}
