package peercache

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

// newGossipConfig is a process called name on loopback, with ports of its own.
func newGossipConfig(name string) gossipConfig {
	return gossipConfig{
		cluster: "test",
		bind:    "127.0.0.1:0",
		self:    member{url: "http://" + name, weight: 1, boot: rand.Uint64(), state: stateJoining},
		network: osNetwork(),
		logger:  slog.New(slog.DiscardHandler),
	}
}

func startGossip(tb testing.TB, c gossipConfig) *gossip {
	tb.Helper()
	g, err := newGossip(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(g.stop)
	return g
}

func joinGossip(tb testing.TB, g *gossip, addrs ...string) {
	tb.Helper()
	if n, err := g.join(addrs); n != len(addrs) || err != nil {
		tb.Fatalf("join(%q) = %d, %v, want %d, nil", addrs, n, err, len(addrs))
	}
}

// startThree starts three processes that have joined each other.
func startThree(tb testing.TB) (a, b, c *gossip) {
	tb.Helper()
	a, b, c = startGossip(tb, newGossipConfig("a")), startGossip(tb, newGossipConfig("b")), startGossip(tb, newGossipConfig("c"))
	joinGossip(tb, b, a.addr)
	joinGossip(tb, c, a.addr)
	for _, g := range []*gossip{a, b, c} {
		awaitStates(tb, g, 10*time.Second, "http://a joining, http://b joining, http://c joining")
	}
	return a, b, c
}

func states(g *gossip) string {
	names := [...]string{stateJoining: "joining", stateActive: "active", stateLeaving: "leaving"}
	var list []string
	for _, m := range g.members() {
		list = append(list, m.url+" "+names[m.state])
	}
	return strings.Join(list, ", ")
}

// awaitStates waits until g's members are as wanted, and returns how long it took.
func awaitStates(tb testing.TB, g *gossip, limit time.Duration, want string) time.Duration {
	tb.Helper()
	start := time.Now()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for states(g) != want {
		select {
		case <-g.changed():
		case <-timeout.C:
			tb.Fatalf("after %v the members at %s are %s, want %s", limit, g.name, states(g), want)
		}
	}
	return time.Since(start)
}

func TestMembersSeeEachOther(t *testing.T) {
	start := time.Now()
	a, b, c := startThree(t)
	t.Logf("three processes have converged in %v", time.Since(start))
	for _, g := range []*gossip{a, b, c} {
		want := []string{a.addr, b.addr, c.addr}
		want = slices.DeleteFunc(want, func(addr string) bool { return addr == g.addr })
		slices.Sort(want)
		if diff := cmp.Diff(want, g.addrs()); diff != "" {
			t.Errorf("addrs() of %s (-want +got):\n%s", g.name, diff)
		}
		if h := g.health(); h != 0 {
			t.Errorf("health() of %s = %d, want 0", g.name, h)
		}
	}
}

func TestMembersCarryAllOfAMember(t *testing.T) {
	// The longest of everything: gossip never sends what does not fit in a packet.
	c := newGossipConfig(strings.Repeat("u", maxMemberURL-len("http://")))
	c.cluster = strings.Repeat("c", 255-len("peercache/1/"))
	c.self.zone = strings.Repeat("z", maxMemberZone)
	c.self.weight = maxMemberWeight
	g := startGossip(t, c)
	o := newGossipConfig("other")
	o.cluster = c.cluster
	other := startGossip(t, o)
	joinGossip(t, other, g.addr)
	g.setState(stateActive)
	limit := gossipPushPullInterval / 2 // a full exchange would hide that gossip does not work
	t.Logf("the new state arrived after %v", awaitStates(t, other, limit, "http://other joining, "+c.self.url+" active"))
	want := c.self
	want.state = stateActive
	if diff := cmp.Diff(want, other.members()[1], compareMembers); diff != "" {
		t.Errorf("the member as others see it (-want +got):\n%s", diff)
	}
}

func TestNewStateReachesOthers(t *testing.T) {
	a, b, c := startThree(t)
	a.setState(stateActive)
	if got, want := states(a), "http://a active, http://b joining, http://c joining"; got != want {
		t.Errorf("at once the members at a are %s, want %s", got, want)
	}
	for _, g := range []*gossip{b, c} {
		t.Logf("%s saw it after %v", g.name, awaitStates(t, g, 10*time.Second, "http://a active, http://b joining, http://c joining"))
	}
}

func TestLastOfManyStatesWins(t *testing.T) {
	a, b, c := startThree(t)
	for range 50 {
		a.setState(stateLeaving)
		a.setState(stateJoining)
	}
	a.setState(stateActive)
	for _, g := range []*gossip{a, b, c} {
		awaitStates(t, g, 10*time.Second, "http://a active, http://b joining, http://c joining")
	}
}

// A process that denies a suspicion tells its former state anew, and memberlist drops
// an update that meets this without saying so.
func TestStateIsToldWhileSuspicionsAreDenied(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second of both CPUs")
	}
	a, b := startGossip(t, newGossipConfig("a")), startGossip(t, newGossipConfig("b"))
	joinGossip(t, b, a.addr)
	conn, err := osNetwork().Dial(t.Context(), "udp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	var accuser sync.WaitGroup
	enough := make(chan struct{})
	accuser.Go(func() {
		label := "peercache/1/test"
		for incarnation := uint32(1); ; incarnation += 1000 {
			select {
			case <-enough:
				return
			default:
			}
			// A packet as memberlist encodes it: label, type 3, and a map in msgpack.
			p := append([]byte{244, byte(len(label))}, label...)
			p = append(p, 3, 0x83, 0xab)
			p = append(p, "Incarnation\xce"...)
			p = binary.BigEndian.AppendUint32(p, incarnation)
			p = append(p, "\xa4Node\xd9"...)
			p = append(append(p, byte(len(a.name))), a.name...)
			p = append(p, "\xa4From\xa1b"...)
			_, _ = conn.Write(p)
		}
	})
	defer func() {
		close(enough)
		accuser.Wait()
		_ = conn.Close()
	}()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for i := range 100 { // without announce's second look one in a few hundred is lost
		a.setState([...]state{stateActive, stateLeaving}[i%2])
		for deadline := time.Now().Add(5 * time.Second); a.toTell(); <-ticker.C {
			if time.Now().After(deadline) {
				t.Fatalf("the state set in round %d is not told after 5 s", i)
			}
		}
	}
	if h := a.health(); h == 0 {
		t.Error("no suspicion was denied: the test shows nothing")
	}
}

func TestLeaveIsSeen(t *testing.T) {
	a, b, c := startThree(t)
	start := time.Now()
	if err := a.leave(5*time.Second, func() {}); err != nil {
		t.Error(err)
	}
	t.Logf("leave took %v", time.Since(start))
	for _, g := range []*gossip{b, c} {
		awaitStates(t, g, 2*time.Second, "http://b joining, http://c joining")
	}
	t.Logf("and was seen by all after %v", time.Since(start))
	if err := a.leave(5*time.Second, func() {}); err != nil {
		t.Errorf("the second leave: %v", err)
	}
	a.setState(stateActive)
	if got, want := states(a), "http://a active, http://b joining, http://c joining"; got != want {
		t.Errorf("after leave the members at a are %s, want %s", got, want)
	}
}

func TestLeaveAloneReturns(t *testing.T) {
	g := startGossip(t, newGossipConfig("a"))
	if err := g.leave(0, func() {}); err != nil {
		t.Error(err)
	}
}

func TestDeathIsNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for real seconds")
	}
	t.Parallel()
	a, b, c := startThree(t)
	start := time.Now()
	a.stop()
	t.Logf("stop took %v", time.Since(start))
	for _, g := range []*gossip{b, c} {
		awaitStates(t, g, 15*time.Second, "http://b joining, http://c joining")
		t.Logf("%s noticed after %v", g.name, time.Since(start))
	}
}

