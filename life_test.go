package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// A node's URL, seeds and phases where they meet.

func TestJoinDoesNotUndoALeave(t *testing.T) {
	t.Parallel() // it mostly waits
	first := newReal(t, valueOf)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", anywhere)
	if err != nil {
		t.Fatal(err)
	}
	n, err := peercache.NewNode("http://"+l.Addr().String(), &peercache.NodeOptions{Gossip: anywhere, Logger: discardLogger()})
	if err != nil {
		t.Fatal(err)
	}
	dialled, left := make(chan struct{}), make(chan struct{})
	var again atomic.Bool
	_, handler := n.Handler()
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !again.Swap(true) { // who dials back first learns whom it has met when that leaves
			close(dialled)
			<-left
		}
		handler.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	joined := make(chan error, 1)
	go func() { joined <- n.Join(t.Context(), first.GossipAddr()) }()
	<-dialled
	eventually(t, "the node knows whom to tell", func() bool {
		return slices.ContainsFunc(n.Peers(), func(p peercache.Peer) bool { return p.URL == first.Self().URL })
	})
	if isReady(n) {
		close(left)
		t.Skip("the machine is too slow: the node entered unchecked, after a second, before it could leave")
	}
	leaving := make(chan error, 1)
	go func() { leaving <- n.Leave(t.Context()) }()
	eventually(t, "Leave has begun", func() bool {
		err := n.Join(t.Context())
		return err != nil && strings.Contains(err.Error(), "has left")
	})
	close(left)
	if err := <-joined; err == nil {
		t.Error("Join that Leave overtook: no error")
	}
	if err := <-leaving; err != nil {
		t.Errorf("Leave: %v", err)
	}
	if isReady(n) {
		t.Error("a node became active that had begun to leave")
	}
}

// Between the first contact and the first ring of others lie some tens of milliseconds. Who
// leaves then is known already, and would be taken for dead.
func TestLeaveRightAfterTheFirstContactTellsOthers(t *testing.T) {
	t.Parallel() // it mostly waits
	a := newReal(t, valueOf)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", anywhere)
	if err != nil {
		t.Fatal(err)
	}
	n, err := peercache.NewNode("http://"+l.Addr().String(), &peercache.NodeOptions{Gossip: anywhere, Logger: discardLogger()})
	if err != nil {
		t.Fatal(err)
	}
	took := make(chan time.Duration, 1)
	var again atomic.Bool
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if again.Swap(true) {
			return
		}
		go func() { // a has heard of this node, and dials it back
			start := time.Now()
			if err := n.Leave(t.Context()); err != nil {
				t.Errorf("Leave: %v", err)
			}
			took <- time.Since(start)
		}()
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	if err := n.Join(t.Context(), a.GossipAddr()); err == nil {
		t.Error("Join that Leave overtook: no error")
	}
	if d := <-took; d < 2*time.Second {
		t.Errorf("Leave took %v: it did not tell the other", d)
	}
	<-time.After(5 * time.Second) // in which a death would be noticed
	if lost := a.Stats().Lost; lost != 0 {
		t.Errorf("the other looks for %d lost members, want none: it was told", lost)
	}
}

func TestLeaveWaitsForAJoinThatBinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listening, release := make(chan struct{}), make(chan struct{})
		n, err := peercache.NewNode("http://127.0.0.1:8080", &peercache.NodeOptions{Logger: discardLogger(), Network: &peercache.Network{
			Dial: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
			Listen: func(string, string) (net.Listener, error) {
				close(listening)
				<-release
				return nil, errors.New("taken")
			},
			ListenPacket: func(string, string) (net.PacketConn, error) { return nil, net.ErrClosed },
		}})
		if err != nil {
			t.Fatal(err)
		}
		joined := make(chan error, 1)
		go func() { joined <- n.Join(t.Context()) }()
		<-listening
		left := make(chan error, 1)
		go func() { left <- n.Leave(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-left:
			t.Error("Leave has returned while Join opens sockets")
			left <- err
		default:
		}
		close(release)
		if err := <-joined; err == nil {
			t.Error("Join that could not bind: no error")
		}
		if err := <-left; err != nil {
			t.Errorf("Leave: %v", err)
		}
	})
}

