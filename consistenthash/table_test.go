package consistenthash_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache/consistenthash"
)

func TestTableOfNoNodesHasNoOwners(t *testing.T) {
	for name, table := range map[string]*consistenthash.Table{
		"zero":     {},
		"nil":      consistenthash.New(nil),
		"no IDs":   consistenthash.New([]consistenthash.Node{{Zone: "a"}, {Weight: 3}}),
		"all left": consistenthash.New(members(3)).With(nil),
	} {
		t.Run(name, func(t *testing.T) {
			if got := table.Owner(4711); got != -1 {
				t.Errorf("Owner(4711) = %d, want -1", got)
			}
			if got := table.AppendOwners(nil, 4711, 9); got != nil {
				t.Errorf("AppendOwners(nil, 4711, 9) = %v, want none", got)
			}
			if table.Len() != 0 || len(table.Nodes()) != 0 || table.Digest() != 0 || table.Share("") != 0 {
				t.Errorf("Len, Nodes, Digest, Share = %d, %v, %d, %v, want none",
					table.Len(), table.Nodes(), table.Digest(), table.Share(""))
			}
			for m := range table.Diff(nil) {
				t.Errorf("move %+v between tables of no nodes", m)
			}
			requireSame(t, table.With(members(9)), consistenthash.New(members(9)))
		})
	}
}

func TestAnyNodesAreAccepted(t *testing.T) {
	nodes := []consistenthash.Node{
		{ID: "c", Weight: math.MaxInt},
		{ID: "", Weight: 7},
		{ID: "b", Weight: 0},
		{ID: "a", Weight: math.MinInt, Zone: "y"},
		{ID: "a", Weight: 5, Zone: "z"},
		{ID: "a", Weight: 5, Zone: "x"},
		{ID: "a", Weight: 4, Zone: "w"},
	}
	want := []consistenthash.Node{{ID: "a", Weight: 5, Zone: "x"}, {ID: "b", Weight: 1}, {ID: "c", Weight: 100}}
	given := slices.Clone(nodes)
	table := consistenthash.New(nodes)
	if diff := cmp.Diff(want, table.Nodes()); diff != "" {
		t.Errorf("nodes differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(given, nodes); diff != "" {
		t.Errorf("New changed its argument (-want +got):\n%s", diff)
	}
	clear(nodes)
	if diff := cmp.Diff(want, table.Nodes()); diff != "" {
		t.Errorf("New kept its argument (-want +got):\n%s", diff)
	}
	slices.Reverse(given)
	requireSame(t, consistenthash.New(given), table)
}

func TestWithLeavesTheOldTableAsItIs(t *testing.T) {
	nodes := members(30)
	old := consistenthash.New(nodes[1:])
	old.With(nodes).With(nodes[:12])
	requireSame(t, old, consistenthash.New(nodes[1:]))
	if same := old.With(slices.Concat(nodes[10:], nodes[1:10])); same != old {
		t.Error("With of the same nodes is another table")
	}
}

func TestNodesBeyondTheLimitAreLeftOut(t *testing.T) {
	nodes := members(consistenthash.MaxNodes + 100)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	table := consistenthash.New(nodes)
	slices.SortFunc(nodes, func(a, b consistenthash.Node) int { return strings.Compare(a.ID, b.ID) })
	if got := table.Len(); got != consistenthash.MaxNodes {
		t.Fatalf("Len() = %d, want %d", got, consistenthash.MaxNodes)
	}
	if got, want := table.Nodes()[table.Len()-1].ID, nodes[consistenthash.MaxNodes-1].ID; got != want {
		t.Errorf("last node = %q, want %q", got, want)
	}
	requireCaps(t, table)
}

func TestStoredOwnersAreThoseOfTheWholeRanking(t *testing.T) {
	rare := members(600)
	for i := range rare[:20] {
		rare[i].Zone = fmt.Sprint("rare-", i%2) // seldom listed
	}
	for name, nodes := range map[string][]consistenthash.Node{
		"1Zone": members(400), "3Zones": inZones(members(400), 3), "rareZones": rare,
	} {
		t.Run(name, func(t *testing.T) {
			table := consistenthash.New(nodes)
			for slot := 0; slot < consistenthash.Slots; slot += 29 {
				got, want := table.AppendOwners(nil, slot, 4), table.AppendOwners(nil, slot, 5)[:4]
				if !slices.Equal(got, want) {
					t.Fatalf("first owners of slot %d = %v, want %v", slot, got, want)
				}
			}
		})
	}
}

func TestSharesFollowWeights(t *testing.T) {
	for _, test := range []struct {
		name   string
		groups map[int]int // by weight: how many nodes
	}{
		{"1and2", map[int]int{1: 1, 2: 1}},
		{"1to5", map[int]int{1: 1, 2: 1, 3: 1, 4: 1, 5: 1}},
		{"fewHeavy", map[int]int{1: 30, 10: 3}},
		{"extreme", map[int]int{1: 100, 100: 2}},
		{"many", map[int]int{1: 100, 2: 100, 4: 100}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var nodes []consistenthash.Node
			total := 0
			for weight, n := range test.groups {
				for i := range n {
					nodes = append(nodes, consistenthash.Node{ID: fmt.Sprintf("w%d-%d", weight, i), Weight: weight})
				}
				total += weight * n
			}
			table := consistenthash.New(nodes)
			shares := make(map[int]float64)
			for _, n := range table.Nodes() {
				shares[n.Weight] += table.Share(n.ID)
			}
			for weight, n := range test.groups {
				want := float64(weight*n) / float64(total)
				if got := shares[weight]; math.Abs(got/want-1) > 0.03 {
					t.Errorf("share of %d nodes of weight %d = %.4f, want %.4f", n, weight, got, want)
				}
			}
		})
	}
}

