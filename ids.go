package peercache

import (
	"cmp"
	"slices"

	"github.com/peercache/peercache/internal/wire"
)

// Ids of invalidations, and sets of them.

// An id names one call of Set, Remove or Clear, or the part of it that fits a record: the
// random number that a process drew when it started, and its own count from 1. Ids of one
// process are ordered as its calls began. Those of two are not ordered at all, so that no
// clocks are compared.
type id struct{ boot, seq uint64 }

// ids are a set of ids, by the highest of each process: a lower one is covered by it, for
// its call began earlier. nil is the empty set. A set never changes, so that it may be
// shared. The process whose id came last is the last.
type ids []id

// maxIDs is how many processes a set of a key's ids may name: the last that removed
// the key. The work of comparing sets grows with the product of their sizes; a key that
// more than a few processes remove within a minute is rare.
const maxIDs = 16

// of returns the highest id of a process in the set, 0 if there is none.
func (s ids) of(boot uint64) uint64 {
	for _, i := range s {
		if i.boot == boot {
			return i.seq
		}
	}
	return 0
}

// covers reports whether all of others are in s.
func (s ids) covers(others ids) bool {
	for _, i := range others {
		if s.of(i.boot) < i.seq {
			return false
		}
	}
	return true
}

// with returns a set that covers both.
func (s ids) with(others ids) ids {
	switch {
	case s.covers(others):
		return s
	case others.covers(s):
		return others
	}
	both := make(ids, 0, len(s)+len(others))
	for _, i := range s {
		if others.of(i.boot) < i.seq {
			both = append(both, i)
		}
	}
	for _, i := range others {
		if s.of(i.boot) <= i.seq {
			both = append(both, i)
		}
	}
	return both
}

// limited returns what maxIDs leaves of a set, and what it does not.
func (s ids) limited() (kept, rest ids) {
	n := max(len(s)-maxIDs, 0)
	return s[n:], s[:n]
}

// toWire is how a set travels, nil for the empty one.
func (s ids) toWire() *wire.Ids {
	if len(s) == 0 {
		return nil
	}
	w := &wire.Ids{Boots: make([]uint64, len(s)), Seqs: make([]uint64, len(s))}
	for i, id := range s {
		w.Boots[i], w.Seqs[i] = id.boot, id.seq
	}
	return w
}

// idsOf undoes toWire. What a peer sends may be anything: the two lists may differ in
// length, name a process twice, or count from 0.
func idsOf(w *wire.Ids) ids {
	n := min(len(w.GetBoots()), len(w.GetSeqs()))
	if n == 0 {
		return nil
	}
	s := make(ids, 0, n)
	for i := range n {
		if seq := w.GetSeqs()[i]; seq > 0 {
			s = append(s, id{w.GetBoots()[i], seq})
		}
	}
	slices.SortFunc(s, func(a, b id) int { return cmp.Or(cmp.Compare(a.boot, b.boot), cmp.Compare(b.seq, a.seq)) })
	return slices.CompactFunc(s, func(a, b id) bool { return a.boot == b.boot })
}