func TestJoinThatLeaveOvertakesWarnsOfNothing(t *testing.T) {
	var log warnings
	dialling := make(chan struct{}, 10)
	n, err := peercache.NewNode("http://127.0.0.1:8080", &peercache.NodeOptions{Gossip: anywhere, Logger: slog.New(&log), Network: &peercache.Network{
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dialling <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		},
		Listen: func(network, addr string) (net.Listener, error) {
			return new(net.ListenConfig).Listen(t.Context(), network, addr)
		},
		ListenPacket: func(network, addr string) (net.PacketConn, error) {
			return new(net.ListenConfig).ListenPacket(t.Context(), network, addr)
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	joined := make(chan error, 1)
	go func() { joined <- n.Join(t.Context(), "127.0.0.2") }()
	<-dialling
	if err := n.Leave(t.Context()); err != nil {
		t.Errorf("Leave: %v", err)
	}
	if err := <-joined; err == nil {
		t.Error("Join that Leave overtook: no error")
	}
	if len(log.lines) != 0 {
		t.Errorf("a node that has left warns: %q", log.lines)
	}
}

func TestLeaveIsBoundedWhenNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		for _, i := range []int{0, 1, 2} {
			c.Pause(i)
		}
		start := time.Now()
		if err := c.Node(3).Leave(t.Context()); err != nil {
			t.Errorf("Leave: %v", err)
		}
		if took := time.Since(start); took > 7*time.Second {
			t.Errorf("Leave took %v, want at most 5s to tell and 2s to answer", took)
		}
	})
}

func TestLeaveAfterLeaveIsNoError(t *testing.T) {
	n, err := peercache.NewNode("http://127.0.0.1:8080", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if err := n.Leave(ended); err != nil {
			t.Fatalf("Leave of a node that has left: %v, want nil", err)
		}
	}
}

func TestSeedsThatCanNeverBeReachedAreRefused(t *testing.T) {
	for _, seed := range []string{"127.0.0.1:https", "127.0.0.1:0", "127.0.0.1:"} {
		n, err := peercache.NewNode("http://127.0.0.1:8080", &peercache.NodeOptions{Gossip: "127.0.0.1:0", Logger: discardLogger()})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Join(t.Context(), seed); err == nil {
			t.Errorf("Join(%q): no error", seed)
		}
		_ = n.Leave(t.Context())
	}
}

func TestGossipOnAllAddresses(t *testing.T) {
	n, err := peercache.NewNode("http://127.0.0.1:8080", &peercache.NodeOptions{Gossip: ":0", Insecure: true, Logger: discardLogger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Join(t.Context()); err != nil {
		t.Errorf("Join with gossip on :0: %v", err)
	}
	_ = n.Leave(t.Context())
}

func TestEveryURLThatIsAcceptedCanBeServed(t *testing.T) {
	for _, url := range []string{
		"http://127.0.0.1:", "http://127.0.0.1:8080?", "http://127.0.0.1:8080/a/../b",
		"http://127.0.0.1:8080/a//b", "http://127.0.0.1:8080/a%2Fb", "http://127.0.0.1:8080/./a",
	} {
		t.Run(url, func(t *testing.T) {
			n, err := peercache.NewNode(url, nil)
			if err != nil {
				return
			}
			defer func() {
				if v := recover(); v != nil {
					t.Errorf("mounting the handler of %s: %v", url, v)
				}
			}()
			mux := http.NewServeMux()
			mux.Handle(n.Handler())
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.Self().URL+"/_peercache/v1", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			if w.Code != http.StatusUnsupportedMediaType { // all else is as a peer's
				t.Errorf("a request to %s is answered %d", n.Self().URL, w.Code)
			}
		})
	}
}

// openConn counts itself while it is open.
type openConn struct {
	net.Conn
	open *atomic.Int32
	done atomic.Bool
}

func (c *openConn) Close() error {
	if !c.done.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

func TestNoConnectionOutlivesLeave(t *testing.T) {
	bad := 0
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			var open atomic.Int32
			listeners := map[string]*pipeListener{}
			var node *peercache.Node
			var err error
			node, err = peercache.NewNode("http://127.0.0.1:8001", &peercache.NodeOptions{Logger: discardLogger(), Network: &peercache.Network{
				Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
					time.Sleep(10 * time.Millisecond)
					a, b := net.Pipe()
					open.Add(1)
					listeners[addr].conns <- b
					return &openConn{Conn: a, open: &open}, nil
				},
				Listen:       func(string, string) (net.Listener, error) { return nil, net.ErrClosed },
				ListenPacket: func(string, string) (net.PacketConn, error) { return nil, net.ErrClosed },
			}})
			if err != nil {
				t.Fatal(err)
			}
			peers := []peercache.Peer{node.Self()}
			for _, addr := range []string{"127.0.0.1:8002", "127.0.0.1:8003"} {
				l := &pipeListener{make(chan net.Conn), make(chan struct{})}
				listeners[addr] = l
				server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					fallSilent(r)
				})}
				go func() { _ = server.Serve(l) }()
				defer server.Close()
				peers = append(peers, peercache.Peer{URL: "http://" + addr})
			}
			if err := node.SetPeers(peers...); err != nil {
				t.Fatal(err)
			}
			o := &origin{}
			cache := peercache.New("c", o.load, &peercache.Options{Node: node})
			key := ""
			for i := 0; ; i++ {
				key = fmt.Sprint("k", i)
				if own := peercache.OwnersOf(cache, key, 2); own[0] != node.Self().URL && own[1] != node.Self().URL {
					break
				}
			}
			got := make(chan struct{})
			go func() {
				defer close(got)
				wantValue(t, cache, key)
			}()
			time.Sleep(100 * time.Millisecond)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := node.Leave(ended); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			<-got
			time.Sleep(time.Second)
			if open.Load() != 0 {
				bad++
				time.Sleep(2 * time.Minute)
			}
		})
	}
	if bad > 0 {
		t.Errorf("a connection was left open for a minute in %d of 50 runs", bad)
	}
}

