// Package cachetest runs a whole cluster of peercache nodes in the memory of a
// test: real nodes with real gossip and real HTTP servers, over a network that
// has no sockets and does what the test says. [Cluster.Kill],
// [Cluster.Pause], [Cluster.Partition] and [Cluster.Delay] make the faults
// that are hard to come by otherwise.
//
// It is at its best inside a bubble of testing/synctest: the seconds that
// gossip needs to see a death pass in milliseconds, and a test that measures
// time measures it exactly. Outside of one it works too, at the speed of the
// clock on the wall. Clusters share nothing, so tests may run in parallel.
//
// A cluster stops by itself at the end of its test. Values that its nodes
// share with the rest of the test, the loader above all, should come from the
// same bubble.
package cachetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
)

const (
	// peerPort is where a node serves its peers, gossipPort where it gossips:
	// arbitrary, and the default of peercache.
	peerPort, gossipPort = 8080, 7946

	// hostsPerNet is how many hosts share the third byte of their address,
	// which leaves out .0 and .255.
	hostsPerNet = 254

	// maxSeeds is how many nodes a new one is told of; more would make it
	// wait longer where they are slow, and add nothing.
	maxSeeds = 3

	// stopTimeout is how long the cleanup waits for what should have ended.
	stopTimeout = 10 * time.Second

	// lastTimers is how long the timers of gossip outlive a node. The longest
	// are those that wait for a peer's answer, of some seconds; the rest is
	// reserve, which costs nothing in a bubble.
	lastTimers = 2 * time.Minute
)

// A Cluster is a number of nodes and the network between them. Its methods may
// be called by several goroutines at once. What can fail the test, an index out
// of range or a Converge, belongs on the test's own goroutine, as
// [testing.T.FailNow] demands. In a bubble, everything happens inside it.
type Cluster struct {
	tb       testing.TB
	net      *network
	log      *testLog
	bubble   bool
	loads    gauge // by name of the cache
	handlers gauge // handlers and connections of the servers, by URL

	mu       sync.Mutex // guards the fields below
	members  []*member
	programs []program // by the order in which Caches first met them
}

// A member is one process of the cluster.
type member struct {
	host   *host
	node   *peercache.Node
	server *http.Server
	gossip string                 // where others find it
	served chan struct{}          // closed when its server has stopped
	caches []interface{ Close() } // guarded by the cluster's mutex
}

// NewCluster starts n nodes and returns when they form one cluster. tb's
// Cleanup stops them: their caches are closed, which ends the contexts of
// loads, and a load that goes on for ten seconds nevertheless fails the test.
// With -v, what the nodes log from Info on is in the test's output.
//
// The addresses of the nodes are of 127.0.0.0/16, which a node takes without
// being told that it is safe; nothing outside the cluster reaches them.
func NewCluster(tb testing.TB, n int) *Cluster {
	tb.Helper()
	if n < 0 {
		tb.Fatalf("cachetest: a cluster of %d nodes", n)
	}
	c := &Cluster{tb: tb, net: newNetwork(), log: &testLog{tb: tb}, bubble: inBubble()}
	tb.Cleanup(c.stop)
	if n == 0 {
		return c
	}
	c.Add() // alone, so that there is one cluster from the start
	for range n - 1 {
		c.start()
	}
	members := c.all()
	errs := make([]error, n)
	var joins sync.WaitGroup
	for i, m := range members[1:] {
		joins.Go(func() { errs[i] = m.node.Join(tb.Context(), members[0].gossip) })
	}
	joins.Wait()
	if err := errors.Join(errs...); err != nil {
		tb.Fatalf("cachetest: %v", err)
	}
	c.Converge()
	return c
}

// Len is how many nodes were ever started. Those killed since, or gone by
// [peercache.Node.Leave], count: an index always means the same node.
func (c *Cluster) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.members)
}

// Node is the i-th node, counted from 0. It may be used after Kill too.
func (c *Cluster) Node(i int) *peercache.Node {
	c.tb.Helper()
	return c.member(i).node
}

// Add starts one more node with all caches of the cluster, lets it join and
// returns its index. It does not wait until the others know it: call Converge.
// While the cluster is partitioned the new node is in the group of the nodes
// that were not named.
func (c *Cluster) Add() int {
	c.tb.Helper()
	i := c.start()
	c.join(i)
	return i
}

