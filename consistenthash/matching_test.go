package consistenthash_test

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/peercache/peercache/consistenthash"
)

// TestOwnersAreStable looks for a slot and a node that would both rather have
// each other.
func TestOwnersAreStable(t *testing.T) {
	extreme := members(700)
	for i := range extreme {
		extreme[i].Weight = 1 + i%2*99 // half of them are due less than two slots
	}
	for name, nodes := range map[string][]consistenthash.Node{"1000": members(1000), "extreme": extreme} {
		t.Run(name, func(t *testing.T) {
			table := consistenthash.New(nodes)
			requireCaps(t, table)
			at := full(table)
			worst := make([]uint64, table.Len())
			score := func(node, slot int) uint64 { return consistenthash.Score(table.Nodes()[node], slot) }
			for slot := range consistenthash.Slots {
				owner := table.Owner(slot)
				worst[owner] = max(worst[owner], score(owner, slot))
			}
			for slot := 0; slot < consistenthash.Slots; slot += 61 {
				own := score(table.Owner(slot), slot)
				for i, n := range table.Nodes() {
					if s := score(i, slot); s < own && (!at[n.ID] || s < worst[i]) {
						t.Fatalf("slot %d and %q would both rather have each other", slot, n.ID)
					}
				}
			}
		})
	}
}

func TestEverySetOfWeightsIsFeasible(t *testing.T) {
	for _, test := range []struct {
		name         string
		light, heavy int // nodes of weight 1 and 100
	}{
		{"oneLight", 1, 999},
		{"oneHeavy", 999, 1},
		{"twoOfAKind", 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			nodes := members(test.light + test.heavy)
			withWeight(nodes[test.light:], 100)
			requireCaps(t, consistenthash.New(nodes))
		})
	}
}

func TestSlotsProposeInTheOrderOfTheirRanking(t *testing.T) {
	nodes := weighted(members(60))
	fresh := consistenthash.New(nodes[20:])
	worn := consistenthash.New(nodes)
	for i := range 20 {
		worn = worn.With(nodes[1+i:])
	}
	short := 0
	for slot := 0; slot < consistenthash.Slots; slot += 97 {
		want := make([]int, fresh.Len())
		for i := range want {
			want[i] = i
		}
		slices.SortStableFunc(want, func(a, b int) int {
			return cmp.Compare(consistenthash.Score(fresh.Nodes()[a], slot), consistenthash.Score(fresh.Nodes()[b], slot))
		})
		if got := fresh.Proposals(slot); !slices.Equal(got, want) {
			t.Fatalf("slot %d proposes to %v, want %v", slot, got, want)
		}
		if got := worn.Proposals(slot); !slices.Equal(got, want) {
			t.Fatalf("after leaves slot %d proposes to %v, want %v", slot, got, want)
		}
		if worn.Listed(slot) < fresh.Listed(slot) {
			short++
		}
	}
	if short == 0 {
		t.Error("no list was shorter after 20 leaves: the test has missed its point")
	}
}

func TestReplacedTopOfAHeapIsTheWorst(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 9))
	for range 500 {
		heap := make([]uint64, 1+rnd.IntN(40))
		for i := range heap {
			heap[i] = rnd.Uint64N(1000)
		}
		slices.SortFunc(heap, func(a, b uint64) int { return cmp.Compare(b, a) })
		want := slices.Clone(heap) // stays sorted
		for range 60 {
			r := rnd.Uint64N(heap[0] + 1)
			consistenthash.ReplaceTop(heap, r)
			want[0] = r
			slices.SortFunc(want, func(a, b uint64) int { return cmp.Compare(b, a) })
			if heap[0] != want[0] {
				t.Fatalf("top = %d, want %d", heap[0], want[0])
			}
		}
	}
}
