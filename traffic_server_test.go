package peercache_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// Streams on servers that are configured as users do, and that are shut down.

// impatience is the timeout of servers that outlast none of their connections.
const impatience = 100 * time.Millisecond

// A hosted node is on a server of httptest's.
type hosted struct {
	*realNode
	server *httptest.Server
}

// newHosted starts a node that has not joined, on an impatient server.
func newHosted(t *testing.T, secure bool, secret []byte, load peercache.Loader[string]) hosted {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewUnstartedServer(mux)
	server.Config.ReadTimeout, server.Config.WriteTimeout, server.Config.IdleTimeout = impatience, impatience, impatience
	opts := peercache.NodeOptions{Secret: secret, Gossip: anywhere, Logger: discardLogger()}
	url := "http://" + server.Listener.Addr().String()
	if secure {
		url = strings.Replace(url, "http", "https", 1)
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		server.StartTLS()
		opts.Transport = server.Client().Transport // it trusts the certificate that all servers of httptest have
	} else {
		server.Start()
	}
	node, err := peercache.NewNode(url, &opts)
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle(node.Handler())
	t.Cleanup(func() {
		_ = node.Leave(t.Context()) // which has ended when this runs
		server.Close()
	})
	return hosted{&realNode{Node: node, cache: peercache.New("c", load, &peercache.Options{Node: node, HotTTL: -1})}, server}
}

// eachServer runs a test on servers with and without TLS, and with and without a secret.
func eachServer(t *testing.T, test func(t *testing.T, secure bool, secret []byte)) {
	t.Helper()
	for _, secure := range []bool{false, true} {
		for name, secret := range map[string][]byte{"": nil, " and a secret": secretA} {
			t.Run(fmt.Sprintf("TLS %t%s", secure, name), func(t *testing.T) {
				t.Parallel() // it mostly waits
				test(t, secure, secret)
			})
		}
	}
}

// slowOrNot is a loader that takes longer than servers wait for every third key or so.
func slowOrNot(ctx context.Context, key string) (string, time.Duration, error) {
	if strings.HasSuffix(key, "0") || strings.HasSuffix(key, "5") {
		<-time.After(3 * impatience)
	}
	return valueOf(ctx, key)
}

func TestLeaveAndShutdownLoseNoAnswerWhateverTheServer(t *testing.T) {
	eachServer(t, func(t *testing.T, secure bool, secret []byte) {
		nodes := []hosted{newHosted(t, secure, secret, slowOrNot), newHosted(t, secure, secret, slowOrNot), newHosted(t, secure, secret, slowOrNot)}
		for i, n := range nodes {
			var seeds []string
			if i > 0 {
				seeds = []string{nodes[0].GossipAddr()}
			}
			if err := n.Join(t.Context(), seeds...); err != nil {
				t.Fatal(err)
			}
		}
		leaver := nodes[1]
		eventually(t, "three nodes", func() bool { return converged(nodes[0].realNode, nodes[1].realNode, nodes[2].realNode) })
		ctx, stop := context.WithCancel(t.Context())
		var gets, atLeaver atomic.Int64
		var wg sync.WaitGroup
		for g := range 8 {
			cache := nodes[g%2*2].cache
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					key := fmt.Sprint("key-", g, "-", i)
					if cache.Owner(key) == leaver.Self().URL {
						atLeaver.Add(1)
					}
					v, err := cache.Get(ctx, key)
					if err != nil && !errors.Is(err, context.Canceled) || err == nil && v != "value of "+key {
						t.Errorf("Get(%s) = %q, %v", key, v, err)
					}
					gets.Add(1)
					<-time.After(2 * time.Millisecond)
				}
			})
		}
		eventually(t, "keys of the one that leaves are asked for", func() bool { return atLeaver.Load() > 30 })
		asking := []hosted{nodes[0], nodes[2]}
		before := make([]int64, len(asking))
		for i, n := range asking {
			eventually(t, "streams to both others", func() bool { return n.Stats().Streams == 2 })
			before[i] = n.cache.Stats().PeerErrors // a handshake may have taken too long
		}
		if err := leaver.Leave(t.Context()); err != nil {
			t.Errorf("Leave: %v", err)
		}
		if err := leaver.server.Config.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		after := gets.Load()
		eventually(t, "Gets go on", func() bool { return gets.Load() > after+30 })
		stop()
		wg.Wait()
		for i, n := range asking {
			// Where nobody gets the processor a peer is silent for too long.
			if s, silences := n.cache.Stats(), n.Stats().Silences; s.PeerGets == 0 || s.PeerErrors > before[i] && silences == 0 {
				t.Errorf("%d fetches, %d of them without an answer, want some and none", s.PeerGets, s.PeerErrors-before[i])
			}
		}
	})
}

func TestShutdownOfTheServerEndsNoStream(t *testing.T) {
	eachServer(t, func(t *testing.T, secure bool, secret []byte) {
		asker, owner := newHosted(t, secure, secret, slowOrNot), newHosted(t, secure, secret, slowOrNot)
		meetEachOther(t, asker.realNode, owner.realNode)
		keys := keysOf(owner.realNode, "k", 20)
		wantValue(t, asker.cache, keys[0])
		var wg sync.WaitGroup
		for _, key := range keys[1:] { // some are loaded meanwhile
			wg.Go(func() { wantValue(t, asker.cache, key) })
		}
		if err := owner.server.Config.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		wg.Wait()
		for _, key := range keys {
			wantValue(t, asker.cache, key)
		}
		if s := asker.cache.Stats(); s.PeerGets != 40 || s.PeerErrors > asker.Stats().Silences || asker.Stats().Streams != 1 {
			t.Errorf("%d fetches, %d without an answer, %d streams, want 40, none, and 1", s.PeerGets, s.PeerErrors, asker.Stats().Streams)
		}
	})
}