func TestOtherClusterIsNotJoined(t *testing.T) {
	a := startGossip(t, newGossipConfig("a"))
	c := newGossipConfig("b")
	c.cluster = "other"
	b := startGossip(t, c)
	n, err := b.join([]string{a.addr})
	if n != 0 || err == nil {
		t.Fatalf("join of another cluster = %d, %v, want 0 and an error", n, err)
	}
	for _, word := range []string{a.addr, "another cluster", "NodeOptions.Cluster", "proxy"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("join of another cluster: %v, want it to say %q", err, word)
		}
	}
	if got, want := states(a), "http://a joining"; got != want {
		t.Errorf("members of the one cluster are %s, want %s", got, want)
	}
	if got, want := states(b), "http://b joining"; got != want {
		t.Errorf("members of the other are %s, want %s", got, want)
	}
}

func TestSeedThatIsNoGossipIsToldApart(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ReadHeaderTimeout = 100 * time.Millisecond // what it got has no line's end
	server.Start()
	defer server.Close()
	g := startGossip(t, newGossipConfig("a"))
	n, err := g.join([]string{server.Listener.Addr().String()})
	if n != 0 || err == nil || !strings.Contains(err.Error(), "does not speak gossip") || !strings.Contains(err.Error(), "NodeOptions.Gossip") {
		t.Errorf("join of an HTTP server = %d, %v, want 0 and an error that says so", n, err)
	}
}

