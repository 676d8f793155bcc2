package consistenthash

// This file extends a slot's first owner to a list of owners, zone by zone.
// Who the first one is has been decided before.

import "slices"

// stored is how many owners of each slot a table stores: the first one, two
// replicas, and the one after them. More are computed when asked for.
const stored = 4

// owners are the first owners of a slot, and then none.
type owners [stored]uint16

// zoning tells which nodes share a zone.
type zoning struct {
	zones   []uint16   // by node
	members [][]uint16 // by zone
}

// newZoning returns the zoning of nodes.
func newZoning(nodes []Node) zoning {
	z := zoning{zones: make([]uint16, len(nodes))}
	numbers := make(map[string]uint16)
	for i, n := range nodes {
		zone, ok := numbers[n.Zone]
		if !ok {
			zone = uint16(len(z.members))
			numbers[n.Zone] = zone
			z.members = append(z.members, nil)
		}
		z.zones[i] = zone
		z.members[zone] = append(z.members[zone], uint16(i))
	}
	return z
}

// seen reports whether a node of chosen is in zone.
func (z *zoning) seen(chosen []uint16, zone uint16) bool {
	for _, n := range chosen {
		if z.zones[n] == zone {
			return true
		}
	}
	return false
}

// follow returns the owners of the slot of key, of which first is the first
// and l the list: the best of each unseen zone until zones run out, then the
// best of what is left.
func (t *Table) follow(first uint16, l *list, key uint64) owners {
	if len(t.zoning.members) == 1 && first == l[0] {
		return owners(l[:stored])
	}
	os := owners{none, none, none, none}
	os[0] = first
	n := t.followElsewhere(&os, l, key)
	// The list has at least as many nodes as there are places left.
	for _, node := range l {
		if n == stored || node == none {
			break
		}
		if !slices.Contains(os[:n], node) {
			os[n] = node
			n++
		}
	}
	return os
}

// followElsewhere appends to the one owner in os those that come next for being
// in other zones, and returns how many owners there are then.
func (t *Table) followElsewhere(os *owners, l *list, key uint64) int {
	n, most := 1, min(stored, len(t.zoning.members))
	for _, node := range l {
		if n == most || node == none {
			break
		}
		if !t.zoning.seen(os[:n], t.zoning.zones[node]) {
			os[n] = node
			n++
		}
	}
	// The list has only zones that are seen; the best elsewhere ranks later.
	for ; n < most; n++ {
		os[n] = t.bestElsewhere(os[:n], key)
	}
	return n
}

// bestElsewhere returns the best node in the slot of key whose zone is not
// that of any node of chosen.
func (t *Table) bestElsewhere(chosen []uint16, key uint64) uint16 {
	best := rating(1<<64 - 1)
	for zone, members := range t.zoning.members {
		if t.zoning.seen(chosen, uint16(zone)) {
			continue
		}
		for _, node := range members {
			best = min(best, t.scorer.rate(key, node))
		}
	}
	return best.who()
}

// AppendOwners appends to dst the first n owners of slot, or all nodes in the
// order of their duty if there are fewer, and returns the extended slice.
// Owners are indexes into [Table.Nodes], each at most once. The first is
// [Table.Owner]. Then come the other nodes by the slot's ranking, those in
// zones that have no owner yet first, until there are no such zones. The slot
// must be from 0 to [Slots]-1, as [Slot] returns.
//
// Up to 4 owners are a copy from the table. More are computed by ranking all
// nodes anew, which takes microseconds and allocates.
func (t *Table) AppendOwners(dst []int, slot, n int) []int {
	n = min(n, len(t.nodes))
	if n <= 0 {
		return dst
	}
	if n <= stored {
		for _, node := range t.owners[slot][:n] {
			dst = append(dst, int(node))
		}
		return dst
	}
	return t.appendRanked(dst, slot, n)
}

// appendRanked is AppendOwners for any n from 1 to the number of nodes.
func (t *Table) appendRanked(dst []int, slot, n int) []int {
	key, first := slotKey(slot), t.owners[slot][0]
	ranking := make([]rating, 0, len(t.nodes))
	for i := range t.nodes {
		if node := uint16(i); node != first {
			ranking = append(ranking, t.scorer.rate(key, node))
		}
	}
	slices.Sort(ranking)

	dst = append(dst, int(first))
	n--
	seen := make([]bool, len(t.zoning.members))
	seen[t.zoning.zones[first]] = true
	later := ranking[:0]
	for _, r := range ranking {
		if zone := t.zoning.zones[r.who()]; n > 0 && !seen[zone] {
			seen[zone] = true
			dst = append(dst, int(r.who()))
			n--
			continue
		}
		later = append(later, r)
	}
	for _, r := range later[:n] {
		dst = append(dst, int(r.who()))
	}
	return dst
}