func TestBusiestNodeIsNearTheMean(t *testing.T) {
	for _, test := range []struct {
		nodes int
		peak  float64
	}{{3, 1.03}, {10, 1.05}, {100, 1.05}, {256, 1.05}, {257, 1.15}, {1000, 1.15}} {
		table := consistenthash.New(members(test.nodes))
		peak := 0.0
		for _, n := range table.Nodes() {
			peak = max(peak, table.Share(n.ID)*float64(test.nodes))
		}
		if peak > test.peak {
			t.Errorf("%d nodes: peak to mean = %.4f, want at most %.2f", test.nodes, peak, test.peak)
		}
	}
}

func TestJoinsAndLeavesMoveLittleMoreThanTheyMust(t *testing.T) {
	for _, test := range []struct {
		nodes int
		most  float64 // of what a join or leave has to move, mean of 50 in a row
	}{{5, 1.02}, {30, 1.02}, {100, 1.1}, {200, 1.2}, {850, 1.3}} {
		if underRace && test.nodes > 5 {
			continue // a figure that the detector has no part in
		}
		all := members(test.nodes + 50)
		table := consistenthash.New(all[:test.nodes])
		mean := func(next func(i int) []consistenthash.Node) float64 {
			sum := 0.0
			for i := range 50 {
				old := table
				table = old.With(next(i))
				for range table.Diff(old) {
					sum += float64(max(old.Len(), table.Len())) / consistenthash.Slots
				}
			}
			return sum / 50
		}
		joins := mean(func(i int) []consistenthash.Node { return all[:test.nodes+1+i] })
		leaves := mean(func(i int) []consistenthash.Node { return all[1+i:] })
		t.Logf("%d nodes: joins %.3f, leaves %.3f of the minimum", test.nodes, joins, leaves)
		if joins > test.most || leaves > test.most {
			t.Errorf("%d nodes: joins moved %.3f and leaves %.3f of the minimum, want at most %.2f",
				test.nodes, joins, leaves, test.most)
		}
	}
}

func TestDeadNodesSlotsGoToTheirSecondOwner(t *testing.T) {
	nodes := members(12)
	table := consistenthash.New(nodes)
	without := table.With(nodes[1:])
	spread := make(map[string]int)
	for m := range without.Diff(table) {
		second := table.Nodes()[table.AppendOwners(nil, m.Slot, 2)[1]].ID
		if m.From != nodes[0].ID || m.To != second {
			t.Fatalf("slot %d moved from %q to %q, want from %q to %q", m.Slot, m.From, m.To, nodes[0].ID, second)
		}
		spread[m.To]++
	}
	// A twelfth of the slots, over eleven nodes: 497 each, give or take.
	for _, n := range nodes[1:] {
		if got := spread[n.ID]; got < 400 || got > 600 {
			t.Errorf("%q took %d slots of the dead node, want about 497", n.ID, got)
		}
	}
	requireSame(t, without.With(nodes), table)
}