func TestJoinTriesAllAndNamesTheCauses(t *testing.T) {
	a, b := startGossip(t, newGossipConfig("a")), startGossip(t, newGossipConfig("b"))
	free, err := osNetwork().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	bad := []string{refused, "cache.example.com:7946", "10.0.0.1", "169.254.169.254:80", "0.0.0.0:7946", "224.0.0.1:7946", "127.0.0.1:0"}
	n, err := b.join(bad)
	if n != 0 || err == nil {
		t.Fatalf("join(%q) = %d, %v, want 0 and an error", bad, n, err)
	}
	for _, addr := range bad {
		if !strings.Contains(err.Error(), addr) {
			t.Errorf("join(%q) = %v, want it to name %s", bad, err, addr)
		}
	}
	if n, err := b.join(append(bad, a.addr, b.addr)); n != 1 || err != nil {
		t.Errorf("join with one that answers = %d, %v, want 1, nil", n, err)
	}
	if n, err := b.join([]string{b.addr}); n != 0 || err != nil {
		t.Errorf("join of itself = %d, %v, want 0, nil", n, err)
	}
}

func TestStopIsFinal(t *testing.T) {
	a, b, _ := startThree(t)
	a.stop()
	a.stop()
	want := states(a)
	a.setState(stateActive)
	if got := states(a); got != want {
		t.Errorf("after stop the members changed from %s to %s", want, got)
	}
	if n, err := a.join([]string{b.addr}); n != 0 || !errors.Is(err, errGossipStopped) {
		t.Errorf("join after stop = %d, %v, want 0, %v", n, err, errGossipStopped)
	}
	if err := a.leave(time.Second, func() {}); !errors.Is(err, errGossipStopped) {
		t.Errorf("leave after stop = %v, want %v", err, errGossipStopped)
	}
	a.health()
	var calls sync.WaitGroup // everything at once, while it stops
	for range 4 {
		calls.Go(b.stop)
		calls.Go(func() { _ = b.leave(time.Second, func() {}) })
		calls.Go(func() { _, _ = b.join([]string{a.addr}) })
		calls.Go(func() { b.setState(stateActive); b.members(); b.addrs(); b.health() })
	}
	calls.Wait()
}

func TestStopLeavesNoGoroutine(t *testing.T) {
	before := goleak.IgnoreCurrent()
	g, h := startGossip(t, newGossipConfig("a")), startGossip(t, newGossipConfig("b"))
	joinGossip(t, g, h.addr)
	g.setState(stateActive)
	g.stop()
	h.stop()
	// A probe of memberlist's that is under way waits for its answer, up to two
	// seconds, and cannot be told to stop.
	probe := goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode")
	if err := goleak.Find(before, probe); err != nil {
		t.Error(err)
	}
}

func TestAddressInUseIsNamed(t *testing.T) {
	taken := startGossip(t, newGossipConfig("a"))
	c := newGossipConfig("b")
	c.bind = taken.addr
	_, err := newGossip(c)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), c.bind) || !strings.Contains(err.Error(), "NodeOptions.Gossip") {
		t.Errorf("newGossip on a taken address: error %v, want %v with %s and the remedy", err, syscall.EADDRINUSE, c.bind)
	}
}

