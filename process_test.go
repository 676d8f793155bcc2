package peercache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// Real sockets, and real processes for what only an operating system does. All on
// loopback, on ports it picks.

// childSeeds is set in the environment of a test binary that is to be a node.
const childSeeds = "PEERCACHE_TEST_SEEDS"

// realNode is a node with its server.
type realNode struct {
	*peercache.Node
	server *http.Server
	cache  *peercache.Cache[string]
}

// startReal starts a node on loopback that has joined through seeds.
func startReal(ctx context.Context, load peercache.Loader[string], seeds ...string) (*realNode, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	node, err := peercache.NewNode("http://"+l.Addr().String(), &peercache.NodeOptions{Gossip: "127.0.0.1:0", Logger: discardLogger()})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(node.Handler())
	r := &realNode{Node: node, server: &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}}
	r.cache = peercache.New("c", load, &peercache.Options{Node: node, HotTTL: -1})
	go func() { _ = r.server.Serve(l) }()
	return r, node.Join(ctx, seeds...)
}

func newReal(t *testing.T, load peercache.Loader[string], seeds ...string) *realNode {
	t.Helper()
	n, err := startReal(t.Context(), load, seeds...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.Leave(t.Context()) // which has ended when this runs
		n.server.Close()
	})
	return n
}

// runChild is what a process does that is a node: it joins, says where it is, and
// serves until it is killed or its parent is gone.
func runChild(seeds string) {
	n, err := startReal(context.Background(), func(_ context.Context, key string) (string, time.Duration, error) {
		return "value of " + key, time.Hour, nil
	}, strings.Fields(seeds)...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(n.Self().URL)
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // the parent's end of the pipe closes with it
}

// startChild starts a process that is a node and returns its URL.
func startChild(t *testing.T, seeds ...string) (*os.Process, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childSeeds+"="+strings.Join(seeds, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child said nothing: %v", err)
	}
	return cmd.Process, strings.TrimSpace(url)
}

// eventually fails the test if ok does not become true within 20 seconds, many
// times what it takes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for poll := time.NewTicker(10 * time.Millisecond); !ok(); {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

// converged reports whether all nodes see exactly each other.
func converged(nodes ...*realNode) bool {
	for _, n := range nodes {
		peers := n.Peers()
		if len(peers) != len(nodes) {
			return false
		}
		for _, m := range nodes {
			found := false
			for _, p := range peers {
				found = found || p.URL == m.Self().URL
			}
			if !found {
				return false
			}
		}
	}
	return true
}

func TestNodesJoinOverRealSockets(t *testing.T) {
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
	nodes := make([]*peercache.Node, 3)
	var wg sync.WaitGroup
	for i, gossip := range seeds {
		node, err := peercache.NewNode(fmt.Sprint("http://127.0.0.1:", 1+i), &peercache.NodeOptions{Gossip: gossip, Logger: discardLogger()})
		if err != nil {
			t.Fatal(err)
		}
		nodes[i] = node
		wg.Go(func() {
			if err := node.Join(t.Context(), seeds...); err != nil {
				t.Errorf("Join: %v", err)
			}
		})
		t.Cleanup(func() {
			_ = node.Leave(t.Context()) // which has ended when this runs
		})
	}
	wg.Wait()
	eventually(t, "three nodes find each other", func() bool {
		return len(nodes[0].Peers()) == 3 && len(nodes[1].Peers()) == 3 && len(nodes[2].Peers()) == 3
	})
}

func TestKillMinus9FailsNoGet(t *testing.T) {
	var loads atomic.Int32
	load := func(_ context.Context, key string) (string, time.Duration, error) {
		loads.Add(1)
		return "value of " + key, time.Hour, nil
	}
	a := newReal(t, load)
	b := newReal(t, load, a.GossipAddr())
	child, url := startChild(t, a.GossipAddr())
	sees := func(n int) func() bool {
		return func() bool { return len(a.Peers()) == n && len(b.Peers()) == n }
	}
	eventually(t, "the child joins", sees(3))

	ctx, stop := context.WithCancel(t.Context())
	var gets, atChild atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		cache := []*realNode{a, b}[g%2].cache
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprint("key-", g, "-", i)
				if cache.Owner(key) == url {
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
		eventually(t, "the others notice", sees(2)) // about 3 s, of which no Get waits
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
	load := func(_ context.Context, key string) (string, time.Duration, error) {
		return "value of " + key, time.Hour, nil
	}
	nodes := []*realNode{newReal(t, load)}
	for range 3 {
		nodes = append(nodes, newReal(t, load, nodes[0].GossipAddr()))
	}
	child, url := startChild(t, nodes[0].GossipAddr())
	five := func() bool {
		for _, n := range nodes {
			if len(n.Peers()) != 5 {
				return false
			}
		}
		return true
	}
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
					if n.cache.Owner(key) == url {
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
