package peercache_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
)

// Nodes behind reverse proxies that know nothing of upgrades, until they do.

// hosts are servers in memory, by host and port. It does not change once they are dialled.
type hosts map[string]*pipeListener

func (h hosts) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	l := h[addr]
	if l == nil {
		return nil, fmt.Errorf("nobody listens at %s", addr)
	}
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve has a handler answer at an address until the test ends.
func (h hosts) serve(t *testing.T, addr string, handler http.Handler) {
	t.Helper()
	l := &pipeListener{make(chan net.Conn), make(chan struct{})}
	h[addr] = l
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
}

func (h hosts) network() *peercache.Network {
	return &peercache.Network{
		Dial:         h.dial,
		Listen:       func(string, string) (net.Listener, error) { return nil, net.ErrClosed },
		ListenPacket: func(string, string) (net.PacketConn, error) { return nil, net.ErrClosed },
	}
}

// proxy returns a reverse proxy to a server. What upgrade does to requests to upgrade is
// over once learnt is set.
func (h hosts) proxy(t *testing.T, to string, learnt *atomic.Bool, upgrade func(p *httputil.ProxyRequest)) http.Handler {
	t.Helper()
	transport := &http.Transport{DialContext: h.dial}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: to})
			p.Out.Host = p.In.Host
			if p.In.Header.Get("Upgrade") != "" && !learnt.Load() {
				upgrade(p)
			}
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A pipe holds no byte, so that the answer is there before the proxy has looked for
		// the end of the request, which it must be allowed to do then.
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		proxy.ServeHTTP(w, r)
	})
}

func TestClusterWorksThroughProxiesThatLearnToUpgrade(t *testing.T) {
	for name, c := range map[string]struct {
		proxy func(t *testing.T, h hosts, to string, learnt *atomic.Bool) http.Handler
	}{
		"that strip what asks for it": {func(t *testing.T, h hosts, to string, learnt *atomic.Bool) http.Handler {
			t.Helper()
			return h.proxy(t, to, learnt, func(p *httputil.ProxyRequest) {
				p.Out.Header.Del("Upgrade")
				p.Out.Header.Del("Connection")
			})
		}},
		"that answer 400": {func(t *testing.T, h hosts, to string, learnt *atomic.Bool) http.Handler {
			t.Helper()
			pass := h.proxy(t, to, learnt, func(*httputil.ProxyRequest) { t.Error("an upgrade got through") })
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") != "" && !learnt.Load() {
					http.Error(w, "what is that?", http.StatusBadRequest)
					return
				}
				pass.ServeHTTP(w, r)
			})
		}},
		"that know another protocol": {func(t *testing.T, h hosts, to string, learnt *atomic.Bool) http.Handler {
			t.Helper()
			return h.proxy(t, to, learnt, func(p *httputil.ProxyRequest) { p.Out.Header.Set("Upgrade", "websocket") })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := make(hosts)
				var learnt atomic.Bool
				var nodes []*peercache.Node
				var peers []peercache.Peer
				var caches []*peercache.Cache[string]
				o := &origin{}
				for i := range 4 {
					at := fmt.Sprint("127.0.0.1:", 8001+i)
					node, err := peercache.NewNode("http://"+at, &peercache.NodeOptions{Network: h.network(), Logger: discardLogger()})
					if err != nil {
						t.Fatal(err)
					}
					mux := http.NewServeMux()
					mux.Handle(node.Handler())
					if i%2 == 0 {
						behind := fmt.Sprint("127.0.0.1:", 9001+i)
						h.serve(t, behind, mux)
						h.serve(t, at, c.proxy(t, h, behind, &learnt))
					} else {
						h.serve(t, at, mux)
					}
					nodes = append(nodes, node)
					peers = append(peers, node.Self())
					caches = append(caches, peercache.New("c", o.load, &peercache.Options{Node: node, HotTTL: -1}))
				}
				for _, node := range nodes {
					if err := node.SetPeers(peers...); err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() {
						_ = node.Leave(t.Context()) // which has ended when this runs
					})
				}
				fetch := func(when string, streams func(i int) int64) {
					t.Helper()
					for k := range 50 {
						key := fmt.Sprint("key ", when, k)
						for _, cache := range caches {
							wantValue(t, cache, key)
						}
						if n := o.of(key); n != 1 {
							t.Errorf("%s: %d loads of %s, want 1", when, n, key)
						}
						if err := caches[k%4].Remove(t.Context(), key); err != nil {
							t.Errorf("%s: Remove: %v", when, err)
						}
					}
					for i, node := range nodes {
						if s := node.Stats(); s.Streams != streams(i) || caches[i].Stats().PeerErrors != 0 {
							t.Errorf("%s: node %d has %d streams, and %d fetches without an answer, want %d and none",
								when, i, s.Streams, caches[i].Stats().PeerErrors, streams(i))
						}
					}
				}
				toOpen := func(i int) int64 { return int64(2 - i%2) } // to the nodes without a proxy, but itself
				toAll := func(int) int64 { return 3 }
				fetch("before", toOpen)
				learnt.Store(true)
				fetch("within the minute", toOpen)
				time.Sleep(time.Minute)
				fetch("after it", toAll)
			})
		})
	}
}