// start starts a node that has not joined yet.
func (c *Cluster) start() int {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	i := len(c.members)
	if i >= hostsPerNet*256 {
		c.tb.Fatalf("cachetest: no addresses left after %d nodes", i)
	}
	h := c.net.host(netip.AddrFrom4([4]byte{127, 0, byte(i / hostsPerNet), byte(i%hostsPerNet + 1)}))
	at := netip.AddrPortFrom(h.ip, peerPort).String()
	m := &member{
		host:   h,
		gossip: netip.AddrPortFrom(h.ip, gossipPort).String(),
		served: make(chan struct{}),
	}
	logger := slog.New(c.log.handler()).With("node", i)
	var err error
	m.node, err = peercache.NewNode("http://"+at, &peercache.NodeOptions{
		Gossip:  m.gossip,
		Network: h.network(),
		Logger:  logger,
	})
	if err != nil {
		c.tb.Fatalf("cachetest: node %d: %v", i, err)
	}
	l, err := h.listen("tcp", at)
	if err != nil {
		c.tb.Fatalf("cachetest: node %d: %v", i, err)
	}
	mux := http.NewServeMux()
	mux.Handle(m.node.Handler())
	m.server = c.newServer(at, mux, logger)
	go func() {
		defer close(m.served)
		_ = m.server.Serve(l) // always an error: it was closed
	}()
	c.members = append(c.members, m)
	for _, p := range c.programs {
		m.caches = append(m.caches, p.start(m.node))
	}
	return i
}

// newServer is a server of which c.handlers counts what it has running: a
// connection until it is closed or handed over, and a handler until it returns.
func (c *Cluster) newServer(name string, h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.handlers.begin(name)
			defer c.handlers.end(name)
			h.ServeHTTP(w, r)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				c.handlers.begin(name)
			case http.StateClosed, http.StateHijacked:
				c.handlers.end(name)
			case http.StateActive, http.StateIdle:
			}
		},
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// join lets a node join by way of others that it can reach, if there are any.
func (c *Cluster) join(i int) {
	c.tb.Helper()
	m := c.member(i)
	_, _, group := m.host.state()
	var seeds, far []string
	for _, other := range c.all() {
		killed, paused, itsGroup := other.host.state()
		switch {
		case other == m || killed || len(other.node.Peers()) == 0:
		case paused || itsGroup != group:
			far = append(far, other.gossip)
		default:
			seeds = append(seeds, other.gossip)
		}
	}
	if len(seeds) == 0 {
		seeds = far // to be met later
	}
	if err := m.node.Join(c.tb.Context(), seeds[:min(len(seeds), maxSeeds)]...); err != nil {
		c.tb.Fatalf("cachetest: node %d: %v", i, err)
	}
}

// member is the i-th member.
func (c *Cluster) member(i int) *member {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < 0 || i >= len(c.members) {
		c.tb.Fatalf("cachetest: no node %d: there are %d", i, len(c.members))
	}
	return c.members[i]
}

// all is a snapshot of the members.
func (c *Cluster) all() []*member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.members)
}

// stop is the cleanup.
func (c *Cluster) stop() {
	c.tb.Helper()
	c.mu.Lock()
	members := slices.Clone(c.members)
	var caches []interface{ Close() }
	for _, m := range members {
		caches = append(caches, m.caches...)
	}
	c.mu.Unlock()

	for _, cache := range caches {
		cache.Close()
	}
	c.net.restore()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, m := range members {
		_ = m.node.Leave(ended) // that nobody was told is what we asked for
	}
	for _, m := range members {
		_ = m.server.Close()
		<-m.served
	}
	c.net.close()
	if left := c.handlers.drain(stopTimeout); len(left) > 0 {
		c.tb.Errorf("cachetest: after %v handlers or connections are still running: %s", stopTimeout, counts(left))
	}
	if left := c.loads.drain(stopTimeout); len(left) > 0 {
		c.tb.Errorf("cachetest: %v after Close loads are still running: %s", stopTimeout, counts(left))
	}
	if c.bubble {
		// Time stops with the test's function: what then waits for a timer
		// would be a deadlock.
		time.Sleep(lastTimers)
	}
	c.log.end()
}

// inBubble says whether the caller runs in a bubble of testing/synctest, which
// has no function for it; Wait panics outside of one, and inside while another
// goroutine is in it.
func inBubble() (in bool) {
	defer func() {
		if r := recover(); r != nil {
			in = strings.Contains(fmt.Sprint(r), "in progress")
		}
	}()
	synctest.Wait()
	return true
}
