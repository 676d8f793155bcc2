package peercache_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// Fetches from a peer over loopback, both nodes in this process, no copies kept:
//
//	go test -run '^$' -bench Fetch -count 7 .
func BenchmarkFetch(b *testing.B) {
	for _, size := range []int{100, 64 << 10, 1 << 20} {
		for _, callers := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("%dB/%d callers", size, callers), func(b *testing.B) {
				cache, keys := fetchPair(b, size)
				benchmarkFetch(b, cache, keys, callers)
			})
		}
	}
}

// fetchPair returns the cache of a node, and keys that the one other node owns and holds.
func fetchPair(tb testing.TB, size int) (*peercache.Cache[peercache.ByteView], []string) {
	tb.Helper()
	var nodes []*peercache.Node
	for range 2 {
		l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		node, err := peercache.NewNode("http://"+l.Addr().String(), &peercache.NodeOptions{Logger: discardLogger()})
		if err != nil {
			tb.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.Handle(node.Handler())
		server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
		go func() { _ = server.Serve(l) }()
		tb.Cleanup(func() {
			_ = node.Leave(tb.Context()) // which has ended when this runs
			server.Close()
		})
		nodes = append(nodes, node)
	}
	view := peercache.View(strings.Repeat("v", size))
	load := func(context.Context, string) (peercache.ByteView, time.Duration, error) { return view, time.Hour, nil }
	var caches []*peercache.Cache[peercache.ByteView]
	for _, node := range nodes {
		if err := node.SetPeers(nodes[0].Self(), nodes[1].Self()); err != nil {
			tb.Fatal(err)
		}
		caches = append(caches, peercache.New("bench", load, &peercache.Options{Node: node, HotTTL: -1, MaxBytes: 1 << 30}))
	}
	var keys []string
	for i := 0; len(keys) < 256; i++ {
		if key := fmt.Sprint("key-", i); caches[0].Owner(key) == nodes[1].Self().URL {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if v, err := caches[0].Get(tb.Context(), key); err != nil || v != view {
			tb.Fatalf("Get = %d bytes, %v", v.Len(), err)
		}
	}
	return caches[0], keys
}

func benchmarkFetch(b *testing.B, cache *peercache.Cache[peercache.ByteView], keys []string, callers int) {
	ctx := b.Context()
	before := cache.Stats()
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	cpu := cpuTime(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := cache.Get(ctx, keys[c%len(keys)]); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op")
	if s := cache.Stats(); s.PeerErrors != before.PeerErrors || s.PeerGets-before.PeerGets < int64(b.N) {
		b.Errorf("Stats = %+v: not all Gets were fetches", s)
	}
}

// cpuTime is what this process has used of all cores: unlike the time that passes, it
// says something on a machine that does other things too.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
