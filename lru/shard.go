package lru

import (
	"maps"
	"sync"
)

// This file is one shard: a map for finding, and a ring for each class. It
// counts its own bytes but knows nothing of the budgets: what a method frees it
// returns, and the caller gives it back.

const (
	// sweepSteps is how many entries of each class a Set looks at for expired
	// ones. It must be more than the one entry a Set adds, for the hand to get
	// round.
	sweepSteps = 2

	// shrinkFrom is the number of entries below which a map is left as it is:
	// less than a hundred KiB.
	shrinkFrom = 1024
)

type shard[V any] struct {
	mu      sync.Mutex // guards the fields below
	entries map[string]*entry[V]
	rings   [2]ring[V] // of the major and of the minor entries
	peak    int        // the most entries since the map was made

	evictions, expirations int64

	_ [64]byte // the next shard's mutex is on another cache line
}

func (s *shard[V]) ring(minor bool) *ring[V] {
	if minor {
		return &s.rings[1]
	}
	return &s.rings[0]
}

// putLocked makes e, or a new entry if e is nil, the most recently used one of
// its class with these contents. The bytes have been taken from the budgets.
func (s *shard[V]) putLocked(e *entry[V], key string, v V, bytes int64, t Terms) {
	if e != nil {
		s.ring(e.minor).unlink(e)
	} else {
		e = &entry[V]{key: key}
		if s.entries == nil {
			s.entries = make(map[string]*entry[V])
		}
		s.entries[key] = e
		s.peak = max(s.peak, len(s.entries))
	}
	e.v, e.bytes, e.expires, e.minor = v, bytes, t.Expires, t.Minor
	s.ring(e.minor).link(e)
}

// amendLocked gives e other contents where it is in the order of use. Only if it
// changes class, and so has no place in the order, does it go to the front.
func (s *shard[V]) amendLocked(e *entry[V], v V, bytes int64, t Terms) {
	if t.Minor != e.minor {
		s.putLocked(e, e.key, v, bytes, t)
		return
	}
	s.ring(e.minor).bytes += bytes - e.bytes
	e.v, e.bytes, e.expires = v, bytes, t.Expires
}

// removeLocked drops e and returns what it was charged for.
func (s *shard[V]) removeLocked(e *entry[V]) room {
	s.ring(e.minor).unlink(e)
	delete(s.entries, e.key)
	// A map never gives memory back. Where many small entries made way for few
	// large ones, that would be memory nobody is charged for.
	if s.peak > shrinkFrom && len(s.entries) < s.peak/4 {
		m := make(map[string]*entry[V], len(s.entries))
		maps.Copy(m, s.entries)
		s.entries, s.peak = m, len(m)
	}
	return e.charged()
}

// evictLocked drops the least recently used entry of a class that is not keep
// and returns what it was charged for, nothing if there is none.
func (s *shard[V]) evictLocked(minor bool, keep *entry[V], now int64) room {
	e := s.ring(minor).last(keep)
	if e == nil {
		return room{}
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
func (s *shard[V]) sweepLocked(now int64) room {
	var freed room
	for i := range s.rings {
		r := &s.rings[i]
		for range sweepSteps {
			e := r.hand
			if e == nil {
				break
			}
			r.hand = e.prev
			if e.expired(now) {
				s.expirations++
				freed = freed.plus(s.removeLocked(e))
			}
		}
	}
	return freed
}

// clearLocked drops all entries and returns what they were charged for.
func (s *shard[V]) clearLocked() room {
	freed := roomOf(s.ring(false).bytes, false).plus(roomOf(s.ring(true).bytes, true))
	s.entries, s.rings, s.peak = nil, [2]ring[V]{}, 0
	return freed
}
