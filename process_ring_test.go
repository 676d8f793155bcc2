package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// What becomes of the ring when a process is paused, killed, started again, or one of
// many. These tests mostly wait, and do so side by side.

func TestShortPausesLeaveTheRingAsItIs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pause time.Duration
		leave bool
	}{
		{300 * time.Millisecond, false},
		{time.Second, false},
		{5 * time.Second, true},
	} {
		t.Run(c.pause.String(), func(t *testing.T) {
			t.Parallel()
			a := newReal(t, valueOf)
			b := newReal(t, valueOf, a.GossipAddr())
			child := startChild(t, a.GossipAddr())
			eventually(t, "three nodes", see(3, a, b))
			version := a.Stats().RingVersion
			start := time.Now()
			if err := child.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			end := time.After(c.pause)
			if c.leave {
				eventually(t, "the stopped one leaves the ring", see(2, a, b))
				t.Logf("out of the ring after %v", time.Since(start))
			}
			<-end
			if err := child.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			t.Logf("back in the ring %v after it goes on", eventually(t, "it is in the ring", see(3, a, b)))
			<-time.After(500 * time.Millisecond) // of which a late suspicion would make use
			if changes := a.Stats().RingVersion - version; (changes > 0) != c.leave {
				t.Errorf("the ring changed %d times for a pause of %v", changes, c.pause)
			}
		})
	}
}

