package consistenthash_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/peercache/peercache/consistenthash"
)

// limit is the most slots that node i may own.
func limit(nodes []consistenthash.Node, i int) int {
	total := 0
	for _, n := range nodes {
		total += n.Weight
	}
	slots := nodes[i].Weight * consistenthash.Slots // divided by total: the fair share
	twentieths := 21
	if slots < 256*total {
		twentieths = 23
	}
	roundedUp := slots / total
	if slots%total > 0 {
		roundedUp++
	}
	return max(slots*twentieths/20/total, roundedUp)
}

// naive returns a function that returns the first n owners of a slot. It sorts
// all nodes for every slot, lets every slot propose until no node is over its
// limit, and picks zones one by one. The nodes are sorted.
func naive(nodes []consistenthash.Node) func(slot, n int) []int {
	ranking, scores := make([][]int, consistenthash.Slots), make([][]uint64, consistenthash.Slots)
	for slot := range ranking {
		ranking[slot], scores[slot] = make([]int, 0, len(nodes)), make([]uint64, 0, len(nodes))
		for i, n := range nodes {
			ranking[slot] = append(ranking[slot], i)
			scores[slot] = append(scores[slot], consistenthash.Score(n, slot))
		}
		slices.SortStableFunc(ranking[slot], func(a, b int) int { return cmp.Compare(scores[slot][a], scores[slot][b]) })
	}
	place := make([]int, consistenthash.Slots)
	for again := true; again; {
		again = false
		suitors := make([][]int, len(nodes))
		for slot, p := range place {
			suitors[ranking[slot][p]] = append(suitors[ranking[slot][p]], slot)
		}
		for i, slots := range suitors {
			if len(slots) <= limit(nodes, i) {
				continue
			}
			slices.SortStableFunc(slots, func(a, b int) int { return cmp.Compare(scores[a][i], scores[b][i]) })
			for _, slot := range slots[limit(nodes, i):] {
				place[slot]++
				again = true
			}
		}
	}
	return func(slot, n int) []int {
		left := slices.Clone(ranking[slot])
		next, owners, zones := place[slot], []int(nil), map[string]bool{}
		for len(owners) < n {
			zones[nodes[left[next]].Zone] = true
			owners = append(owners, left[next])
			left = slices.Delete(left, next, next+1)
			next = max(0, slices.IndexFunc(left, func(i int) bool { return !zones[nodes[i].Zone] }))
		}
		return owners
	}
}

func TestTableIsWhatTheDefinitionSays(t *testing.T) {
	const seed = 7
	rnd := rand.New(rand.NewPCG(seed, 0))
	sets := [][]consistenthash.Node{members(1), members(2), members(70)}
	for range 4 {
		sets = append(sets, randomNodes(rnd, 2+rnd.IntN(40)))
	}
	if testing.Short() || underRace {
		sets = slices.Delete(sets, 2, 4) // sorting all nodes for every slot is what takes long
	}
	for i, nodes := range sets {
		t.Run(fmt.Sprintf("set%dof%d", i, len(nodes)), func(t *testing.T) {
			table := consistenthash.New(nodes)
			owners := naive(table.Nodes())
			for slot := range consistenthash.Slots {
				n := table.Len()
				if slot%64 != 0 {
					n = min(n, 4) // those that are stored
				}
				if got, want := table.AppendOwners(nil, slot, n), owners(slot, n); !slices.Equal(got, want) {
					t.Fatalf("owners of slot %d = %v, want %v; seed %d, nodes %v", slot, got, want, seed, nodes)
				}
			}
		})
	}
}

// randomNodes returns n nodes: sometimes of one weight, sometimes of any, in
// a few zones, sometimes of very different size.
func randomNodes(rnd *rand.Rand, n int) []consistenthash.Node {
	nodes := make([]consistenthash.Node, n)
	heaviest := []int{1, 3, 100}[rnd.IntN(3)]
	zones := 1 + rnd.IntN(6)
	for i := range nodes {
		nodes[i] = consistenthash.Node{
			ID:     fmt.Sprintf("node-%d", rnd.IntN(1e9)),
			Weight: 1 + rnd.IntN(heaviest),
			Zone:   fmt.Sprint("zone-", rnd.IntN(1+rnd.IntN(zones))),
		}
	}
	return nodes
}
