package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/peercache/peercache"
)

// This library: two nodes in one cluster, of which one asks for keys that the other
// owns, and keeps no copies.

const (
	cacheName = "bench"

	// cacheBytes is the limit of a cache: so much more than there is that nothing is
	// evicted however the cache divides it.
	cacheBytes = 1 << 30

	// lifetime of entries, longer than any measurement.
	lifetime = time.Hour
)

// loadOnce returns a loader of values. Each is loaded when the server is filled; one
// that is loaded again was not cached, and its Get fails so that this is seen.
func loadOnce(j job) func(key string) (string, error) {
	var loaded sync.Map
	value := j.newValue()
	return func(key string) (string, error) {
		if _, again := loaded.LoadOrStore(key, true); again {
			return "", fmt.Errorf("%s is loaded again", key)
		}
		return value, nil
	}
}

// A carrier is how requests travel from node to node.
type carrier struct {
	options func(*peercache.NodeOptions)
	around  func(http.Handler) http.Handler // what stands before the handler of the server
}

func plainly(*peercache.NodeOptions)       {}
func directly(h http.Handler) http.Handler { return h }

func serveStream(ctx context.Context, j job) (*server, error) {
	return carrier{plainly, directly}.serve(ctx, j)
}

func servePlain(ctx context.Context, j job) (*server, error) {
	return carrier{plainly, refuseUpgrades}.serve(ctx, j)
}

func serveSealed(ctx context.Context, j job) (*server, error) {
	return carrier{withSecret, directly}.serve(ctx, j)
}

func dialStream(ctx context.Context, j job) (*client, error) {
	return carrier{plainly, directly}.dial(ctx, j)
}

func dialSealed(ctx context.Context, j job) (*client, error) {
	return carrier{withSecret, directly}.dial(ctx, j)
}

// refuseUpgrades is a hop that takes HTTP and nothing else.
func refuseUpgrades(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			http.Error(w, "no upgrades here", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// withSecret gives a node the secret of the cluster.
func withSecret(o *peercache.NodeOptions) { o.Secret = []byte("known to everybody who reads this") }

// start starts a node that has not joined, with a handler at loopback.
func (c carrier) start(ctx context.Context) (*peercache.Node, error) {
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	opts := &peercache.NodeOptions{Gossip: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)}
	c.options(opts)
	node, err := peercache.NewNode("http://"+l.Addr().String(), opts)
	if err != nil {
		return nil, err
	}
	pattern, handler := node.Handler()
	mux := http.NewServeMux()
	mux.Handle(pattern, c.around(handler))
	serveMux(l, mux)
	return node, nil
}

// open opens the cache on a node.
func open(node *peercache.Node, load func(key string) (string, error)) *peercache.Cache[peercache.ByteView] {
	return peercache.New(cacheName, func(_ context.Context, key string) (peercache.ByteView, time.Duration, error) {
		value, err := load(key)
		return peercache.View(value), lifetime, err
	}, &peercache.Options{Node: node, MaxBytes: cacheBytes, HotTTL: -1})
}

func (c carrier) serve(ctx context.Context, j job) (*server, error) {
	node, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	open(node, loadOnce(j))
	if err := node.Join(ctx); err != nil {
		return nil, err
	}
	return &server{address: node.Self().URL + " " + node.GossipAddr(), pid: os.Getpid()}, nil
}

func (c carrier) dial(ctx context.Context, j job) (*client, error) {
	node, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	cache := open(node, func(string) (string, error) { return "", errLoadedHere })
	url, seed, _ := strings.Cut(j.Server, " ")
	if err := node.Join(ctx, seed); err != nil {
		return nil, err
	}
	if err := meet(ctx, node); err != nil {
		return nil, err
	}
	return &client{
		get: func(ctx context.Context, key string) (int, error) {
			v, err := cache.Get(ctx, key)
			return v.Len(), err
		},
		owns: func(key string) bool { return cache.Owner(key) == url },
	}, nil
}

// meet waits until there are two nodes in the node's ring.
func meet(ctx context.Context, node *peercache.Node) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for len(node.Peers()) != 2 {
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("the nodes do not meet: %w", ctx.Err())
		}
	}
	return nil
}