func TestRestartOnTheSamePortsIsSeenWithinASecond(t *testing.T) {
	t.Parallel()
	a := newReal(t, valueOf)
	b := newReal(t, valueOf, a.GossipAddr())
	old := startChild(t, a.GossipAddr())
	eventually(t, "three nodes", see(3, a, b))
	key := ""
	for i := 0; key == "" || a.pid.Owner(key) != old.url; i++ {
		key = fmt.Sprint("k", i)
	}
	answeredBy := func(pid int) func() bool {
		return func() bool {
			for _, n := range []*realNode{a, b} {
				if v, err := n.pid.Get(t.Context(), key); err != nil || v != fmt.Sprint(pid) {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "the child answers", answeredBy(old.Pid))
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = old.wait() // that it was killed
	again := startChildAt(t, strings.TrimPrefix(old.url, "http://"), old.gossip, a.GossipAddr())
	took := eventually(t, "the new process answers", answeredBy(again.Pid))
	t.Logf("answered by the new process %v after its Join", took)
	if took > time.Second {
		t.Errorf("answered by the new process after %v, want it within a second", took)
	}
}

// load runs Gets on nodes until stop is called, which returns how many there were. All
// must succeed.
func load(t *testing.T, nodes ...*realNode) (stop func() int64) {
	ctx, cancel := context.WithCancel(t.Context())
	var gets atomic.Int64
	var wg sync.WaitGroup
	for g, n := range nodes {
		wg.Go(func() {
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				<-pace.C
				key := fmt.Sprint("key-", g, "-", i%5000)
				if v, err := n.cache.Get(ctx, key); err != nil && !errors.Is(err, context.Canceled) || err == nil && v != "value of "+key {
					t.Errorf("Get = %q, %v", v, err)
				}
				gets.Add(1)
			}
		})
	}
	return func() int64 {
		cancel()
		wg.Wait()
		return gets.Load()
	}
}

func TestGrowingAndShrinkingUnderLoadFailsNoGet(t *testing.T) {
	t.Parallel()
	nodes := []*realNode{newReal(t, valueOf)}
	for range 2 {
		nodes = append(nodes, newReal(t, valueOf, nodes[0].GossipAddr()))
	}
	eventually(t, "three nodes", see(3, nodes...))
	stop := load(t, nodes...)
	var children []*child
	for range 3 {
		children = append(children, startChild(t, nodes[0].GossipAddr(), nodes[1].GossipAddr()))
	}
	t.Logf("six nodes %v after the last Join", eventually(t, "six nodes", see(6, nodes...)))
	asked := func() (keys int64) {
		for _, n := range nodes {
			keys += n.cache.Stats().PeerGets
		}
		return keys
	}
	before := asked()
	eventually(t, "six nodes work together", func() bool { return asked() > before+300 })
	for _, c := range children {
		if err := c.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	took := eventually(t, "three nodes again", see(3, nodes...))
	t.Logf("three nodes again %v after the signal", took)
	for _, c := range children {
		if err := c.wait(); err != nil {
			t.Errorf("the child that was told to leave: %v", err)
		}
	}
	t.Logf("%d Gets", stop())
	for _, n := range nodes {
		// Where nobody gets the processor a goodbye is not heard, and who said it is found dead.
		if s := n.Stats(); s.Lost != 0 && took < 2*time.Second {
			t.Errorf("%d members are taken for lost that have left", s.Lost)
		}
	}
}

func TestHalfOfThePeersVanishingIsLogged(t *testing.T) {
	t.Parallel()
	var log warnings
	a := newUnjoined(t, anywhere, peercache.NodeOptions{Logger: slog.New(&log)}, valueOf)
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	others := []*realNode{newReal(t, valueOf, a.GossipAddr()), newReal(t, valueOf, a.GossipAddr())}
	eventually(t, "three nodes", see(3, append(others, a)...))
	for _, n := range others {
		n.vanish()
	}
	eventually(t, "both are found dead", see(1, a))
	eventually(t, "that is logged", func() bool { return log.with("vanished at once", "n=2", "of=2") == 1 })
}

// The same measured where time is simulated: TestDeathIsNoticedInAboutThreeSeconds.
func TestDeathsOfProcessesAreNoticed(t *testing.T) {
	if !*long {
		t.Skip("takes half a minute: needs -long")
	}
	nodes := []*realNode{newReal(t, valueOf)}
	for range 2 {
		nodes = append(nodes, newReal(t, valueOf, nodes[0].GossipAddr()))
	}
	var took []time.Duration
	for range 8 {
		child := startChild(t, nodes[0].GossipAddr())
		eventually(t, "four nodes", see(4, nodes...))
		if err := child.Kill(); err != nil {
			t.Fatal(err)
		}
		took = append(took, eventually(t, "the death is noticed by all", see(3, nodes...)))
		_ = child.wait()
	}
	slices.Sort(took)
	t.Logf("%d kills of one of 4 processes: noticed by all after min %v, median %v, max %v", len(took), took[0], took[len(took)/2], took[len(took)-1])
	if most := took[len(took)-1]; most > 10*time.Second {
		t.Errorf("a death was noticed after %v, want about 3s", most)
	}
}

func TestAnotherClusterOnAReusedAddressIsLeftAlone(t *testing.T) {
	t.Parallel()
	var log warnings
	a := newReal(t, valueOf)
	b := newReal(t, valueOf, a.GossipAddr())
	eventually(t, "two nodes", see(2, a, b))
	serve, gossip := strings.TrimPrefix(b.Self().URL, "http://"), b.GossipAddr()
	b.vanish()
	other := newUnjoined(t, serve, peercache.NodeOptions{Gossip: gossip, Cluster: "other", Logger: slog.New(&log)}, valueOf)
	if err := other.Join(t.Context(), a.GossipAddr()); err != nil {
		t.Errorf("Join through a node of another cluster: %v, want nil: it may be replaced by one of this", err)
	}
	if n := log.with("no seed answers", a.GossipAddr()); n != 1 {
		t.Errorf("%d warnings that the seed does not answer, want 1: %q", n, log.lines)
	}
	if !isReady(other.Node) {
		t.Error("the other cluster's first node is not ready, want it alone in its ring")
	}
	eventually(t, "the death is noticed", see(1, a))
	before := other.cache.Stats().Served + other.pid.Stats().Served
	if lost := a.Stats().Lost; lost != 1 {
		t.Errorf("%d members are lost, want 1", lost)
	}
	for i := range 200 {
		wantValue(t, a.cache, fmt.Sprint("key-", i))
	}
	eventually(t, "the lost member's address was tried again", func() bool { return log.with("label") > 0 })
	if !see(1, a, other)() {
		t.Errorf("peers are %v and %v, want the two clusters apart", a.Peers(), other.Peers())
	}
	if n := other.cache.Stats().Served + other.pid.Stats().Served - before; n != 0 {
		t.Errorf("the other cluster was asked for %d keys, want none", n)
	}
	if s := a.cache.Stats(); s.PeerGets != 0 {
		t.Errorf("%d keys were asked of peers, want none: there are none", s.PeerGets)
	}
}
