package consistenthash

// This file holds the table: how it is made from nodes and what can be asked
// of it. Scores, caps and zones have files of their own, and so has making a
// table from another one.

import (
	"cmp"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

const (
	maxWeight = 100

	// MaxNodes is how many nodes a [Table] has at most. [New] leaves out those
	// with the highest IDs beyond it. It bounds what a flood of invented peers
	// costs to about a second, and leaves each node at least 16 slots on average.
	MaxNodes = 4096
)

// A Node is a member that owns slots.
type Node struct {
	// ID identifies the node. All that decides about slots is the ID and the
	// weight; a node that comes back under its ID gets its slots back.
	ID string

	// Zone is where the node is: owners of a slot are in different zones as far
	// as there are any. Nodes with an empty Zone are in one zone of that name.
	Zone string

	// Weight is the node's share relative to others, from 1 to 100. Less than 1
	// means 1, more than 100 means 100.
	Weight int
}

// A Table assigns the slots to nodes. It is immutable and safe for concurrent
// use. The zero Table is that of no nodes. It takes about 1.5 MiB, whatever the
// number of nodes.
type Table struct {
	nodes  []Node // sorted by ID
	scorer scorer
	zoning zoning
	counts []int32 // slots owned, by node
	digest uint64

	// Both are nil without nodes.
	lists  *[Slots]list
	owners *[Slots]owners
}

// New returns the table of the given nodes. It depends on nothing else: not on
// their order, and not on the machine. It does not keep the slice.
//
// Any nodes are accepted, since they may come from the network. A node without
// ID is left out; of several with one ID the one with the highest weight
// stays, and of those the one with the lowest zone; weights are put in range,
// and nodes beyond [MaxNodes] left out.
//
// It takes a few milliseconds for a few nodes and grows with their number; it
// uses all processors it may. [Table.With] is faster where little changes.
func New(nodes []Node) *Table { return build(normalize(nodes)) }

// normalize returns the nodes of a table, sorted by ID, as New documents.
func normalize(nodes []Node) []Node {
	ns := make([]Node, 0, len(nodes))
	for _, n := range nodes {
		if n.ID != "" {
			n.Weight = min(max(n.Weight, 1), maxWeight)
			ns = append(ns, n)
		}
	}
	slices.SortFunc(ns, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(b.Weight, a.Weight), cmp.Compare(a.Zone, b.Zone))
	})
	ns = slices.CompactFunc(ns, func(a, b Node) bool { return a.ID == b.ID })
	return slices.Clip(ns[:min(len(ns), MaxNodes)])
}

// build returns the table of normalized nodes.
func build(nodes []Node) *Table {
	t := newTable(nodes)
	t.fill(func(slot int, key uint64) { t.scorer.rank(&t.lists[slot], key, 0) })
	return t
}

// newTable returns a table of normalized nodes that is to be filled.
func newTable(nodes []Node) *Table {
	t := &Table{nodes: nodes, scorer: newScorer(nodes), zoning: newZoning(nodes)}
	if len(nodes) > 0 {
		t.lists, t.owners = new([Slots]list), new([Slots]owners)
	}
	return t
}

// fill completes t. rank fills the list of a slot with at least the first
// stored nodes of its ranking, or all; it is called from several goroutines.
func (t *Table) fill(rank func(slot int, key uint64)) {
	if len(t.nodes) == 0 {
		return
	}
	// Chance, not caps, decides about nearly all slots: take the first of each
	// list for its owner and mend the few others after.
	eachSlot(func(from, to int) {
		for slot := from; slot < to; slot++ {
			key := slotKey(slot)
			rank(slot, key)
			l := &t.lists[slot]
			t.owners[slot] = t.follow(l[0], l, key)
		}
	})
	counts, moved := match(&t.scorer, t.nodes, t.lists)
	t.counts = counts
	for _, p := range moved {
		t.owners[p.slot] = t.follow(p.node, &t.lists[p.slot], slotKey(p.slot))
	}
	t.digest = t.sum()
}

// eachSlot calls run for ranges that cover all slots, on as many goroutines as
// there are processors to use, and returns when all are done.
func eachSlot(run func(from, to int)) {
	// Ranges of this size take 0.1 ms or more, and there are enough of them to
	// even out processors that are busy otherwise.
	const size = 4096
	workers := runtime.GOMAXPROCS(0)
	if workers == 1 {
		run(0, Slots)
		return
	}
	var g errgroup.Group
	g.SetLimit(workers)
	for from := 0; from < Slots; from += size {
		g.Go(func() error {
			run(from, from+size)
			return nil
		})
	}
	_ = g.Wait() // no range fails
}

// Nodes returns the nodes of t sorted by ID, weights in range. Indexes of nodes
// elsewhere are indexes into it. It is the table's own and must not be changed.
func (t *Table) Nodes() []Node { return t.nodes }

// Len returns the number of nodes.
func (t *Table) Len() int { return len(t.nodes) }

// Owner returns the first owner of slot as an index into [Table.Nodes], or -1
// if there are no nodes. The slot must be from 0 to [Slots]-1, as [Slot] returns.
func (t *Table) Owner(slot int) int {
	if t.owners == nil {
		return -1
	}
	return int(t.owners[slot][0])
}

// Share returns the fraction of all slots, from 0 to 1, whose first owner is
// the node with that ID; 0 if there is none.
func (t *Table) Share(id string) float64 {
	i, ok := t.index(id)
	if !ok {
		return 0
	}
	return float64(t.counts[i]) / Slots
}

// index returns where the node with that ID is in t.nodes.
func (t *Table) index(id string) (int, bool) {
	return slices.BinarySearchFunc(t.nodes, id, func(n Node, id string) int { return cmp.Compare(n.ID, id) })
}
