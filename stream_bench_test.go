package peercache_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// Fetches from a peer over loopback, no copies kept, both nodes in this process:
//
//	go test -run '^$' -bench 'Fetch$' -count 7 .
func BenchmarkFetch(b *testing.B) {
	benchmarkFetches(b, func(b *testing.B, size int) (*benchNode, []string) {
		b.Helper()
		return fetchPair(b, size)
	})
}

// The same from a process of its own, to be compared with other servers.
func BenchmarkFetchFromAProcess(b *testing.B) {
	benchmarkFetches(b, func(b *testing.B, size int) (*benchNode, []string) {
		b.Helper()
		asker, err := startBenchNode(b.Context(), size)
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.CommandContext(b.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childKind+"=owner", childPlace+"="+asker.Self().URL, childSeeds+"="+strconv.Itoa(size))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			asker.stop()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		url, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		return asker, asker.meet(b, peercache.Peer{URL: strings.TrimSpace(url)})
	})
}

// runOwner is what a process does that is asked by a benchmark.
func runOwner() {
	size, err := strconv.Atoi(os.Getenv(childSeeds))
	if err == nil {
		var n *benchNode
		if n, err = startBenchNode(context.Background(), size); err == nil {
			err = n.SetPeers(n.Self(), peercache.Peer{URL: os.Getenv(childPlace)})
			fmt.Println(n.Self().URL)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

func benchmarkFetches(b *testing.B, pair func(b *testing.B, size int) (*benchNode, []string)) {
	b.Helper()
	for _, size := range []int{100, 64 << 10, 1 << 20} {
		for _, callers := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("%dB/%d callers", size, callers), func(b *testing.B) {
				n, keys := pair(b, size)
				benchmarkFetch(b, n.cache, keys, callers)
			})
		}
	}
}

// A benchNode is a node with its server and a cache of values of one size.
type benchNode struct {
	*peercache.Node
	server *http.Server
	cache  *peercache.Cache[peercache.ByteView]
}

func startBenchNode(ctx context.Context, size int) (*benchNode, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", anywhere)
	if err != nil {
		return nil, err
	}
	node, err := peercache.NewNode("http://"+l.Addr().String(), &peercache.NodeOptions{Logger: discardLogger()})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(node.Handler())
	n := &benchNode{Node: node, server: &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}}
	go func() { _ = n.server.Serve(l) }()
	view := peercache.View(strings.Repeat("v", size))
	n.cache = peercache.New("bench", func(context.Context, string) (peercache.ByteView, time.Duration, error) { return view, time.Hour, nil },
		&peercache.Options{Node: node, HotTTL: -1, MaxBytes: 1 << 30})
	return n, nil
}

func (n *benchNode) stop() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.Leave(ended)
	n.server.Close()
}

// meet makes a peer known and returns keys that it owns and has loaded.
func (n *benchNode) meet(tb testing.TB, peer peercache.Peer) []string {
	tb.Helper()
	if err := n.SetPeers(n.Self(), peer); err != nil {
		tb.Fatal(err)
	}
	var keys []string
	for i := 0; len(keys) < 256; i++ {
		if key := fmt.Sprint("key-", i); n.cache.Owner(key) == peer.URL {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if _, err := n.cache.Get(tb.Context(), key); err != nil {
			tb.Fatal(err)
		}
	}
	return keys
}

// fetchPair returns a node, and keys that the one other node owns and holds.
func fetchPair(tb testing.TB, size int) (*benchNode, []string) {
	tb.Helper()
	var nodes [2]*benchNode
	for i := range nodes {
		var err error
		if nodes[i], err = startBenchNode(tb.Context(), size); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(nodes[i].stop)
	}
	if err := nodes[1].SetPeers(nodes[0].Self(), nodes[1].Self()); err != nil {
		tb.Fatal(err)
	}
	return nodes[0], nodes[0].meet(tb, nodes[1].Self())
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