func TestConfigsThatCannotWorkAreRefused(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*gossipConfig)
		want   string
	}{
		{"of another machine", func(c *gossipConfig) { c.bind = "192.0.2.1:0" }, "set NodeOptions.Gossip to an address of this machine"},
		{"no address", func(c *gossipConfig) { c.bind = "localhost:7946" }, `"localhost:7946"`},
		{"nothing to advertise", func(c *gossipConfig) { c.bind = "0.0.0.0:0" }, "others cannot use it"},
		{"link-local", func(c *gossipConfig) { c.advertise = netip.MustParseAddr("169.254.0.1") }, "link-local"},
		{"URL elsewhere", func(c *gossipConfig) { c.self.url = "http://10.0.0.1" }, "another address than the node's gossip, 127.0.0.1: set NodeOptions.Gossip"},
		{"long URL", func(c *gossipConfig) { c.self.url = "http://" + strings.Repeat("u", 249) }, "URL has 256 bytes"},
		{"long cluster", func(c *gossipConfig) { c.cluster = strings.Repeat("c", 244) }, "name has 244 bytes, at most 243"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newGossipConfig("a")
			test.change(&c)
			g, err := newGossip(c)
			if err == nil {
				g.stop()
				t.Fatal("newGossip succeeded, want an error")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("newGossip: error %q, want it to contain %q", err, test.want)
			}
		})
	}
}

func TestAdvertisedAddressIsTold(t *testing.T) {
	c := newGossipConfig("a")
	c.bind = "0.0.0.0:0"
	c.advertise = netip.MustParseAddr("127.0.0.1")
	a, b := startGossip(t, c), startGossip(t, newGossipConfig("b"))
	if !strings.HasPrefix(a.addr, "127.0.0.1:") {
		t.Errorf("addr = %s, want 127.0.0.1 and a port", a.addr)
	}
	joinGossip(t, b, a.addr)
	awaitStates(t, a, 10*time.Second, "http://a joining, http://b joining")
	if diff := cmp.Diff([]string{a.addr}, b.addrs()); diff != "" {
		t.Errorf("addrs() of a peer (-want +got):\n%s", diff)
	}
}

func TestPortIsFreeForStreamsAndPackets(t *testing.T) {
	c := newGossipConfig("a")
	system := osNetwork()
	misses := 3
	c.network = &Network{Dial: system.Dial, Listen: system.Listen, ListenPacket: func(network, addr string) (net.PacketConn, error) {
		if misses--; misses >= 0 {
			return nil, syscall.EADDRINUSE
		}
		return system.ListenPacket(network, addr)
	}}
	startGossip(t, c)

	misses = 1_000
	if _, err := newGossip(c); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("newGossip without a free port: error %v, want %v", err, syscall.EADDRINUSE)
	}
	if n := 1_000 - misses; n != bindAttempts {
		t.Errorf("newGossip tried %d ports, want %d", n, bindAttempts)
	}
}

func TestUnreadableMemberIsKeptOut(t *testing.T) {
	var logged recordedLog
	c := newGossipConfig("b")
	c.logger = slog.New(&logged)
	a, b := startGossip(t, newGossipConfig("a")), startGossip(t, c)
	joinGossip(t, b, a.addr)
	meta := slices.Clone(a.meta())
	meta[1]++ // its protocol
	a.roster.mu.Lock()
	a.roster.mu.meta = meta
	a.roster.mu.Unlock()
	notify(a.wake)
	awaitStates(t, b, 10*time.Second, "http://b joining")
	if n := b.rejections(); n != 1 {
		t.Errorf("rejections() = %d, want 1", n)
	}
	if diff := cmp.Diff([]string{a.addr}, b.addrs()); diff != "" {
		t.Errorf("addrs() (-want +got), though it is alive:\n%s", diff)
	}
	a.setState(stateActive) // readable again
	awaitStates(t, b, 10*time.Second, "http://a active, http://b joining")
	b.stop() // waits for the log
	want := "WARN gossip: keeping " + a.name + " at " + a.addr + " out of the ring: protocol 2, this process speaks 1"
	logged.lines = slices.DeleteFunc(logged.lines, func(line string) bool { return !strings.Contains(line, "out of the ring") })
	if diff := cmp.Diff([]string{want}, logged.lines); diff != "" {
		t.Errorf("logged (-want +got):\n%s", diff)
	}
}

