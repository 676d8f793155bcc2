package peercache_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// Nodes with a secret, on real sockets.

var (
	secretA = []byte("0123456789abcdef0123456789abcdef")
	secretB = []byte("fedcba9876543210fedcba9876543210")
)

// newSecret starts a node with secrets that has not joined.
func newSecret(t *testing.T, secret, alternate []byte, more ...func(*peercache.NodeOptions)) *realNode {
	t.Helper()
	opts := peercache.NodeOptions{Secret: secret, AlternateSecret: alternate}
	for _, f := range more {
		f(&opts)
	}
	return newUnjoined(t, anywhere, opts, valueOf)
}

// keyAt returns a key that a node owns by the ring of another, another one each time.
func keyAt(t *testing.T, by, owner *realNode) string {
	t.Helper()
	for range 10_000 {
		if key := fmt.Sprintf("key-of-somebody-%d", rand.Uint32()); by.cache.Owner(key) == owner.Self().URL {
			return key
		}
	}
	t.Fatalf("%s owns no key by the ring of %s", owner.Self().URL, by.Self().URL)
	return ""
}

// checkFetch has one node get a key of the other.
func checkFetch(t *testing.T, from, owner *realNode) {
	t.Helper()
	before := from.cache.Stats()
	key := keyAt(t, from, owner)
	if v, err := from.cache.Get(t.Context(), key); err != nil || v != "value of "+key {
		t.Errorf("Get(%s) = %q, %v", key, v, err)
	}
	after := from.cache.Stats()
	if after.PeerGets != before.PeerGets+1 || after.PeerErrors != before.PeerErrors || after.Loads != before.Loads {
		t.Errorf("a key of %s was not fetched from it: Stats %+v, before %+v", owner.Self().URL, after, before)
	}
}

// awaitPeers waits until nodes have each other, and nobody else, for peers.
func awaitPeers(t *testing.T, nodes ...*realNode) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, n := range nodes {
		for len(n.Peers()) != len(nodes) {
			select {
			case <-tick.C:
			case <-timeout:
				t.Fatalf("%s has the peers %v, want %d", n.Self().URL, n.Peers(), len(nodes))
			}
		}
	}
}

func TestNodesWithASecretShareACache(t *testing.T) {
	a, b := newSecret(t, secretA, nil), newSecret(t, secretA, nil)
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Join(t.Context(), a.GossipAddr()); err != nil {
		t.Fatal(err)
	}
	awaitPeers(t, a, b)
	checkFetch(t, a, b)
	checkFetch(t, b, a)
	key := keyAt(t, a, b)
	if err := a.cache.Set(t.Context(), key, strings.Repeat("large ", 50_000), time.Minute); err != nil {
		t.Error(err)
	}
	if v, err := a.cache.Get(t.Context(), key); err != nil || len(v) != 300_000 {
		t.Errorf("Get of a large value = %d bytes, %v", len(v), err)
	}
	if err := b.cache.Remove(t.Context(), key); err != nil {
		t.Error(err)
	}
}

// A tap records what passes over the connections and packets of a network.
type tap struct {
	mu  sync.Mutex // guards all
	all bytes.Buffer
}

func (c *tap) note(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all.Write(b)
}

// Write makes a tap a place for a log.
func (c *tap) Write(b []byte) (int, error) {
	c.note(b)
	return len(b), nil
}

func (c *tap) heard(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.all.Bytes(), []byte(text))
}

func (c *tap) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all.Len()
}

type tappedConn struct {
	net.Conn
	tap *tap
}

func (c tappedConn) Write(b []byte) (int, error) {
	c.tap.note(b)
	return c.Conn.Write(b)
}

func (c tappedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.tap.note(b[:n])
	return n, err
}

type tappedListener struct {
	net.Listener
	tap *tap
}

func (l tappedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tappedConn{conn, l.tap}, nil
}

type tappedPackets struct {
	net.PacketConn
	tap *tap
}

func (c tappedPackets) WriteTo(b []byte, addr net.Addr) (int, error) {
	c.tap.note(b)
	return c.PacketConn.WriteTo(b, addr)
}

