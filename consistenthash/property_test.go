package consistenthash_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peercache/peercache/consistenthash"
)

func TestMain(m *testing.M) {
	// A table takes milliseconds, and a check looks at all its slots: fewer
	// checks than rapid's 100, unless the command line asks for more.
	checks := "25"
	if underRace {
		checks = "5"
	}
	if err := flag.Set("rapid.checks", checks); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(m.Run())
}

// nodesGen draws sets of nodes with IDs from a small space, so that two sets
// have nodes in common, with any weights and few zones.
func nodesGen() *rapid.Generator[[]consistenthash.Node] {
	weights := []*rapid.Generator[int]{rapid.Just(1), rapid.IntRange(1, 4), rapid.IntRange(-2, 120)}
	return rapid.Custom(func(t *rapid.T) []consistenthash.Node {
		ids := rapid.SliceOfNDistinct(rapid.IntRange(0, 70), 0, 60, rapid.ID).Draw(t, "ids")
		weight := rapid.SampledFrom(weights).Draw(t, "weights")
		zones := rapid.IntRange(1, 5).Draw(t, "zones")
		nodes := make([]consistenthash.Node, len(ids))
		for i, id := range ids {
			nodes[i] = consistenthash.Node{
				ID:     fmt.Sprint("node-", id),
				Weight: weight.Draw(t, "weight"),
				Zone:   fmt.Sprint("zone-", rapid.IntRange(1, zones).Draw(t, "zone")),
			}
		}
		return nodes
	})
}

// changed draws what may become of nodes when a few join, leave or change.
func changed(t *rapid.T, nodes []consistenthash.Node) []consistenthash.Node {
	after := slices.Clone(nodes)
	for range rapid.IntRange(1, 4).Draw(t, "changes") {
		i := 0
		if len(after) > 0 {
			i = rapid.IntRange(0, len(after)-1).Draw(t, "which")
		}
		switch kind := rapid.SampledFrom([]string{"join", "leave", "weight", "zone"}).Draw(t, "kind"); {
		case kind == "join" || len(after) == 0:
			after = append(after, consistenthash.Node{
				ID:     fmt.Sprint("node-", rapid.IntRange(71, 99).Draw(t, "id")), // twice the same: a duplicate
				Weight: rapid.IntRange(0, 5).Draw(t, "weight"),
				Zone:   fmt.Sprint("zone-", rapid.IntRange(1, 6).Draw(t, "zone")),
			})
		case kind == "leave":
			after = slices.Delete(after, i, i+1)
		case kind == "weight":
			after[i].Weight = rapid.IntRange(1, 100).Draw(t, "weight")
		default:
			after[i].Zone = "zone-new"
		}
	}
	return after
}

// requireSame fails unless a and b cannot be told apart.
func requireSame(t rapid.TB, got, want *consistenthash.Table) {
	t.Helper()
	if diff := cmp.Diff(want.Nodes(), got.Nodes()); diff != "" {
		t.Fatalf("nodes differ (-want +got):\n%s", diff)
	}
	for slot := range consistenthash.Slots {
		n := 4 // those that are stored
		if slot%512 == 0 {
			n = want.Len()
		}
		g, w := got.AppendOwners(make([]int, 0, 4), slot, n), want.AppendOwners(make([]int, 0, 4), slot, n)
		if !slices.Equal(g, w) {
			t.Fatalf("owners of slot %d = %v, want %v", slot, g, w)
		}
	}
	for _, n := range want.Nodes() {
		if g, w := got.Share(n.ID), want.Share(n.ID); g != w {
			t.Fatalf("Share(%q) = %v, want %v", n.ID, g, w)
		}
	}
	if g, w := got.Digest(), want.Digest(); g != w {
		t.Fatalf("Digest() = %#x, want %#x", g, w)
	}
}

