package consistenthash

// This file makes a table from another one with other nodes. It only saves
// time: what a table of given nodes looks like is defined by New.

import "slices"

// refillBelow is the length below which a list that has lost nodes is ranked
// anew (unless it has them all). follow needs 4. With a list of 4, nodes in
// unseen zones are missing more often and have to be searched for: 1,000 nodes
// in 4 zones took a quarter longer. At 8 a leave would rank 8/N of all slots,
// which costs as much as eight joins.
const refillBelow = 6

// With returns the table of exactly the given nodes, the same in all that can
// be asked as [New] makes of them, at less cost the less they differ from
// those of t: a node that joins has its own scores computed, one that leaves
// none, but for slots that have lost several of the candidates they had kept.
// A new weight is a leave and a join, a new zone costs no scores. With does not
// keep the slice, and t stays as it is. If nothing differs it returns t.
func (t *Table) With(nodes []Node) *Table {
	ns := normalize(nodes)
	if slices.Equal(ns, t.nodes) {
		return t
	}
	c := newChange(t, ns)
	// Few nodes are ranked faster than they are merged into lists. Of many, the
	// two cost the same when between a fifth and two fifths are new (measured
	// with 20 to 1,000 nodes).
	if len(ns) <= listed || 4*len(c.joined) > len(ns) {
		return build(ns)
	}
	c.to = newTable(ns)
	c.to.fill(c.rank)
	return c.to
}

// A change is the step from one table to the next.
type change struct {
	from, to *Table
	indexes  []uint16 // of the nodes of from in to; none for those that left
	joined   []uint16 // nodes that are new in to, in order
}

// newChange returns the step from t to nodes. A node with another weight is
// one that left and another that joined.
func newChange(t *Table, nodes []Node) *change {
	c := &change{from: t, indexes: translation(t.nodes, nodes, func(a, b Node) bool { return a.Weight == b.Weight })}
	stayed := make([]bool, len(nodes))
	for _, i := range c.indexes {
		if i != none {
			stayed[i] = true
		}
	}
	for i, ok := range stayed {
		if !ok {
			c.joined = append(c.joined, uint16(i))
		}
	}
	return c
}

// rank fills the list of a slot from the one it had.
func (c *change) rank(slot int, key uint64) {
	l := &c.to.lists[slot]
	n, had := 0, 0
	for _, node := range c.from.lists[slot] {
		if node == none {
			break
		}
		had++
		if i := c.indexes[node]; i != none {
			l[n] = i
			n++
		}
	}
	// A list that had all nodes has all that stayed, and takes whoever joins
	// while it has room. Others end where their knowledge does: whoever ranks
	// after the last may also rank after a node not listed.
	all := had == len(c.from.nodes)
	for _, node := range c.joined {
		n = c.to.scorer.insert(l, n, key, node, all)
	}
	if n < refillBelow && n < len(c.to.nodes) {
		c.to.scorer.rank(l, key, 0)
		return
	}
	for ; n < listed; n++ {
		l[n] = none
	}
}

// insert puts node in its place among the first n of l and returns how many
// there are then. A node that ranks after all of them is put at the end if all
// is set and there is room, and else left out.
func (s *scorer) insert(l *list, n int, key uint64, node uint16, all bool) int {
	r := s.rate(key, node)
	k := n
	for k > 0 && r < s.rate(key, l[k-1]) {
		k--
	}
	if k == listed || k == n && !all {
		return n
	}
	n = min(n+1, listed)
	copy(l[k+1:n], l[k:n-1])
	l[k] = node
	return n
}
