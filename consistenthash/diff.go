package consistenthash

// This file compares tables: in one number, or slot by slot.

import "iter"

// Digest returns a number that is the same for tables with the same nodes,
// weights, zones and owners, on every machine, and else, but for chance,
// different. It is 0 without nodes.
func (t *Table) Digest() uint64 { return t.digest }

// sum computes the digest of a table with nodes.
func (t *Table) sum() uint64 {
	var members uint64
	for _, n := range t.nodes {
		// Hashes before mixing them keep {"ab", "c"} and {"a", "bc"} apart.
		members = mix(members*gamma + Hash(nodeSeed, n.ID))
		members = mix(members*gamma + Hash(nodeSeed, n.Zone))
		members = mix(members*gamma + uint64(n.Weight))
	}
	var slots uint64
	for slot, os := range t.owners {
		packed := uint64(os[0]) | uint64(os[1])<<16 | uint64(os[2])<<32 | uint64(os[3])<<48
		slots += mix(packed + uint64(slot)*gamma)
	}
	return mix(members + slots)
}

// A Move is a slot with another first owner than before. An ID is empty where
// there was no node, or is none.
type Move struct {
	Slot     int
	From, To string
}

// Diff returns what has moved from old to t: the slots whose first owner has
// another ID, in order. A nil old is the table of no nodes.
func (t *Table) Diff(old *Table) iter.Seq[Move] {
	if old == nil {
		old = new(Table)
	}
	return func(yield func(Move) bool) {
		if t == old || t.Len() == 0 && old.Len() == 0 {
			return
		}
		// Comparing IDs 65,536 times takes longer than translating indexes.
		now := translation(old.nodes, t.nodes, sameID)
		for slot := range Slots {
			from, to := old.Owner(slot), t.Owner(slot)
			if from >= 0 && int(now[from]) == to {
				continue
			}
			m := Move{Slot: slot}
			if from >= 0 {
				m.From = old.nodes[from].ID
			}
			if to >= 0 {
				m.To = t.nodes[to].ID
			}
			if !yield(m) {
				return
			}
		}
	}
}

// translation returns for each node of from its index in to, or none if to has
// no such node or same denies that the two are the same. Both are sorted.
func translation(from, to []Node, same func(a, b Node) bool) []uint16 {
	indexes := make([]uint16, len(from))
	j := 0
	for i, n := range from {
		for j < len(to) && to[j].ID < n.ID {
			j++
		}
		indexes[i] = none
		if j < len(to) && to[j].ID == n.ID && same(n, to[j]) {
			indexes[i] = uint16(j)
		}
	}
	return indexes
}

// sameID is for translation of nodes whatever their weights.
func sameID(Node, Node) bool { return true }
