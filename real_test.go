package peercache_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// Nodes on real sockets, and real processes that are nodes, for what only an operating
// system does. All on loopback, on ports it picks.

// children are what a test binary does instead of testing when childKind is set in its
// environment.
var children = map[string]func(){"node": runNode, "descriptors": runShortOfDescriptors, "owner": runOwner}

const (
	childKind  = "PEERCACHE_TEST_CHILD"
	childPlace = "PEERCACHE_TEST_PLACE" // of a node: where it serves and gossips
	childSeeds = "PEERCACHE_TEST_SEEDS" // of a node
)

// anywhere is a port that the system picks.
const anywhere = "127.0.0.1:0"

// A realNode is a node with its server and two caches.
type realNode struct {
	*peercache.Node
	server *http.Server
	cache  *peercache.Cache[string]
	pid    *peercache.Cache[string] // a key's value is the process that loaded it just now
}

// startReal starts a node on loopback that has not joined; its URL has the host of serve,
// which may be a name. The defaults of opts are any port for gossip, and no log.
func startReal(ctx context.Context, serve string, opts peercache.NodeOptions, load peercache.Loader[string]) (*realNode, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", serve)
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(serve)
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, err
	}
	opts.Gossip = cmp.Or(opts.Gossip, anywhere)
	opts.Logger = cmp.Or(opts.Logger, discardLogger())
	node, err := peercache.NewNode("http://"+net.JoinHostPort(host, port), &opts)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(node.Handler())
	r := &realNode{Node: node, server: &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}}
	r.cache = peercache.New("c", load, &peercache.Options{Node: node, HotTTL: -1})
	r.pid = peercache.New("pid", func(context.Context, string) (string, time.Duration, error) {
		return fmt.Sprint(os.Getpid()), -1, nil
	}, &peercache.Options{Node: node, HotTTL: -1})
	go func() { _ = r.server.Serve(l) }()
	return r, nil
}

// newReal starts a node that has joined through seeds, and leaves at once when the test
// ends.
func newReal(t *testing.T, load peercache.Loader[string], seeds ...string) *realNode {
	t.Helper()
	n := newUnjoined(t, anywhere, peercache.NodeOptions{}, load)
	if err := n.Join(t.Context(), seeds...); err != nil {
		t.Fatal(err)
	}
	// Whoever joins by it finds an active member.
	eventually(t, "gossip tells that the node is active", func() bool { return peercache.TellsState(n.Node) })
	return n
}

// newUnjoined starts a node that has yet to join.
func newUnjoined(t *testing.T, serve string, opts peercache.NodeOptions, load peercache.Loader[string]) *realNode {
	t.Helper()
	n, err := startReal(t.Context(), serve, opts, load)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.Leave(t.Context()) // which has ended when this runs
		n.server.Close()
	})
	return n
}

// vanish ends a node as kill -9 does: without a word to the others.
func (n *realNode) vanish() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.Leave(ended)
	n.server.Close()
}

// valueOf is a loader.
func valueOf(_ context.Context, key string) (string, time.Duration, error) {
	return "value of " + key, time.Hour, nil
}

// runNode is what a process does that is a node: it joins, says where it is, and serves
// until it is killed or its parent is gone; SIGTERM makes it leave.
func runNode() {
	serve, gossip, _ := strings.Cut(os.Getenv(childPlace), " ")
	n, err := startReal(context.Background(), serve, peercache.NodeOptions{Gossip: gossip}, valueOf)
	if err == nil {
		err = n.Join(context.Background(), strings.Fields(os.Getenv(childSeeds))...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println(n.Self().URL, n.GossipAddr())
	orphaned := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // the parent's end of the pipe closes with it
		close(orphaned)
	}()
	select {
	case <-term:
		_ = n.Leave(context.Background())
	case <-orphaned:
	}
}

// A child is a process that is a node.
type child struct {
	*os.Process
	url, gossip string
	wait        func() error
}

// startChild starts a process that is a node and has joined.
func startChild(t *testing.T, seeds ...string) *child {
	t.Helper()
	return startChildAt(t, anywhere, anywhere, seeds...)
}

func startChildAt(t *testing.T, serve, gossip string, seeds ...string) *child {
	t.Helper()
	cmd := newChild(t, "node", childPlace+"="+serve+" "+gossip, childSeeds+"="+strings.Join(seeds, " "))
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
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child said nothing: %v", err)
	}
	c := &child{Process: cmd.Process, wait: cmd.Wait}
	c.url, c.gossip, _ = strings.Cut(strings.TrimSpace(line), " ")
	return c
}

// newChild is this test binary as something else.
func newChild(t *testing.T, kind string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), childKind+"="+kind), env...)
	return cmd
}

// eventually fails the test if ok does not become true within 20 seconds, many
// times what it takes. It returns how long it took.
func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	deadline := time.After(20 * time.Second)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("not within 20s: %s", what)
		}
	}
	return time.Since(start)
}

// see returns a claim for eventually: that each of the nodes sees n peers.
func see(n int, nodes ...*realNode) func() bool {
	return func() bool {
		for _, node := range nodes {
			if len(node.Peers()) != n {
				return false
			}
		}
		return true
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
