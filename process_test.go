package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

func TestNodesJoinOverRealSockets(t *testing.T) {
	t.Parallel() // it mostly waits
	o := &origin{}
	a := newReal(t, o.load)
	b := newReal(t, o.load, a.GossipAddr())
	_, port, err := net.SplitHostPort(a.GossipAddr())
	if err != nil {
		t.Fatal(err)
	}
	byName := newReal(t, o.load, net.JoinHostPort("localhost", port))
	eventually(t, "three nodes converge", func() bool { return converged(a, b, byName) })
	for i := range 50 {
		key := fmt.Sprint("key-", i)
		for _, n := range []*realNode{a, b, byName} {
			wantValue(t, n.cache, key)
		}
		if n := o.of(key); n != 1 {
			t.Errorf("%d loads of %s, want 1", n, key)
		}
	}
	select {
	case <-b.Ready():
	default:
		t.Error("Ready is not closed")
	}

	if err := b.Leave(t.Context()); err != nil {
		t.Errorf("Leave: %v", err)
	}
	eventually(t, "the others see it leave", func() bool { return converged(a, byName) })
	if b.Peers() != nil {
		t.Errorf("Peers after Leave = %v, want none", b.Peers())
	}
}

func TestNodesMayBeCalledByName(t *testing.T) {
	a := newUnjoined(t, "localhost:0", peercache.NodeOptions{}, valueOf)
	b := newUnjoined(t, "localhost:0", peercache.NodeOptions{}, valueOf)
	if err := errors.Join(a.Join(t.Context()), b.Join(t.Context(), a.GossipAddr())); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two nodes converge", func() bool { return converged(a, b) })
	for i := range 50 {
		wantValue(t, a.cache, fmt.Sprint("key-", i))
	}
	if s := a.cache.Stats(); s.PeerGets == 0 || s.PeerErrors != 0 {
		t.Errorf("%d fetches, %d failed, want some and none", s.PeerGets, s.PeerErrors)
	}
}

func TestAllNodesMayStartAtOnceInAnyOrder(t *testing.T) {
	// Ports that all of them are told of before anyone listens.
	var seeds []string
	for range 3 {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, l.Addr().String())
		l.Close()
	}
	nodes := make([]*realNode, 3)
	var wg sync.WaitGroup
	for i, gossip := range seeds {
		nodes[i] = newUnjoined(t, anywhere, peercache.NodeOptions{Gossip: gossip}, valueOf)
		wg.Go(func() {
			if err := nodes[i].Join(t.Context(), seeds...); err != nil {
				t.Errorf("Join: %v", err)
			}
		})
	}
	wg.Wait()
	eventually(t, "three nodes find each other", func() bool { return converged(nodes...) })
}

func TestKillMinus9FailsNoGet(t *testing.T) {
	t.Parallel() // it mostly waits
	var loads atomic.Int32
	load := func(_ context.Context, key string) (string, time.Duration, error) {
		loads.Add(1)
		return "value of " + key, time.Hour, nil
	}
	a := newReal(t, load)
	b := newReal(t, load, a.GossipAddr())
	child := startChild(t, a.GossipAddr())
	eventually(t, "the child joins", see(3, a, b))

	ctx, stop := context.WithCancel(t.Context())
	var gets, atChild atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		cache := []*realNode{a, b}[g%2].cache
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprint("key-", g, "-", i)
				if cache.Owner(key) == child.url {
					atChild.Add(1)
				}
				v, err := cache.Get(ctx, key)
				if err != nil && !errors.Is(err, context.Canceled) || err == nil && v != "value of "+key {
					t.Errorf("Get = %q, %v", v, err)
				}
				gets.Add(1)
			}
		})
	}
	eventually(t, "Gets run before the kill", func() bool { return gets.Load() > 1000 })
	if err := child.Kill(); err != nil {
		t.Fatal(err)
	}
	before := gets.Load()
	if testing.Short() {
		eventually(t, "Gets run after the kill", func() bool { return gets.Load() > before+1000 })
	} else {
		eventually(t, "the others notice", see(2, a, b)) // about 3 s, of which no Get waits
	}
	stop()
	wg.Wait()
	if atChild.Load() == 0 {
		t.Error("no Get was for a key of the killed process: the test shows nothing")
	}
	t.Logf("%d Gets, %d after the kill, %d loads here", gets.Load(), gets.Load()-before, loads.Load())
}

// F2 with a real process: it is stopped, so that its kernel accepts and nobody
// answers. How long Gets take is logged and, exactly, tested in a bubble
// (TestPausedPeerIsHardlyNoticed); here none may fail.
func TestSIGSTOPFailsNoGet(t *testing.T) {
	nodes := []*realNode{newReal(t, valueOf)}
	for range 3 {
		nodes = append(nodes, newReal(t, valueOf, nodes[0].GossipAddr()))
	}
	child := startChild(t, nodes[0].GossipAddr())
	five := see(5, nodes...)
	eventually(t, "the child joins", five)

	stopped := 2 * time.Second
	if *long {
		stopped = 10 * time.Second
	}
	var mu sync.Mutex
	var took []time.Duration
	var atChild, failed int
	var wg sync.WaitGroup
	run := func(d time.Duration) {
		pace := time.NewTicker(4 * time.Millisecond) // open loop
		defer pace.Stop()
		for i := range int(d / (4 * time.Millisecond)) {
			<-pace.C
			for g, n := range nodes {
				key := fmt.Sprint("key-", g, "-", i%2000)
				wg.Go(func() {
					start := time.Now()
					v, err := n.cache.Get(t.Context(), key)
					mu.Lock()
					defer mu.Unlock()
					took = append(took, time.Since(start))
					if n.cache.Owner(key) == child.url {
						atChild++
					}
					if err != nil || v != "value of "+key {
						failed++
						t.Errorf("Get = %q, %v", v, err)
					}
				})
			}
		}
		wg.Wait()
	}
	run(500 * time.Millisecond)
	if err := child.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	took, atChild = nil, 0
	mu.Unlock()
	run(stopped)
	if atChild == 0 {
		t.Error("no Get was for a key of the stopped process: the test shows nothing")
	}
	slices.Sort(took)
	t.Logf("%d Gets while one process of five was stopped for %v, %d of its keys: %d failed, p99 %v, max %v",
		len(took), stopped, atChild, failed, took[len(took)*99/100], took[len(took)-1])
	if err := child.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	run(500 * time.Millisecond)
	eventually(t, "the child is back", five)
}