// As in a deploy of a release that builds another ring: people must learn of each.
func TestEachPeerThatIsKeptOutIsLogged(t *testing.T) {
	var logged recordedLog
	c := newGossipConfig("b")
	c.logger = slog.New(&logged)
	b := startGossip(t, c)
	others := []*gossip{startGossip(t, newGossipConfig("a")), startGossip(t, newGossipConfig("c"))}
	for _, g := range others {
		joinGossip(t, g, b.addr)
	}
	awaitStates(t, b, 10*time.Second, "http://a joining, http://b joining, http://c joining")
	for _, g := range others {
		meta := slices.Clone(g.meta())
		meta[1]++ // its protocol
		g.roster.mu.Lock()
		g.roster.mu.meta = meta
		g.roster.mu.Unlock()
		notify(g.wake)
	}
	awaitStates(t, b, 10*time.Second, "http://b joining")
	for _, g := range others {
		g.setState(stateActive) // readable again
	}
	awaitStates(t, b, 10*time.Second, "http://a active, http://b joining, http://c active")
	b.stop() // waits for the log
	for _, g := range others {
		count := 0
		for _, line := range logged.lines {
			if strings.Contains(line, "keeping "+g.name) {
				count++
			}
		}
		if count != 1 {
			t.Errorf("%d lines say that %s is kept out, want 1: %q", count, g.name, logged.lines)
		}
	}
}

func TestMemberUnderAFalseNameIsKeptOut(t *testing.T) {
	r, err := newRoster(sampleMember(), "10.0.0.9:7946")
	if err != nil {
		t.Fatal(err)
	}
	m := member{url: "http://a", weight: 1, boot: 1, state: stateActive}
	meta, err := m.meta()
	if err != nil {
		t.Fatal(err)
	}
	m.boot++
	if err := r.put(m.gossipName(), "10.0.0.1:7946", meta, true); err == nil {
		t.Error("put under another boot's name succeeded, want an error")
	}
	if n := len(r.members()); n != 1 {
		t.Errorf("%d members, want 1", n)
	}
}

func TestMemberWithAURLElsewhereIsKeptOut(t *testing.T) {
	r, err := newRoster(sampleMember(), "10.0.0.9:7946")
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]bool{
		"http://10.0.0.1:8080":          true,
		"http://[::ffff:10.0.0.1]:8080": false, // not as a node spells it
		"HTTP://10.0.0.1:8080":          false,
		"http://cache.example:8080":     true,
		"http://10.0.0.2:8080":          false,
		"http://127.0.0.1:8080":         false,
		"http://169.254.169.254":        false,
		"ftp://10.0.0.1":                false,
		"http://10.0.0.1:8080/../x":     false,
	} {
		m := member{url: url, weight: 1, boot: 1, state: stateActive}
		meta, err := m.meta()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.put(m.gossipName(), "10.0.0.1:7946", meta, true); (err == nil) != want {
			t.Errorf("put of %s, which gossips at 10.0.0.1: %v, want it kept: %t", url, err, want)
		}
	}
}

func TestLastToJoinUnderAURLCounts(t *testing.T) {
	self := sampleMember()
	r, err := newRoster(self, "10.0.0.5:7946")
	if err != nil {
		t.Fatal(err)
	}
	put := func(m member, joined bool) {
		t.Helper()
		meta, err := m.meta()
		if err == nil {
			err = r.put(m.gossipName(), "10.0.0.5:7946", meta, joined)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, want ...member) {
		t.Helper()
		if diff := cmp.Diff(want, r.members(), compareMembers); diff != "" {
			t.Errorf("%s: members (-want +got):\n%s", when, diff)
		}
	}
	first := member{url: "http://a", weight: 1, boot: 2, state: stateActive}
	second := member{url: "http://a", weight: 5, boot: 1, state: stateJoining}
	former := self
	former.boot++
	put(first, true)
	put(second, true)
	put(former, true)
	check("both alive", self, second)
	first.state = stateLeaving
	put(first, false)
	check("the first says something", self, second)
	r.answers(first.url, first.boot)
	r.answers(first.url, 99) // of whom gossip has not told
	check("the first was met", self, first)
	if diff := cmp.Diff([]string{"http://10.0.0.5:8080", "http://a"}, slices.Sorted(slices.Values(r.twins()))); diff != "" {
		t.Errorf("twins (-want +got):\n%s", diff)
	}
	r.drop(first.gossipName())
	check("the first is gone", self, second)
	put(first, true)
	check("and is back, not met yet", self, first)
	r.drop(second.gossipName())
	check("the second is gone", self, first)
	r.freeze()
	r.drop(first.gossipName())
	put(second, true)
	check("frozen", self, first)
}