// owned counts the slots of each node as Owner tells them.
func owned(table *consistenthash.Table) map[string]int {
	slots := make(map[string]int)
	if table.Len() == 0 {
		return slots
	}
	for slot := range consistenthash.Slots {
		slots[table.Nodes()[table.Owner(slot)].ID]++
	}
	return slots
}

// full returns the IDs of the nodes that own all the slots they may.
func full(table *consistenthash.Table) map[string]bool {
	slots, ids := owned(table), make(map[string]bool)
	for i, n := range table.Nodes() {
		ids[n.ID] = slots[n.ID] == limit(table.Nodes(), i)
	}
	return ids
}

func TestWithIsNew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := nodesGen().Draw(t, "nodes")
		table := consistenthash.New(nodes)
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			nodes = changed(t, nodes)
			table = table.With(nodes)
		}
		requireSame(t, table, consistenthash.New(nodes))
	})
}

func TestWithAnyOtherNodesIsNew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, nodes := nodesGen().Draw(t, "before"), nodesGen().Draw(t, "nodes")
		requireSame(t, consistenthash.New(before).With(nodes), consistenthash.New(nodes))
	})
}

// A rolling restart under new names wears the lists of candidates: each leave
// takes from some, and few of those that join get in.
func TestWithIsNewAfterManySteps(t *testing.T) {
	n := 40
	if underRace {
		n = 15
	}
	for _, zones := range []int{1, 4} {
		nodes := inZones(weighted(members(2*n)), zones)
		table := consistenthash.New(nodes[:n])
		for i := range n {
			table = table.With(nodes[i : i+n+1]).With(nodes[i+1 : i+n+1])
		}
		requireSame(t, table, consistenthash.New(nodes[n:]))
	}
}

func TestOrderOfNodesDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := nodesGen().Draw(t, "nodes")
		shuffled := rapid.Permutation(nodes).Draw(t, "shuffled")
		requireSame(t, consistenthash.New(shuffled), consistenthash.New(nodes))
	})
}

func TestOnlyChangesAndCapsMoveSlots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := nodesGen().Filter(func(n []consistenthash.Node) bool { return len(n) > 0 }).Draw(t, "nodes")
		old := consistenthash.New(nodes)
		table := old.With(changed(t, nodes))
		if table.Len() == 0 {
			return
		}
		weights := make(map[string]int)
		for _, n := range old.Nodes() {
			weights[n.ID] = n.Weight
		}
		same := make(map[string]bool) // nodes whose scores are what they were
		for _, n := range table.Nodes() {
			same[n.ID] = weights[n.ID] == n.Weight
		}
		fullBefore, fullAfter := full(old), full(table)
		for m := range table.Diff(old) {
			// Between two nodes that stayed a slot moves only because the one
			// refuses it now, or the other did before.
			if same[m.From] && same[m.To] && !fullAfter[m.From] && !fullBefore[m.To] {
				t.Fatalf("slot %d moved from %q to %q, and neither is at its cap", m.Slot, m.From, m.To)
			}
		}
	})
}

func TestDiffAppliedToOldGivesNew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, table := consistenthash.New(nodesGen().Draw(t, "old")), consistenthash.New(nodesGen().Draw(t, "new"))
		owner := func(table *consistenthash.Table, slot int) string {
			if i := table.Owner(slot); i >= 0 {
				return table.Nodes()[i].ID
			}
			return ""
		}
		moves, last := make(map[int]consistenthash.Move), -1
		for m := range table.Diff(old) {
			if m.Slot <= last || m.From == m.To || m.From != owner(old, m.Slot) {
				t.Fatalf("move %+v after slot %d, owner %q", m, last, owner(old, m.Slot))
			}
			moves[m.Slot], last = m, m.Slot
		}
		for slot := range consistenthash.Slots {
			got := owner(old, slot)
			if m, ok := moves[slot]; ok {
				got = m.To
			}
			if want := owner(table, slot); got != want {
				t.Fatalf("slot %d: owner by Diff = %q, want %q", slot, got, want)
			}
		}
	})
}

