package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

func TestNewNodeNormalizesItsURL(t *testing.T) {
	for raw, want := range map[string]struct{ url, pattern string }{
		"http://127.0.0.1:8080":      {"http://127.0.0.1:8080", "POST /_peercache/v1"},
		"HTTP://LocalHost:80/":       {"http://localhost", "POST /_peercache/v1"},
		"https://127.0.0.1:443/a/b/": {"https://127.0.0.1/a/b", "POST /a/b/_peercache/v1"},
		"http://127.0.0.1:443":       {"http://127.0.0.1:443", "POST /_peercache/v1"},
		"http://[::1]:8080/.x~y_z-0": {"http://[::1]:8080/.x~y_z-0", "POST /.x~y_z-0/_peercache/v1"},
	} {
		n, err := peercache.NewNode(raw, nil)
		if err != nil {
			t.Errorf("NewNode(%q): %v", raw, err)
			continue
		}
		if got := n.Self(); got != (peercache.Peer{URL: want.url, Weight: 1}) {
			t.Errorf("NewNode(%q).Self() = %v, want URL %s and weight 1", raw, got, want.url)
		}
		pattern, h := n.Handler()
		if pattern != want.pattern {
			t.Errorf("NewNode(%q).Handler() = %q, want %q", raw, pattern, want.pattern)
		}
		http.NewServeMux().Handle(pattern, h)
	}
}

func TestNewNodeRefusesWhatCannotWork(t *testing.T) {
	insecure := &peercache.NodeOptions{Insecure: true}
	for _, c := range []struct {
		name, url string
		opts      *peercache.NodeOptions
		hint      string // what the error must tell
	}{
		{"no scheme", "127.0.0.1:8080", nil, ""},
		{"other scheme", "ftp://127.0.0.1", nil, "http"},
		{"no host", "http:///path", insecure, "no host"},
		{"query", "http://127.0.0.1/?a=b", nil, "path"},
		{"user", "http://me@127.0.0.1/", nil, "path"},
		{"fragment", "http://127.0.0.1/#x", nil, "path"},
		{"wildcard in the path", "http://127.0.0.1/{x}", nil, "path"},
		{"unspecified", "http://0.0.0.0:8080", insecure, "0.0.0.0"},
		{"link-local", "http://169.254.169.254", insecure, "169.254.169.254"},
		{"multicast", "http://224.0.0.1", insecure, "224.0.0.1"},
		{"international name", "http://b\u00fccher.example", insecure, "xn--"},
		{"zone of an address", "http://[fd00::1%25eth0]:8080", insecure, "without a zone"},
		{"not loopback", "http://10.0.0.5:8080", nil, "Insecure"},
		{"a name", "http://cache.example:8080", nil, "Insecure"},
		{"gossip not loopback", "http://127.0.0.1:8080", &peercache.NodeOptions{Gossip: "0.0.0.0:7946"}, "Insecure"},
		{"gossip without a port", "http://127.0.0.1:8080", &peercache.NodeOptions{Gossip: "127.0.0.1"}, "Gossip"},
		{"bad cluster", "http://127.0.0.1:8080", &peercache.NodeOptions{Cluster: "a b"}, "Cluster"},
		{"weight", "http://127.0.0.1:8080", &peercache.NodeOptions{Weight: 101}, "100"},
		{"negative weight", "http://127.0.0.1:8080", &peercache.NodeOptions{Weight: -1}, "100"},
		{"long zone", "http://127.0.0.1:8080", &peercache.NodeOptions{Zone: strings.Repeat("z", 65)}, "zone"},
		{"long URL", "http://127.0.0.1/" + strings.Repeat("p", 300), nil, "URL"},
		{"half a network", "http://127.0.0.1:8080", &peercache.NodeOptions{Network: &peercache.Network{}}, "Dial"},
	} {
		if _, err := peercache.NewNode(c.url, c.opts); err == nil || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%s: NewNode(%q): %v, want an error with %q", c.name, c.url, err, c.hint)
		}
	}
	if _, err := peercache.NewNode("http://10.0.0.5:8080", insecure); err != nil {
		t.Errorf("NewNode of a LAN address with Insecure: %v", err)
	}
}

