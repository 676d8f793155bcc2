package lru

// This file is the order of arrival among some entries of a shard.

// A queueID tells which queue of its shard a node is in.
type queueID uint8

const (
	smallQueue queueID = iota // major entries on probation
	mainQueue                 // major entries that have proven themselves
	minorQueue
	queues

	noQueue = queues // of a node that is not in use
)

type queue struct {
	newest, oldest ref
	n              int
	bytes          int64 // the sum over the entries
}

// pushLocked makes the node at r the newest of a queue.
func (s *shard[V]) pushLocked(id queueID, r ref) {
	q, n := &s.queues[id], s.slab.node(r)
	n.queue, n.older, n.newer = id, q.newest, 0
	if q.newest != 0 {
		s.slab.node(q.newest).newer = r
	} else {
		q.oldest = r
	}
	q.newest = r
	q.n++
	q.bytes += int64(n.bytes)
}

// pullLocked takes the node at r out of its queue.
func (s *shard[V]) pullLocked(r ref) {
	n := s.slab.node(r)
	q := &s.queues[n.queue]
	if n.newer != 0 {
		s.slab.node(n.newer).older = n.older
	} else {
		q.newest = n.older
	}
	if n.older != 0 {
		s.slab.node(n.older).newer = n.newer
	} else {
		q.oldest = n.newer
	}
	q.n--
	q.bytes -= int64(n.bytes)
}

// moveLocked makes the node at r the newest of a queue, which may be its own.
func (s *shard[V]) moveLocked(id queueID, r ref) {
	s.pullLocked(r)
	s.pushLocked(id, r)
}

// oldestLocked returns the oldest of a queue that is not keep, or 0.
func (s *shard[V]) oldestLocked(id queueID, keep ref) ref {
	r := s.queues[id].oldest
	if r != 0 && r == keep {
		r = s.slab.node(r).newer
	}
	return r
}