func TestSpellingsOfOneAddressAreOneNode(t *testing.T) {
	for raw, want := range map[string]string{
		"http://127.0.0.1:":         "http://127.0.0.1",
		"http://[0:0::1]:8080":      "http://[::1]:8080",
		"http://127.0.0.1:8080?":    "http://127.0.0.1:8080",
		"http://[::ffff:127.0.0.1]": "http://127.0.0.1",
	} {
		n, err := peercache.NewNode(raw, nil)
		if err != nil {
			t.Errorf("NewNode(%q): %v", raw, err)
			continue
		}
		if got := n.Self().URL; got != want {
			t.Errorf("NewNode(%q) is at %s, want %s", raw, got, want)
		}
	}
}

func TestKeysAreThoseThatAreStillServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBareNodes(t, 2)
		b.setPeers()
		cache := bareCaches(b, "c", (&origin{}).load, nil)[0]
		for i := range 10 {
			wantValue(t, cache, fmt.Sprint("k", i))
		}
		if err := b.nodes[0].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		for key := range cache.Keys() {
			if _, ok := cache.Peek(key); !ok {
				t.Errorf("%s is among the keys and is not served", key)
			}
		}
	})
}

func TestSetAtAnOwnerThatHasLeftIsARemove(t *testing.T) {
	b := newBareNodes(t, 3)
	b.setPeers()
	caches := bareCaches(b, "c", (&origin{}).load, nil)
	key := ""
	for i := 0; key == "" || caches[0].Owner(key) != b.nodes[1].Self().URL; i++ {
		key = fmt.Sprint("k", i)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_ = b.nodes[1].Leave(ended)
	if err := caches[0].Remove(t.Context(), key); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if err := caches[0].Set(t.Context(), key, "v", 0); err != nil {
		t.Errorf("Set: %v, want nil as from Remove: it has left, and lets go of what it holds", err)
	}
}

func TestHotTTLAfterLeaveCountsFromWhereItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", (&origin{}).load, nil)
		key := ownedBy(t, c, caches[1], "k", 1)
		wantValue(t, caches[1], key)
		left := make(chan error, 1)
		go func() { left <- c.Node(1).Leave(t.Context()) }()
		for len(c.Node(0).Peers()) > 1 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond) // it is told of nothing any more, and lingers
		start := time.Now()
		if err := caches[0].Remove(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if err := <-left; err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Second - time.Since(start))
		if v, ok := caches[1].Peek(key); ok {
			t.Errorf("HotTTL after the Remove that it was not told of, a node that has left serves %q", v)
		}
	})
}

func TestSecondLeaveWithAnEndedContextStopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		first := make(chan error, 1)
		go func() { first <- c.Node(1).Leave(t.Context()) }()
		synctest.Wait()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if err := c.Node(1).Leave(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("the second Leave: %v, want context.Canceled", err)
		}
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the first Leave: %v, want context.Canceled: it was cut short", err)
		}
		if d := time.Since(start); d > 50*time.Millisecond {
			t.Errorf("they took %v, want the node to stop at once", d)
		}
	})
}

func TestPortsAndBracketsAreChecked(t *testing.T) {
	for _, url := range []string{"http://127.0.0.1:99999", "http://127.0.0.1:0", "http://127.0.0.1:080"} {
		if _, err := peercache.NewNode(url, nil); err == nil || !strings.Contains(err.Error(), "port") {
			t.Errorf("NewNode(%q): %v, want an error about the port", url, err)
		}
	}
	for _, gossip := range []string{"127.0.0.1:99999", "127.0.0.1:x", "127.0.0.1:"} {
		if _, err := peercache.NewNode("http://127.0.0.1:1", &peercache.NodeOptions{Gossip: gossip}); err == nil || !strings.Contains(err.Error(), "Gossip") {
			t.Errorf("NewNode with Gossip %q: %v, want an error that names it", gossip, err)
		}
	}
	for _, seed := range []string{"[::1", "::1]", "[localhost", "[localhost]"} {
		n, err := peercache.NewNode("http://127.0.0.1:1", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Join(t.Context(), seed); err == nil || !strings.Contains(err.Error(), "seed") {
			t.Errorf("Join(%q): %v, want an error about the seed", seed, err)
		}
	}
}
