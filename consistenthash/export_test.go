package consistenthash

// This file shows tests what cannot be reached, or hardly ever, by asking a
// table.

// MinusLog2 is minusLog2 with 57 bits after the point.
var MinusLog2 = minusLog2

// Score is the score of a node in a slot, for tests that do the rest their own way.
func Score(n Node, slot int) uint64 {
	return uint64(score(mix(Hash(nodeSeed, n.ID)^slotKey(slot)), uint8(n.Weight)))
}

// Proposals returns the nodes that slot proposes to, in order, when all refuse.
// Real nodes refuse a slot a few times at most.
func (t *Table) Proposals(slot int) []int {
	m := matching{
		scorer: &t.scorer, lists: t.lists,
		refusals: make([]uint16, Slots), further: make(map[uint16][]uint16),
	}
	var nodes []int
	for range t.nodes {
		nodes = append(nodes, int(m.candidate(uint16(slot))))
		m.refusals[slot]++
	}
	return nodes
}

// Listed returns how many nodes are listed for slot.
func (t *Table) Listed(slot int) int { return t.lists[slot].len() }

// ReplaceTop is replaceTop on plain numbers.
func ReplaceTop(heap []uint64, r uint64) {
	rs := make([]rating, len(heap))
	for i, v := range heap {
		rs[i] = rating(v)
	}
	replaceTop(rs, rating(r))
	for i, v := range rs {
		heap[i] = uint64(v)
	}
}
