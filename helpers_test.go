package peercache_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/peercache/peercache"
)

// bareNodes are nodes without gossip and network: each request to a peer is a
// call of its handler. For rings that a cluster would never form by itself, and
// for counting requests.
type bareNodes struct {
	t        *testing.T
	nodes    []*peercache.Node
	handlers map[string]http.Handler
	requests atomic.Int32
	broken   atomic.Bool // requests fail
}

// newBareNodes returns n nodes that do not know each other. The i-th is in the
// i-th of these clusters, the default if there are fewer.
func newBareNodes(t *testing.T, n int, clusters ...string) *bareNodes {
	t.Helper()
	b := &bareNodes{t: t, handlers: make(map[string]http.Handler)}
	for i := range n {
		opts := &peercache.NodeOptions{Transport: b, Logger: discardLogger()}
		if i < len(clusters) {
			opts.Cluster = clusters[i]
		}
		node, err := peercache.NewNode(fmt.Sprint("http://127.0.0.1:", 8001+i), opts)
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.Handle(node.Handler())
		b.handlers[fmt.Sprint("127.0.0.1:", 8001+i)] = mux
		b.nodes = append(b.nodes, node)
		t.Cleanup(func() {
			_ = node.Leave(t.Context()) // which has ended when this runs
		})
	}
	return b
}

// setPeers tells all nodes of all.
func (b *bareNodes) setPeers() {
	b.t.Helper()
	var peers []peercache.Peer
	for _, n := range b.nodes {
		peers = append(peers, n.Self())
	}
	for _, n := range b.nodes {
		if err := n.SetPeers(peers...); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bareNodes) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	b.requests.Add(1)
	if b.broken.Load() {
		return nil, syscall.ECONNRESET
	}
	w := httptest.NewRecorder()
	in := r.Clone(r.Context())
	in.Host = r.URL.Host
	b.handlers[r.URL.Host].ServeHTTP(w, in)
	return w.Result(), nil
}

// bareCaches returns a cache on each node.
func bareCaches[V any](b *bareNodes, name string, load peercache.Loader[V], opts *peercache.Options) []*peercache.Cache[V] {
	var caches []*peercache.Cache[V]
	for _, n := range b.nodes {
		var o peercache.Options
		if opts != nil {
			o = *opts
		}
		o.Node = n
		caches = append(caches, peercache.New(name, load, &o))
	}
	return caches
}