func TestURLWithoutAHostIsThisMachinesPrivateAddress(t *testing.T) {
	for env, want := range map[string]string{
		"10.1.2.3":        "http://10.1.2.3:8080/p",
		"fd00::7":         "http://[fd00::7]:8080/p",
		"::ffff:10.1.2.3": "http://10.1.2.3:8080/p",
	} {
		t.Setenv("POD_IP", env)
		n, err := peercache.NewNode("http://:8080/p", &peercache.NodeOptions{Insecure: true})
		if err != nil || n.Self().URL != want {
			t.Errorf("NewNode with POD_IP=%s: %v, %v, want %s", env, n, err, want)
		}
		if _, err := peercache.NewNode("http://:8080", nil); err == nil || !strings.Contains(err.Error(), "Insecure") {
			t.Errorf("NewNode without Insecure: %v, want an error that names it", err)
		}
	}
	t.Setenv("POD_IP", "here")
	if _, err := peercache.NewNode("http://:8080", &peercache.NodeOptions{Insecure: true}); err == nil || !strings.Contains(err.Error(), "POD_IP") {
		t.Errorf("NewNode with a bad POD_IP: %v, want an error that names it", err)
	}

	for addrs, want := range map[string]string{
		"127.0.0.1 10.0.0.5 ::1 fe80::1":      "10.0.0.5",
		"8.8.8.8 192.168.1.2 fd00::1 fd00::2": "192.168.1.2",
		"127.0.0.1 fd00::1":                   "fd00::1",
		"127.0.0.1 10.0.0.5 172.17.0.1":       "several",
		"127.0.0.1 8.8.8.8 ::1":               "no private one",
		"":                                    "no private one",
	} {
		var list []netip.Addr
		for addr := range strings.FieldsSeq(addrs) {
			list = append(list, netip.MustParseAddr(addr))
		}
		addr, err := peercache.OnlyPrivate(list)
		if err == nil && addr.String() != want || err != nil && !(strings.Contains(err.Error(), want) && strings.Contains(err.Error(), "POD_IP")) {
			t.Errorf("the address of a machine with %s: %v, %v, want %s", addrs, addr, err, want)
		}
	}
}

func TestNodeIsAloneBeforeItJoins(t *testing.T) {
	n, err := peercache.NewNode("http://127.0.0.1:8080", &peercache.NodeOptions{Zone: "z", Weight: 7})
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{}
	cache := peercache.New("c", o.load, &peercache.Options{Node: n})
	self := peercache.Peer{URL: "http://127.0.0.1:8080", Zone: "z", Weight: 7}
	if diff := cmp.Diff([]peercache.Peer{self}, n.Peers()); diff != "" {
		t.Errorf("Peers (-want +got):\n%s", diff)
	}
	if got := cache.Owner("k"); got != self.URL {
		t.Errorf("Owner = %q, want the node itself", got)
	}
	if got := n.GossipAddr(); got != "" {
		t.Errorf("GossipAddr = %q, want none", got)
	}
	wantValue(t, cache, "k")
	if err := cache.Remove(t.Context(), "k"); err != nil {
		t.Errorf("Remove: %v", err)
	}
	select {
	case <-n.Ready():
		t.Error("Ready is closed before Join")
	default:
	}
	for range 2 {
		if err := n.Leave(t.Context()); err != nil {
			t.Errorf("Leave before Join: %v", err)
		}
	}
	if err := n.Join(t.Context()); err == nil {
		t.Error("Join after Leave: no error")
	}
	if err := n.SetPeers(self); err == nil {
		t.Error("SetPeers after Leave: no error")
	}
}

func TestCacheNamesAreTakenAndFreed(t *testing.T) {
	n, err := peercache.NewNode("http://127.0.0.1:8080", nil)
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{}
	opts := &peercache.Options{Node: n}
	first := peercache.New("c", o.load, opts)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("New with a name that is taken: no panic")
			}
		}()
		peercache.New("c", o.load, opts)
	}()
	first.Close()
	second := peercache.New("c", o.load, opts)
	first.Close() // must not free the name of the second
	defer func() {
		if recover() == nil {
			t.Error("closing twice freed the name of another cache")
		}
	}()
	wantValue(t, second, "k")
	peercache.New("c", o.load, opts)
}

func TestJoinReportsWhatWaitingCannotCure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 1)
		if err := c.Node(0).Join(t.Context()); err == nil {
			t.Error("a second Join: no error")
		}
		if err := c.Node(0).SetPeers(c.Node(0).Self()); err == nil {
			t.Error("SetPeers after Join: no error")
		}
	})
	for _, seed := range []string{"", ":7946", "a b:1", "http://10.0.0.1:7946", "10.0.0.1:port", "10.0.0.1:99999", "fe80:::1"} {
		n, err := peercache.NewNode("http://127.0.0.1:8080", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Join(t.Context(), seed); err == nil || !strings.Contains(err.Error(), "seed") {
			t.Errorf("Join(%q): %v, want an error about the seed", seed, err)
		}
	}
	n, err := peercache.NewNode("http://127.0.0.1:8080", &peercache.NodeOptions{Insecure: true, Gossip: "192.0.2.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Join(t.Context()); err == nil || !strings.Contains(err.Error(), "192.0.2.1") {
		t.Errorf("Join with a gossip address of another machine: %v, want an error that names it", err)
	}
}

func TestJoinGoesOnWithoutSeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		c.Partition([]int{0}, []int{1})
		late := c.Add() // among the nodes not named: it reaches nobody
		if got := c.Node(late).Peers(); len(got) != 1 {
			t.Errorf("Peers of a node that reaches nobody = %v, want itself", got)
		}
		time.Sleep(5 * time.Minute)
		c.Heal()
		c.Converge()
	})
}

