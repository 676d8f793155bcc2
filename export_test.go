package peercache

import (
	"context"
	"net"
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