func (c *tap) network() *peercache.Network {
	return &peercache.Network{
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return tappedConn{conn, c}, nil
		},
		Listen: func(network, addr string) (net.Listener, error) {
			l, err := new(net.ListenConfig).Listen(context.Background(), network, addr)
			if err != nil {
				return nil, err
			}
			return tappedListener{l, c}, nil
		},
		ListenPacket: func(network, addr string) (net.PacketConn, error) {
			p, err := new(net.ListenConfig).ListenPacket(context.Background(), network, addr)
			if err != nil {
				return nil, err
			}
			return tappedPackets{p, c}, nil
		},
	}
}

func TestTrafficUnderASecretTellsNeitherKeysNorValues(t *testing.T) {
	for _, secret := range [][]byte{nil, secretA} { // without, to see that the test would hear it
		var wire tap
		tapped := func(o *peercache.NodeOptions) { o.Network = wire.network() }
		a, b := newSecret(t, secret, nil, tapped), newSecret(t, secret, nil, tapped)
		if err := a.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.Join(t.Context(), a.GossipAddr()); err != nil {
			t.Fatal(err)
		}
		awaitPeers(t, a, b)
		checkFetch(t, a, b)
		checkFetch(t, b, a)
		if err := a.cache.Set(t.Context(), keyAt(t, a, b), "a value that was set", time.Minute); err != nil {
			t.Error(err)
		}
		if wire.size() < 2000 {
			t.Fatalf("only %d bytes were heard: the test shows nothing", wire.size())
		}
		for _, text := range []string{"key-of-somebody", "value of", "a value that was set"} {
			if got, want := wire.heard(text), secret == nil; got != want {
				t.Errorf("with a secret: %t: %q was heard: %t, want %t", secret != nil, text, got, want)
			}
		}
	}
}

func TestWhoHasAnotherSecretGetsNothing(t *testing.T) {
	owner := newSecret(t, secretA, nil)
	for name, stranger := range map[string]*realNode{
		"another secret": newSecret(t, secretB, nil),
		"none":           newSecret(t, nil, nil),
	} {
		t.Run(name, func(t *testing.T) {
			peers := []peercache.Peer{owner.Self(), stranger.Self()}
			for _, n := range []*realNode{owner, stranger} {
				if err := n.SetPeers(peers...); err != nil {
					t.Fatal(err)
				}
			}
			for from, of := range map[*realNode]*realNode{stranger: owner, owner: stranger} {
				key := keyAt(t, from, of)
				served := of.cache.Stats().Served
				if v, err := from.cache.Get(t.Context(), key); err != nil || v != "value of "+key { // loaded here
					t.Errorf("Get = %q, %v", v, err)
				}
				if s := from.cache.Stats(); s.PeerErrors == 0 || of.cache.Stats().Served != served {
					t.Errorf("a node with a secret and one with %s talk to each other: %+v", name, s)
				}
			}
		})
	}
	post := func(body io.Reader, header http.Header) (status int) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, owner.Self().URL+"/_peercache/v1", body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	plain := http.Header{"Content-Type": {"application/x-peercache"}}
	if status := post(strings.NewReader("\x00"), plain); status != http.StatusUpgradeRequired {
		t.Errorf("plain POST to a node with a secret: %d, want 426", status)
	}
	upgrade := plain.Clone()
	upgrade.Set("Connection", "Upgrade")
	upgrade.Set("Upgrade", "peercache/1")
	if status := post(http.NoBody, upgrade); status != http.StatusForbidden {
		t.Errorf("upgrade without a secret: %d, want 403", status)
	}
}

func TestJoinFailsWhereASeedHasAnotherSecret(t *testing.T) {
	for name, secrets := range map[string][2][]byte{
		"another":            {secretA, secretB},
		"only the seed":      {secretA, nil},
		"only the newcomer":  {nil, secretB},
		"the same, no error": {secretA, secretA},
	} {
		t.Run(name, func(t *testing.T) {
			seed, n := newSecret(t, secrets[0], nil), newSecret(t, secrets[1], nil)
			if err := seed.Join(t.Context()); err != nil {
				t.Fatal(err)
			}
			err := n.Join(t.Context(), seed.GossipAddr())
			if want := !bytes.Equal(secrets[0], secrets[1]); (err != nil) != want || want && !strings.Contains(err.Error(), "NodeOptions.Secret") {
				t.Errorf("Join = %v, want an error that names NodeOptions.Secret: %t", err, want)
			}
			if err != nil && len(seed.Peers()) != 1 {
				t.Errorf("the seed has the peers %v", seed.Peers())
			}
		})
	}
}