func TestSetPeersKeepsTheLastGoodList(t *testing.T) {
	n, err := peercache.NewNode("http://127.0.0.1:8080", nil)
	if err != nil {
		t.Fatal(err)
	}
	self, other := n.Self(), peercache.Peer{URL: "http://127.0.0.1:8081", Zone: "b", Weight: 3}
	if err := n.SetPeers(other, peercache.Peer{URL: "HTTP://127.0.0.1:8080/"}); err != nil {
		t.Fatal(err)
	}
	<-n.Ready()
	want := []peercache.Peer{self, other}
	for _, c := range []struct {
		name  string
		peers []peercache.Peer
		hint  string
	}{
		{"empty", nil, self.URL},
		{"without this node", []peercache.Peer{other}, self.URL},
		{"twice", []peercache.Peer{self, other, other}, "twice"},
		{"bad URL", []peercache.Peer{self, {URL: "x"}}, "URL"},
		{"bad weight", []peercache.Peer{self, {URL: other.URL, Weight: 1000}}, "weight"},
	} {
		if err := n.SetPeers(c.peers...); err == nil || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%s: SetPeers: %v, want an error with %q", c.name, err, c.hint)
		}
		if diff := cmp.Diff(want, n.Peers()); diff != "" {
			t.Errorf("%s: Peers (-want +got):\n%s", c.name, diff)
		}
	}
	if err := n.Join(t.Context()); err == nil {
		t.Error("Join after SetPeers: no error")
	}
	if s := n.Stats(); s.Peers != 2 || s.RingVersion < 2 {
		t.Errorf("Stats = %+v, want 2 peers and a second ring", s)
	}
	if err := n.SetPeers(self); err != nil {
		t.Errorf("SetPeers of a shorter list: %v", err)
	}
	if got := n.Peers(); len(got) != 1 {
		t.Errorf("Peers = %v, want this node alone", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Leave(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Leave with an ended context: %v, want context.Canceled", err)
	}
}

func TestSetPeersKeepsTheConnectionsOfThoseThatStay(t *testing.T) {
	var dials atomic.Int32
	var dialer net.Dialer
	a := newUnjoined(t, anywhere, peercache.NodeOptions{Network: &peercache.Network{
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return dialer.DialContext(ctx, network, addr)
		},
		Listen:       func(string, string) (net.Listener, error) { return nil, net.ErrClosed },
		ListenPacket: func(string, string) (net.PacketConn, error) { return nil, net.ErrClosed },
	}}, valueOf)
	b := newUnjoined(t, anywhere, peercache.NodeOptions{}, valueOf)
	absent := peercache.Peer{URL: "http://127.0.0.1:1"}
	for round := range 10 {
		peers := []peercache.Peer{a.Self(), b.Self(), absent}[:2+round%2]
		for _, n := range []*realNode{a, b} {
			if err := n.SetPeers(peers...); err != nil {
				t.Fatal(err)
			}
		}
		asked := 0
		for i := 0; asked < 10; i++ {
			if key := fmt.Sprint("key-", round, "-", i); a.cache.Owner(key) == b.Self().URL {
				wantValue(t, a.cache, key)
				asked++
			}
		}
	}
	// Two, where one is still being given back when the next Get begins.
	if n := dials.Load(); n > 2 {
		t.Errorf("%d connections were made to the peer that stays, want at most 2", n)
	}
}

func TestLeaveAnswersPeersUntilTheyKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		left := make(chan struct{})
		go func() {
			defer close(left)
			if err := c.Node(0).Leave(t.Context()); err != nil {
				t.Errorf("Leave: %v", err)
			}
		}()
		for i := 0; ; i++ {
			select {
			case <-left:
				for _, cache := range caches[1:] {
					if s := cache.Stats(); s.PeerErrors != 0 {
						t.Errorf("%d Gets met a node that had gone, want none", s.PeerErrors)
					}
				}
				return
			default:
				wantValue(t, caches[1+i%2], fmt.Sprint("key-", i))
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
}

func TestLeaveWithAnEndedContextStopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if err := c.Node(0).Leave(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("Leave: %v, want context.Canceled", err)
		}
		if d := time.Since(start); d > 50*time.Millisecond {
			t.Errorf("Leave took %v, want it to stop at once", d)
		}
		if err := c.Node(0).Leave(t.Context()); err != nil {
			t.Errorf("Leave again: %v", err)
		}
		c.Converge()
	})
}

func TestGossipAtAnotherAddressThanTheURLIsRefused(t *testing.T) {
	n, err := peercache.NewNode("http://192.0.2.1:8080", &peercache.NodeOptions{Insecure: true, Gossip: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	err = n.Join(t.Context())
	if err == nil || !strings.Contains(err.Error(), "192.0.2.1") || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("Join: %v, want an error that names both addresses", err)
	}
	_ = n.Leave(t.Context())
}
