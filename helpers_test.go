package peercache_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
	"github.com/peercache/peercache/internal/wire"
)

// bareNodes are nodes without gossip and network: each request to a peer is a
// call of its handler, which is plain HTTP: there is no connection to upgrade. For rings
// that a cluster would never form by itself, and for counting requests.
type bareNodes struct {
	t        *testing.T
	nodes    []*peercache.Node
	handlers map[string]http.Handler
	requests atomic.Int32
	upgrades atomic.Int32 // asked for, and refused
	broken   atomic.Bool  // requests fail
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
	if r.Header.Get("Upgrade") != "" {
		b.upgrades.Add(1)
		return &http.Response{Status: "501 Not Implemented", StatusCode: http.StatusNotImplemented, Body: http.NoBody}, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if !unasked(b.t, body) {
		b.requests.Add(1)
	}
	if b.broken.Load() {
		return nil, syscall.ECONNRESET
	}
	w := httptest.NewRecorder()
	in := r.Clone(r.Context())
	in.Host = r.URL.Host
	in.Body = io.NopCloser(bytes.NewReader(body))
	b.handlers[r.URL.Host].ServeHTTP(w, in)
	return w.Result(), nil
}

// unasked reports whether a node sends this body of its own accord: to hear what it has
// missed, or what others hold.
func unasked(t *testing.T, body []byte) bool {
	t.Helper()
	frame, err := wire.NewReader(bytes.NewReader(body)).Next()
	if err != nil {
		t.Error(err)
		return false
	}
	var req wire.Request
	if err := wire.Unmarshal(frame, &req); err != nil {
		t.Error(err)
	}
	return req.GetSync() != nil || req.GetPeek() != nil || req.GetPush() != nil
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

// ownedBy returns a key, with this prefix, that a node owns by another's view.
func ownedBy[V any](t *testing.T, c *cachetest.Cluster, cache *peercache.Cache[V], prefix string, node int) string {
	t.Helper()
	url := c.Node(node).Self().URL
	for i := range 10_000 {
		if key := fmt.Sprint(prefix, i); cache.Owner(key) == url {
			return key
		}
	}
	t.Fatalf("no key of %s within 10,000", url)
	return ""
}

func wantValue(t *testing.T, cache *peercache.Cache[string], key string) {
	t.Helper()
	if v, err := cache.Get(t.Context(), key); err != nil || v != "value of "+key {
		t.Errorf("Get(%.40q) = %.60q, %v, want its value", key, v, err)
	}
}

func discardLogger() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// constant returns a loader of one value that counts its calls.
func constant(calls *atomic.Int32, v string, ttl time.Duration) peercache.Loader[string] {
	return func(context.Context, string) (string, time.Duration, error) {
		calls.Add(1)
		return v, ttl, nil
	}
}