// TestSecretIsChangedInThreeRollouts changes the secret of a cluster of three, one process
// after the other, while all of them fetch from each other.
func TestSecretIsChangedInThreeRollouts(t *testing.T) {
	t.Parallel() // it mostly waits
	start := func(secret, alternate []byte, seeds ...string) *realNode {
		n := newSecret(t, secret, alternate)
		if err := n.Join(t.Context(), seeds...); err != nil {
			t.Fatal(err)
		}
		return n
	}
	nodes := []*realNode{start(secretA, nil)}
	for range 2 {
		nodes = append(nodes, start(secretA, nil, nodes[0].GossipAddr()))
	}
	check := func() {
		t.Helper()
		awaitPeers(t, nodes...)
		for _, from := range nodes {
			for _, owner := range nodes {
				if from != owner {
					checkFetch(t, from, owner)
				}
			}
		}
	}
	check()
	for _, secrets := range [][2][]byte{{secretA, secretB}, {secretB, secretA}, {secretB, nil}} {
		for range nodes {
			next := start(secrets[0], secrets[1], nodes[1].GossipAddr(), nodes[2].GossipAddr())
			said, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond) // enough to tell the others
			_ = nodes[0].Leave(said)
			cancel()
			nodes[0].server.Close()
			nodes = append(nodes[1:], next)
			check()
		}
	}
}

func TestProxyThatRefusesUpgradesIsNamedUnderASecret(t *testing.T) {
	var asked atomic.Int32
	var logged tap
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "no upgrades here", http.StatusBadGateway)
	}))
	defer front.Close()
	n := newSecret(t, secretA, nil, func(o *peercache.NodeOptions) { o.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
	if err := n.SetPeers(n.Self(), peercache.Peer{URL: front.URL}); err != nil {
		t.Fatal(err)
	}
	i := 0
	for ; n.cache.Owner(fmt.Sprint(i)) != front.URL; i++ {
	}
	if v, err := n.cache.Get(t.Context(), fmt.Sprint(i)); err != nil || v != "value of "+fmt.Sprint(i) {
		t.Errorf("Get = %q, %v", v, err)
	}
	if asked.Load() == 0 || !logged.heard("proxy") || !logged.heard("no upgrades here") {
		t.Errorf("asked %d times, logged %q, want what the proxy said", asked.Load(), logged.all.String())
	}
}

func TestSecretOptionsThatAreUnsafeAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		url  string
		opts peercache.NodeOptions
		want string
	}{
		"no secret, private address": {"http://10.0.0.5:8080", peercache.NodeOptions{}, "NodeOptions.Secret"},
		"gossip for all":             {"http://127.0.0.1:8080", peercache.NodeOptions{Gossip: "0.0.0.0:7946"}, "NodeOptions.Insecure"},
		"a password":                 {"http://10.0.0.5:8080", peercache.NodeOptions{Secret: []byte("hunter2")}, "at least 16"},
		"only the alternate":         {"http://127.0.0.1:8080", peercache.NodeOptions{AlternateSecret: secretA}, "without Secret"},
		"short alternate":            {"http://127.0.0.1:8080", peercache.NodeOptions{Secret: secretA, AlternateSecret: []byte("x")}, "AlternateSecret"},
		"secret":                     {"http://10.0.0.5:8080", peercache.NodeOptions{Secret: secretA}, ""},
		"insecure":                   {"http://10.0.0.5:8080", peercache.NodeOptions{Insecure: true}, ""},
	} {
		_, err := peercache.NewNode(test.url, &test.opts)
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: NewNode = %v, want an error with %q", name, err, test.want)
		}
	}
}
