package lru

import "iter"

// This file is the order of use among entries of one class in one shard. What
// else is to be done when an entry comes or goes is the shard's business.

// An entry is a link of one of its shard's rings. Everything in it is guarded by
// the shard's mutex, and the key never changes.
type entry[V any] struct {
	prev, next *entry[V] // towards more and less recent use
	key        string
	bytes      int64 // what it is charged for, key and Overhead included
	expires    int64
	minor      bool
	v          V
}

func (e *entry[V]) expired(now int64) bool {
	return e.expires <= now
}

// charged returns what e takes of the budgets, which is nothing if there is no e.
func (e *entry[V]) charged() room {
	if e == nil {
		return room{}
	}
	return roomOf(e.bytes, e.minor)
}

type ring[V any] struct {
	front *entry[V] // the most recently used; front.prev is the least. nil if empty
	hand  *entry[V] // what the sweep looks at next; nil if empty
	bytes int64     // the sum over the entries
}

// link puts e before the front of the ring.
func (r *ring[V]) link(e *entry[V]) {
	if r.front == nil {
		e.prev, e.next = e, e
		r.hand = e
	} else {
		e.prev, e.next = r.front.prev, r.front
		e.prev.next, e.next.prev = e, e
	}
	r.front = e
	r.bytes += e.bytes
}

// unlink takes e out of the ring. Where the front or the hand pointed at it they
// move on as they would have, the hand so that it skips nobody.
func (r *ring[V]) unlink(e *entry[V]) {
	r.bytes -= e.bytes
	if e.next == e {
		r.front, r.hand = nil, nil
		return
	}
	if r.front == e {
		r.front = e.next
	}
	if r.hand == e {
		r.hand = e.prev
	}
	e.prev.next, e.next.prev = e.next, e.prev
}

func (r *ring[V]) toFront(e *entry[V]) {
	if e == r.front {
		return
	}
	r.unlink(e)
	r.link(e)
}

// last returns the least recently used entry that is not keep, or nil.
func (r *ring[V]) last(keep *entry[V]) *entry[V] {
	if r.front == nil {
		return nil
	}
	e := r.front.prev
	if e == keep {
		e = e.prev
	}
	if e == keep {
		return nil
	}
	return e
}

// all iterates over the entries, the most recently used first.
func (r *ring[V]) all() iter.Seq[*entry[V]] {
	return func(yield func(*entry[V]) bool) {
		for e := r.front; e != nil && yield(e); {
			if e = e.next; e == r.front {
				return
			}
		}
	}
}
