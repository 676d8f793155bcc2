package consistenthash

// This file keeps nodes from taking more than their share. It sees rankings
// and caps; zones and what follows a slot's first owner are not its business.

import "slices"

// caps returns how many slots each of the nodes may own at most: 1.05 times
// its fair share by weight, or 1.15 times where that share is below 256 slots
// (a share of a few slots spreads so much by chance that a tighter cap would
// refuse many a first choice), rounded down; but at least the share itself,
// rounded up, so that the caps always add up to Slots or more and every slot
// finds an owner.
func caps(nodes []Node) []int32 {
	total := 0
	for _, n := range nodes {
		total += n.Weight
	}
	cs := make([]int32, len(nodes))
	for i, n := range nodes {
		share := Slots * n.Weight // times total
		percent := 115
		if share >= 256*total {
			percent = 105
		}
		// In units of a twentieth the products stay below 2^31.
		most := share * (percent / 5) / (20 * total)
		least := (share + total - 1) / total
		cs[i] = int32(min(max(most, least), Slots))
	}
	return cs
}

// A placement is a slot with an owner that is not the first of its ranking.
type placement struct {
	slot int
	node uint16
}

// A matching runs deferred acceptance. Slots begin at the best node of their
// ranking and go on to the next when refused; a node at its cap keeps those
// with the best scores.
type matching struct {
	scorer *scorer
	lists  *[Slots]list
	caps   []int32
	counts []int32 // slots held, by node

	refusals []uint16            // by slot: the place in its ranking of the node it is at
	further  map[uint16][]uint16 // by slot: the ranking beyond its list, as far as known
	held     [][]uint16          // by node: slots, unless it has a heap
	heaps    [][]rating          // by node: its slots once it was full, the worst on top
}

// match returns how many slots each node owns, and the slots whose owner is not
// the first of their list, in order.
func match(s *scorer, nodes []Node, lists *[Slots]list) ([]int32, []placement) {
	m := matching{scorer: s, lists: lists, caps: caps(nodes), counts: make([]int32, len(nodes))}
	for i := range lists {
		m.counts[lists[i][0]]++
	}
	for i, n := range m.counts {
		if n > m.caps[i] {
			return m.counts, m.run()
		}
	}
	return m.counts, nil
}

// run lets full nodes refuse slots until no node is beyond its cap. It ends,
// with every slot placed, because a slot proposes to a node once and the caps
// add up to enough.
func (m *matching) run() []placement {
	m.refusals = make([]uint16, Slots)
	m.further = make(map[uint16][]uint16)
	m.heaps = make([][]rating, len(m.caps))
	m.hold()

	var refused []uint16
	for i := range m.heaps {
		node := uint16(i)
		if m.counts[node] <= m.caps[node] {
			continue
		}
		heap := m.heap(node)
		excess := m.counts[node] - m.caps[node]
		for _, r := range heap[:excess] {
			refused = append(refused, r.who())
		}
		m.heaps[node], m.counts[node] = heap[excess:], m.caps[node]
	}
	// Any order of these gives the same outcome; the last is the cheapest to take.
	for len(refused) > 0 {
		slot := refused[len(refused)-1]
		refused = refused[:len(refused)-1]
		m.refusals[slot]++
		if loser, ok := m.propose(slot, m.candidate(slot)); ok {
			refused = append(refused, loser)
		}
	}

	var moved []placement
	for slot, place := range m.refusals {
		if place > 0 {
			moved = append(moved, placement{slot, m.candidate(uint16(slot))})
		}
	}
	return moved
}

// hold gives every node the slots that rank it first.
func (m *matching) hold() {
	m.held = make([][]uint16, len(m.counts))
	all := make([]uint16, Slots)
	for i, n := range m.counts {
		m.held[i], all = all[:0:n], all[n:] // what comes later is appended elsewhere
	}
	for slot := range m.lists {
		node := m.lists[slot][0]
		m.held[node] = append(m.held[node], uint16(slot))
	}
}

// heap returns the slots that node holds as a heap: sorted, the worst first.
func (m *matching) heap(node uint16) []rating {
	heap := make([]rating, len(m.held[node]))
	for i, slot := range m.held[node] {
		heap[i] = m.scorer.rateSlot(slot, node)
	}
	m.held[node] = nil
	slices.Sort(heap)
	slices.Reverse(heap)
	return heap
}

// candidate returns the node that slot proposes to after its refusals so far.
func (m *matching) candidate(slot uint16) uint16 {
	place, l := int(m.refusals[slot]), &m.lists[slot]
	if place < listed && l[place] != none {
		return l[place]
	}
	n := l.len()
	more := m.further[slot]
	if place-n == len(more) {
		last := l[n-1]
		if len(more) > 0 {
			last = more[len(more)-1]
		}
		var next list
		key := slotKey(int(slot))
		m.scorer.rank(&next, key, m.scorer.rate(key, last)+1)
		more = append(more, next[:next.len()]...)
		m.further[slot] = more
	}
	return more[place-n]
}

// propose offers slot to node. It returns the slot that is refused for it,
// which may be the same; false when there is room.
func (m *matching) propose(slot, node uint16) (loser uint16, refused bool) {
	if m.counts[node] < m.caps[node] {
		m.counts[node]++
		m.held[node] = append(m.held[node], slot)
		return 0, false
	}
	if m.heaps[node] == nil {
		m.heaps[node] = m.heap(node)
	}
	heap, r := m.heaps[node], m.scorer.rateSlot(slot, node)
	if r > heap[0] {
		return slot, true
	}
	loser = heap[0].who()
	replaceTop(heap, r)
	return loser, true
}

// replaceTop puts r in the place of the worst of a heap.
func replaceTop(heap []rating, r rating) {
	i := 0
	for {
		child := 2*i + 1
		if child >= len(heap) {
			break
		}
		if child+1 < len(heap) && heap[child+1] > heap[child] {
			child++
		}
		if r > heap[child] {
			break
		}
		heap[i], i = heap[child], child
	}
	heap[i] = r
}
