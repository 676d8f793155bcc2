package peercache_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

const (
	// What is asked for: keys by Zipf's law, the first of them in a fourth of all Gets.
	balanceKeys = 1000
	balanceZipf = 1.2

	// For 40 s, which are four lives of a copy, each node is asked 50 times a second. It is
	// little: the more often a key is asked for within one life, the less its owner
	// hears of that.
	balanceGets     = 10_000
	balanceInterval = 4 * time.Millisecond

	// balanceLimit is how many times its share a node may serve.
	balanceLimit = 1.5
)

// Most of a load is for a few keys, and each of them has one owner. What a node serves is
// the work that it does, wherever the callers are: Gets of its own callers from its memory,
// copies included; keys that it answers to peers; keys that it loads. So each Get is
// work for one node, to which a load adds one unit. The node that fetches has only waited.
// A node's share is that part of all Gets which its weight is of all weights. The callers
// are spread evenly, also where weights differ.
func TestNoNodeServesMuchMoreThanItsShare(t *testing.T) {
	equal, weighted := []int{1, 1, 1, 1, 1}, []int{1, 1, 2, 1, 1}
	var table strings.Builder
	for _, c := range []struct {
		name    string
		weights []int
		caches  func(t *testing.T, weights []int, load peercache.Loader[string], opts *peercache.Options) []*peercache.Cache[string]
		hotTTL  time.Duration
		limit   float64
	}{
		{"equal weights", equal, equalCaches, 0, balanceLimit},
		{"one node of twice the weight", weighted, weightedCaches, 0, balanceLimit},
		// The owner of the first key answers all Gets for it.
		{"equal weights, no copies", equal, equalCaches, -1, math.Inf(1)},
		{"one node of twice the weight, no copies", weighted, weightedCaches, -1, math.Inf(1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &origin{}
				caches := c.caches(t, c.weights, o.load, &peercache.Options{HotTTL: c.hotTTL})
				ranks := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), balanceZipf, 1, balanceKeys-1)
				for i := range balanceGets {
					wantValue(t, caches[i%len(caches)], fmt.Sprint("key-", ranks.Uint64()))
					time.Sleep(balanceInterval)
				}
				fmt.Fprintf(&table, "%-39s", c.name)
				for i, times := range timesItsShare(t, caches, c.weights) {
					if times > c.limit {
						t.Errorf("node %d served %.2f times its share, want at most %v", i, times, c.limit)
					}
					fmt.Fprintf(&table, "  %.2f", times)
				}
				table.WriteByte('\n')
			})
		})
	}
	t.Logf("what each node served, as times its share\n%s", table.String())
}

// timesItsShare returns what each node served, as a multiple of its share.
func timesItsShare(t *testing.T, caches []*peercache.Cache[string], weights []int) []float64 {
	t.Helper()
	sum := 0
	for _, w := range weights {
		sum += w
	}
	times := make([]float64, len(caches))
	for i, c := range caches {
		s := c.Stats()
		if want := int64(balanceGets / len(caches)); s.Gets != want {
			t.Errorf("node %d: %d Gets, want %d", i, s.Gets, want)
		}
		share := float64(balanceGets) * float64(weights[i]) / float64(sum)
		times[i] = float64(s.Hits+s.Served+s.Loads) / share
	}
	return times
}

// equalCaches returns caches on a cluster.
func equalCaches(t *testing.T, weights []int, load peercache.Loader[string], opts *peercache.Options) []*peercache.Cache[string] {
	t.Helper()
	return cachetest.Caches(cachetest.NewCluster(t, len(weights)), "c", load, opts)
}

// weightedCaches returns caches on nodes that were told these weights: those of a cluster
// have the default.
func weightedCaches(t *testing.T, weights []int, load peercache.Loader[string], opts *peercache.Options) []*peercache.Cache[string] {
	t.Helper()
	b := newBareNodes(t, len(weights))
	peers := make([]peercache.Peer, len(weights))
	for i, n := range b.nodes {
		peers[i] = peercache.Peer{URL: n.Self().URL, Weight: weights[i]}
	}
	for _, n := range b.nodes {
		if err := n.SetPeers(peers...); err != nil {
			t.Fatal(err)
		}
	}
	return bareCaches(b, "c", load, opts)
}
