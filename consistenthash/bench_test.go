package consistenthash_test

import (
	"fmt"
	"testing"

	"github.com/peercache/peercache/consistenthash"
)

func BenchmarkHash(b *testing.B) {
	seed := consistenthash.Seed("users")
	b.ReportAllocs()
	for b.Loop() {
		consistenthash.Hash(seed, "user-0000012345")
	}
}

func BenchmarkOwner(b *testing.B) {
	for _, n := range []int{3, 10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := consistenthash.New(members(n))
			b.ReportAllocs()
			hash, sum := uint64(1), 0
			for b.Loop() {
				hash *= 0xd1342543de82ef95 // all slots in a random order
				sum += t.Owner(consistenthash.Slot(hash))
			}
			if sum < 0 {
				b.Fatal("no owner")
			}
		})
	}
}

func BenchmarkAppendOwners(b *testing.B) {
	for _, n := range []int{3, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := consistenthash.New(members(100))
			b.ReportAllocs()
			hash, dst := uint64(1), make([]int, 0, n)
			for b.Loop() {
				hash *= 0xd1342543de82ef95
				dst = t.AppendOwners(dst[:0], consistenthash.Slot(hash), n)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for _, n := range []int{1, 3, 10, 30, 100, 256, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			nodes := members(n)
			b.ReportAllocs()
			for b.Loop() {
				consistenthash.New(nodes)
			}
		})
	}
	for _, zones := range []int{2, 3, 4, 10} {
		b.Run(fmt.Sprintf("1000in%dZones", zones), func(b *testing.B) {
			nodes := inZones(members(1000), zones)
			b.ReportAllocs()
			for b.Loop() {
				consistenthash.New(nodes)
			}
		})
	}
	b.Run("1000weighted", func(b *testing.B) {
		nodes := weighted(members(1000))
		b.ReportAllocs()
		for b.Loop() {
			consistenthash.New(nodes)
		}
	})
}

func BenchmarkWith(b *testing.B) {
	for _, n := range []int{3, 10, 100, 1000} {
		nodes := members(n)
		b.Run(fmt.Sprintf("join/%d", n), func(b *testing.B) {
			t := consistenthash.New(nodes[:n-1])
			b.ReportAllocs()
			for b.Loop() {
				t.With(nodes)
			}
		})
		b.Run(fmt.Sprintf("leave/%d", n), func(b *testing.B) {
			t := consistenthash.New(nodes)
			b.ReportAllocs()
			for b.Loop() {
				t.With(nodes[1:])
			}
		})
	}
	for _, zones := range []int{3, 4} {
		b.Run(fmt.Sprintf("leave/1000in%dZones", zones), func(b *testing.B) {
			nodes := inZones(members(1000), zones)
			t := consistenthash.New(nodes)
			for i := range 200 { // wear the lists of candidates
				t = t.With(nodes[i:])
			}
			b.ReportAllocs()
			for b.Loop() {
				t.With(nodes[200:])
			}
		})
	}
}

func BenchmarkDiff(b *testing.B) {
	nodes := members(100)
	old := consistenthash.New(nodes[1:])
	t := old.With(nodes)
	b.ReportAllocs()
	for b.Loop() {
		for range t.Diff(old) {
		}
	}
}

// members returns n nodes with IDs as they are in use.
func members(n int) []consistenthash.Node {
	nodes := make([]consistenthash.Node, n)
	for i := range nodes {
		nodes[i].ID = fmt.Sprintf("http://10.0.%d.%d:8080", i/200, i%200+1)
	}
	return nodes
}

// inZones spreads nodes over zones.
func inZones(nodes []consistenthash.Node, zones int) []consistenthash.Node {
	for i := range nodes {
		nodes[i].Zone = fmt.Sprintf("zone-%d", i%zones)
	}
	return nodes
}

// weighted gives nodes weights from 1 to 100.
func weighted(nodes []consistenthash.Node) []consistenthash.Node {
	for i := range nodes {
		nodes[i].Weight = 1 + i*37%100
	}
	return nodes
}