func TestKeysSpreadWhateverTheyLookLike(t *testing.T) {
	keys := 100_000
	if underRace {
		keys = 20_000
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{5, 50} {
		table, seed := consistenthash.New(members(n)), consistenthash.Seed("users")
		// unevenness is chi square per degree of freedom: about 1 by chance.
		unevenness := func(key func(i int) string) float64 {
			counts := make([]float64, n)
			for i := range keys {
				counts[table.Owner(consistenthash.Slot(consistenthash.Hash(seed, key(i))))]++
			}
			sum := 0.0
			for i, got := range counts {
				want := float64(keys) * table.Share(table.Nodes()[i].ID)
				sum += (got - want) * (got - want) / want
			}
			return sum / float64(n-1)
		}
		random := unevenness(func(int) string { return fmt.Sprintf("%016x", rnd.Uint64()) })
		for name, key := range map[string]func(i int) string{
			"sequential": func(i int) string { return fmt.Sprintf("user-%04d", i) },
			"short":      func(i int) string { return fmt.Sprint(i) },
			"hex":        func(i int) string { return fmt.Sprintf("%08x", i) },
			"path":       func(i int) string { return fmt.Sprintf("/v1/%d/orders/%d.json", i%100, i/100) },
			"long":       func(i int) string { return fmt.Sprintf("%0250d", i) },
		} {
			got := unevenness(key)
			t.Logf("%d nodes: unevenness of %s keys %.2f, of random ones %.2f", n, name, got, random)
			if got > random+2 {
				t.Errorf("%d nodes: unevenness of %s keys = %.2f, of random ones %.2f", n, name, got, random)
			}
		}
	}
}

func TestCachesPlaceTheSameKeyIndependently(t *testing.T) {
	table := consistenthash.New(members(10))
	owner := func(name, key string) int {
		return table.Owner(consistenthash.Slot(consistenthash.Hash(consistenthash.Seed(name), key)))
	}
	same := 0
	for i := range 10_000 {
		if key := fmt.Sprintf("user-%d", i); owner("users", key) == owner("sessions", key) {
			same++
		}
	}
	if same < 900 || same > 1100 {
		t.Errorf("%d of 10,000 keys have one owner in two caches, want about 1,000", same)
	}
}

func TestDigestSeesEverything(t *testing.T) {
	nodes := members(12)
	seen := map[uint64]string{consistenthash.New(nodes).Digest(): "the same"}
	for name, change := range map[string]func(n []consistenthash.Node) []consistenthash.Node{
		"one less":   func(n []consistenthash.Node) []consistenthash.Node { return n[1:] },
		"renamed":    func(n []consistenthash.Node) []consistenthash.Node { n[0].ID += "/"; return n },
		"heavier":    func(n []consistenthash.Node) []consistenthash.Node { n[0].Weight = 2; return n },
		"all double": func(n []consistenthash.Node) []consistenthash.Node { return withWeight(n, 2) },
		"zone":       func(n []consistenthash.Node) []consistenthash.Node { n[0].Zone = "a"; return n },
		"all in one": func(n []consistenthash.Node) []consistenthash.Node { return inZones(n, 1) },
	} {
		digest := consistenthash.New(change(slices.Clone(nodes))).Digest()
		if other, ok := seen[digest]; ok {
			t.Errorf("digest with %s is that with %s", name, other)
		}
		seen[digest] = name
	}
}

func withWeight(nodes []consistenthash.Node, weight int) []consistenthash.Node {
	for i := range nodes {
		nodes[i].Weight = weight
	}
	return nodes
}

func TestDiffCanBeLeftEarly(t *testing.T) {
	n := 0
	for range consistenthash.New(members(2)).Diff(nil) {
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("saw %d moves, want 3", n)
	}
}

func TestProcessorsDoNotMatter(t *testing.T) {
	nodes := inZones(weighted(members(20)), 3)
	want := consistenthash.New(nodes)
	for _, n := range []int{1, 7} {
		before := runtime.GOMAXPROCS(n)
		got := consistenthash.New(nodes[1:]).With(nodes)
		runtime.GOMAXPROCS(before)
		requireSame(t, got, want)
	}
}

func TestTableIsSafeForConcurrentUse(t *testing.T) {
	nodes := inZones(members(20), 3)
	table := consistenthash.New(nodes)
	want := table.With(nodes[1:]).Digest()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got := table.With(nodes[1:]).Digest(); got != want {
				t.Errorf("digest = %#x, want %#x", got, want)
			}
			for slot := 0; slot < consistenthash.Slots; slot += 97 {
				if owners := table.AppendOwners(nil, slot, 6); owners[0] != table.Owner(slot) {
					t.Errorf("slot %d: owners %v, want first %d", slot, owners, table.Owner(slot))
				}
			}
		})
	}
	wg.Wait()
}

func TestLookupDoesNotAllocate(t *testing.T) {
	table := consistenthash.New(members(20))
	dst := make([]int, 0, 4)
	if n := testing.AllocsPerRun(100, func() {
		slot := consistenthash.Slot(consistenthash.Hash(consistenthash.Seed("users"), "user-0001"))
		dst = table.AppendOwners(dst[:0], slot, 4)
		dst[0] = table.Owner(slot)
	}); n != 0 {
		t.Errorf("a lookup allocates %v times, want 0", n)
	}
}
