package peercache

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// OwnersOf returns the URLs of the first n owners of key, as a cache's own
// process sees them.
func OwnersOf[V any](c *Cache[V], key string, n int) []string {
	return c.engine.ring().owners(c.engine.hash(key), n)
}

// DialPeer dials as requests to a peer do.
func DialPeer(ctx context.Context, n *Network, addr string) (net.Conn, error) {
	return (&dialer{n}).dial(ctx, "tcp", addr)
}

// SetWall replaces the clock that a node takes for its machine's. A clock that is not that
// of before is one that has jumped.
func SetWall(n *Node, wall func() time.Time) {
	f := n.coherence().fence
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wall = wall
}

// InFlight returns how many flights a cache has, and how many calls of its loader
// run or wait.
func InFlight[V any](c *Cache[V]) (flights, calls int) {
	for i := range c.engine.store.shards {
		sh := &c.engine.store.shards[i]
		sh.mu.Lock()
		for kind := range sh.flights {
			flights += len(sh.flights[kind])
		}
		sh.mu.Unlock()
	}
	g := &c.engine.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	return flights, g.running + len(g.waiting)
}

// TellsState reports whether gossip tells others the state that the node is in.
func TellsState(n *Node) bool {
	g := n.gossiping()
	return g != nil && !g.toTell()
}

// OnlyPrivate picks the address of this machine among those of its interfaces.
func OnlyPrivate(addrs []netip.Addr) (netip.Addr, error) { return onlyPrivate(addrs) }

// Peek asks a peer what it has in memory, as a load does after a change of the ring.
func Peek(ctx context.Context, n *Node, peer, cache, key string) error {
	_, err := n.call(ctx, peer, &wire.Request{Cache: cache, Op: &wire.Request_Peek{Peek: &wire.Peek{Keys: [][]byte{[]byte(key)}}}})
	return err
}

// Pending returns how many requests to a peer wait on streams for their answers, and their bytes.
func Pending(n *Node, peer string) (requests, bytes int) {
	for s := range n.link(peer).live {
		s.mu.Lock()
		requests += s.pending
		bytes += s.unanswered
		s.mu.Unlock()
	}
	return requests, bytes
}
