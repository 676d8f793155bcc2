package lru

import "sync"

// This file is one shard: a map for finding, a ring for the order of use. It
// counts its own bytes but knows nothing of the budget: what a method frees it
// returns, and the caller gives it back.

const (
	// sweepSteps is how many entries each Set looks at for expired ones. It
	// must be more than the one entry a Set adds, for the hand to get round.
	sweepSteps = 2

	// shrinkFrom is the number of entries below which a map is left as it is:
	// less than a hundred KiB.
	shrinkFrom = 1024
)

// An entry is a link of its shard's ring. Everything in it is guarded by the
// shard's mutex, and the key never changes.
type entry[V any] struct {
	prev, next *entry[V] // towards more and less recent use
	key        string
	bytes      int64 // what it is charged for, key and Overhead included
	expires    int64
	v          V
}

func (e *entry[V]) expired(now int64) bool {
	return e.expires <= now
}

// charged returns what e is charged for, which is nothing if there is no e.
func (e *entry[V]) charged() int64 {
	if e == nil {
		return 0
	}
	return e.bytes
}

type shard[V any] struct {
	mu      sync.Mutex // guards the fields below
	entries map[string]*entry[V]
	front   *entry[V] // the most recently used; front.prev is the least. nil if empty
	hand    *entry[V] // what the sweep looks at next; nil if empty
	bytes   int64     // the sum over the entries
	peak    int       // the most entries since the map was made

	evictions, expirations int64

	_ [64]byte // the next shard's mutex is on another cache line
}

// putLocked makes e, or a new entry if e is nil, the most recently used one of
// key with these contents. The bytes have been taken from the budget.
func (s *shard[V]) putLocked(e *entry[V], key string, v V, bytes, expires int64) {
	s.bytes += bytes - e.charged()
	if e != nil {
		e.v, e.bytes, e.expires = v, bytes, expires
		s.toFrontLocked(e)
		return
	}
	e = &entry[V]{key: key, bytes: bytes, expires: expires, v: v}
	if s.entries == nil {
		s.entries = make(map[string]*entry[V])
	}
	s.entries[key] = e
	s.peak = max(s.peak, len(s.entries))
	s.linkLocked(e)
}

// removeLocked drops e and returns what it was charged for.
func (s *shard[V]) removeLocked(e *entry[V]) int64 {
	s.unlinkLocked(e)
	s.bytes -= e.bytes
	delete(s.entries, e.key)
	// A map never gives memory back. Where many small entries made way for few
	// large ones, that would be memory nobody is charged for.
	if s.peak > shrinkFrom && len(s.entries) < s.peak/4 {
		m := make(map[string]*entry[V], len(s.entries))
		for k, e := range s.entries {
			m[k] = e
		}
		s.entries, s.peak = m, len(m)
	}
	return e.bytes
}

// evictLocked drops the least recently used entry that is not keep and returns
// what it was charged for, 0 if there is none.
func (s *shard[V]) evictLocked(keep *entry[V], now int64) int64 {
	if s.front == nil {
		return 0
	}
	e := s.front.prev
	if e == keep {
		e = e.prev
	}
	if e == keep {
		return 0
	}
	if e.expired(now) {
		s.expirations++
	} else {
		s.evictions++
	}
	return s.removeLocked(e)
}

// sweepLocked looks at the next few entries, drops those that have expired and
// returns what they were charged for. It goes from the least recently used to
// the most: looking only at the last ones would wait behind one entry that
// lives for long and is never used.
func (s *shard[V]) sweepLocked(now int64) int64 {
	var freed int64
	for range sweepSteps {
		e := s.hand
		if e == nil {
			break
		}
		s.hand = e.prev
		if e.expired(now) {
			s.expirations++
			freed += s.removeLocked(e)
		}
	}
	return freed
}

// clearLocked drops all entries and returns what they were charged for.
func (s *shard[V]) clearLocked() int64 {
	freed := s.bytes
	s.entries, s.front, s.hand, s.bytes, s.peak = nil, nil, nil, 0, 0
	return freed
}

func (s *shard[V]) toFrontLocked(e *entry[V]) {
	if e == s.front {
		return
	}
	s.unlinkLocked(e)
	s.linkLocked(e)
}

// linkLocked puts e before the front of the ring.
func (s *shard[V]) linkLocked(e *entry[V]) {
	if s.front == nil {
		e.prev, e.next = e, e
		s.hand = e
	} else {
		e.prev, e.next = s.front.prev, s.front
		e.prev.next, e.next.prev = e, e
	}
	s.front = e
}

// unlinkLocked takes e out of the ring. Where the front or the hand pointed at
// it they move on as they would have, the hand so that it skips nobody.
func (s *shard[V]) unlinkLocked(e *entry[V]) {
	if e.next == e {
		s.front, s.hand = nil, nil
		return
	}
	if s.front == e {
		s.front = e.next
	}
	if s.hand == e {
		s.hand = e.prev
	}
	e.prev.next, e.next.prev = e.next, e.prev
}
