package peercache_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// What a Remove takes, and what it costs those who Get. All nodes are in this process, on
// loopback, so that time and allocations are those of the caller and of all who are told:
//
//	go test -run '^$' -bench 'Remov|Clear' -count 5 .

// A removalNode is a node with a cache that keeps copies.
type removalNode struct {
	*benchNode
	copies *peercache.Cache[string]
}

func removalNodes(b *testing.B, n int) []*removalNode {
	b.Helper()
	nodes := make([]*removalNode, n)
	peers := make([]peercache.Peer, n)
	for i := range nodes {
		bench, err := startBenchNode(b.Context(), 1)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(bench.stop)
		copies := peercache.New("copies", valueOf, &peercache.Options{Node: bench.Node, HotTTL: time.Hour, MaxBytes: 1 << 30})
		nodes[i], peers[i] = &removalNode{bench, copies}, bench.Self()
	}
	for _, node := range nodes {
		if err := node.SetPeers(peers...); err != nil {
			b.Fatal(err)
		}
	}
	for _, node := range nodes { // each connects to all
		if err := node.copies.Remove(b.Context(), "k"); err != nil {
			b.Fatal(err)
		}
	}
	return nodes
}

func BenchmarkRemove(b *testing.B) {
	for _, n := range []int{1, 5, 50} {
		b.Run(fmt.Sprint(n, " nodes"), func(b *testing.B) {
			cache := removalNodes(b, n)[0].copies
			var took []time.Duration
			b.ReportAllocs()
			cpu := cpuTime(b)
			for b.Loop() {
				start := time.Now()
				if err := cache.Remove(b.Context(), "key"); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			b.ReportMetric(float64(cpuTime(b)-cpu)/float64(len(took)), "cpu-ns/op")
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
		})
	}
}

func BenchmarkRemoveByManyCallers(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(callers, " callers"), func(b *testing.B) {
			nodes := removalNodes(b, 5)
			work := make(chan string)
			var wg sync.WaitGroup
			for c := range callers {
				cache := nodes[c%len(nodes)].copies
				wg.Go(func() {
					for key := range work {
						if err := cache.Remove(b.Context(), key); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ReportAllocs()
			start, n := time.Now(), 0
			for b.Loop() {
				work <- fmt.Sprint("key-", n%1000)
				n++
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(n)/time.Since(start).Seconds(), "removes/s")
		})
	}
}

// The time of a Get with a thousand Removes a second by another node beside it, and
// without, by turns of a tenth of a second.
func BenchmarkGetBesideRemoves(b *testing.B) {
	for _, hits := range []bool{true, false} {
		for _, same := range []bool{false, true} {
			name := map[bool]string{true: "hits", false: "fetches"}[hits] + map[bool]string{true: " of the same keys", false: " of other keys"}[same]
			b.Run(name, func(b *testing.B) {
				nodes := removalNodes(b, 5)
				asker, remover := nodes[0], nodes[1]
				if hits {
					besideRemoves(b, asker.copies, remover.copies, asker.Self().URL, same)
				} else {
					besideRemoves(b, asker.cache, remover.cache, asker.Self().URL, same)
				}
			})
		}
	}
}

func besideRemoves[V any](b *testing.B, asker, remover *peercache.Cache[V], self string, same bool) {
	b.Helper()
	var keys []string
	for i := 0; len(keys) < 256; i++ {
		key := fmt.Sprint("key-", i)
		if asker.Owner(key) != self {
			keys = append(keys, key)
		}
	}
	ctx, cancel := context.WithCancel(b.Context())
	var removing atomic.Bool
	var removes atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		pace := time.NewTicker(5 * time.Millisecond) // a shorter one is not kept where all processors are busy
		defer pace.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			if i%5 == 0 {
				<-pace.C
			}
			if !removing.Load() {
				continue
			}
			key := keys[i%len(keys)]
			if !same {
				key = "other-" + key
			}
			wg.Go(func() {
				if err := remover.Remove(b.Context(), key); err != nil {
					b.Error(err)
				}
				removes.Add(1)
			})
		}
	})
	var took [2]time.Duration
	var gets [2]int
	turn := func(beside int) {
		removing.Store(beside == 1)
		for start := time.Now(); ; {
			for _, key := range keys {
				if _, err := asker.Get(b.Context(), key); err != nil {
					b.Fatal(err)
				}
			}
			gets[beside] += len(keys)
			if spent := time.Since(start); spent > 100*time.Millisecond {
				took[beside] += spent
				return
			}
		}
	}
	turn(0) // what is not there yet is loaded
	took, gets = [2]time.Duration{}, [2]int{}
	for b.Loop() {
		turn(0)
		turn(1)
	}
	cancel()
	wg.Wait()
	quiet := float64(took[0]) / float64(gets[0])
	beside := float64(took[1]) / float64(gets[1])
	b.ReportMetric(0, "ns/op") // that of a pair of turns
	b.ReportMetric(quiet, "quiet-ns/get")
	b.ReportMetric(beside, "beside-ns/get")
	b.ReportMetric(beside/quiet, "ratio")
	b.ReportMetric(float64(removes.Load())/took[1].Seconds(), "removes/s")
}

// A Clear of a million entries, and of none.
func BenchmarkClear(b *testing.B) {
	cache := removalNodes(b, 1)[0].copies
	var full []time.Duration
	for range 3 {
		for i := range 1_000_000 {
			if _, err := cache.Get(b.Context(), fmt.Sprint("key-", i)); err != nil {
				b.Fatal(err)
			}
		}
		if n := cache.Stats().Entries; n < 990_000 {
			b.Fatalf("%d entries, want a million", n)
		}
		start := time.Now()
		if err := cache.Clear(b.Context()); err != nil {
			b.Fatal(err)
		}
		full = append(full, time.Since(start))
	}
	for b.Loop() {
		if err := cache.Clear(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(slices.Min(full)), "million-ns")
}