func TestOwnersAreDistinctAndInDistinctZonesFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := consistenthash.New(nodesGen().Draw(t, "nodes"))
		zones := make(map[string]bool)
		for _, n := range table.Nodes() {
			zones[n.Zone] = true
		}
		n := rapid.IntRange(1, table.Len()+2).Draw(t, "n")
		for slot := range consistenthash.Slots {
			if n > 4 && slot%64 != 0 { // computed anew, which takes longer
				continue
			}
			owners := table.AppendOwners(nil, slot, n)
			if want := min(n, table.Len()); len(owners) != want {
				t.Fatalf("slot %d: %d owners, want %d", slot, len(owners), want)
			}
			if len(owners) > 0 && owners[0] != table.Owner(slot) {
				t.Fatalf("slot %d: first of %v is not Owner() = %d", slot, owners, table.Owner(slot))
			}
			seen, seenZones := make(map[int]bool), make(map[string]bool)
			for i, o := range owners {
				zone := table.Nodes()[o].Zone
				if seen[o] {
					t.Fatalf("slot %d: node %d twice in %v", slot, o, owners)
				}
				if i < len(zones) && seenZones[zone] {
					t.Fatalf("slot %d: %q twice among the first %d of %v", slot, zone, i+1, owners)
				}
				seen[o], seenZones[zone] = true, true
			}
		}
	})
}

func TestNoNodeIsBeyondItsCap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		requireCaps(t, consistenthash.New(nodesGen().Draw(t, "nodes")))
	})
}

// requireCaps fails if a node owns more than it may, or shares do not add up.
func requireCaps(t rapid.TB, table *consistenthash.Table) {
	t.Helper()
	if table.Len() == 0 {
		return
	}
	slots, sum := owned(table), 0.0
	for i, n := range table.Nodes() {
		if most := limit(table.Nodes(), i); slots[n.ID] > most {
			t.Errorf("%+v owns %d slots, want at most %d", n, slots[n.ID], most)
		}
		if got, want := table.Share(n.ID), float64(slots[n.ID])/consistenthash.Slots; got != want {
			t.Errorf("Share(%q) = %v, want %v", n.ID, got, want)
		}
		sum += table.Share(n.ID)
	}
	if sum < 1-1e-9 || sum > 1+1e-9 {
		t.Errorf("shares add up to %v, want 1", sum)
	}
}

// FuzzTable reads two sets of nodes, four bytes a node: which set, ID, weight
// and zone. They are few: a run looks at every slot of three tables, and what
// takes many nodes is left to the tests above.
func FuzzTable(f *testing.F) {
	f.Add([]byte{}, uint64(0))
	f.Add([]byte("0a1z1a1z"), uint64(1))
	f.Add([]byte("2a1z2b\xffz2c\x80y2d\x00x2e1w0f2z1g3z2h1z2i1z2j1z1k1z"), uint64(2))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		var sets [2][]consistenthash.Node
		for node := range slices.Chunk(data[:min(len(data), 4*16)/4*4], 4) {
			n := consistenthash.Node{ID: string(node[1:2]), Weight: int(int8(node[2])), Zone: string(node[3:])}
			if node[1] == 0 {
				n.ID = ""
			}
			for i := range sets {
				if node[0]%3 == byte(i) || node[0]%3 == 2 {
					sets[i] = append(sets[i], n)
				}
			}
		}
		old, table := consistenthash.New(sets[0]), consistenthash.New(sets[1])
		requireSame(t, old.With(sets[1]), table)
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(sets[1]), func(i, j int) {
			sets[1][i], sets[1][j] = sets[1][j], sets[1][i]
		})
		requireSame(t, consistenthash.New(sets[1]), table)
		requireCaps(t, table)
		for slot := range consistenthash.Slots {
			owners := table.AppendOwners(nil, slot, 4)
			if slices.Sort(owners); len(slices.Compact(owners)) != min(4, table.Len()) {
				t.Fatalf("owners of slot %d are %v", slot, owners)
			}
		}
	})
}
