package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
	"github.com/peercache/peercache/internal/wire"
)

// From Join to a place in the ring.

// warnings is a slog.Handler that keeps what is at least a warning.
type warnings struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (w *warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler               { return w }
func (w *warnings) WithGroup(string) slog.Handler                    { return w }

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, line)
	return nil
}

// with counts the lines that have all of these words.
func (w *warnings) with(words ...string) (count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.lines {
		has := true
		for _, word := range words {
			has = has && strings.Contains(line, word)
		}
		if has {
			count++
		}
	}
	return count
}

func isReady(n *peercache.Node) bool {
	select {
	case <-n.Ready():
		return true
	default:
		return false
	}
}

func TestNodeThatPeersDoNotReachStaysOutUntilTheyDo(t *testing.T) {
	for name, c := range map[string]struct {
		before http.Handler // nil: nothing listens
		says   string
	}{
		"nothing listens": {nil, "refused"},
		"no handler":      {http.NotFoundHandler(), "404"},
		"another service": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }), "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newReal(t, valueOf)
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", anywhere)
			if err != nil {
				t.Fatal(err)
			}
			addr := l.Addr().String()
			first := &http.Server{Handler: c.before, ReadHeaderTimeout: time.Second}
			if c.before == nil {
				l.Close()
			} else {
				go func() { _ = first.Serve(l) }()
			}
			var log warnings
			b, err := peercache.NewNode("http://"+addr, &peercache.NodeOptions{Gossip: anywhere, Logger: slog.New(&log)})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				_ = b.Leave(ended)
			}()
			if err := b.Join(t.Context(), a.GossipAddr()); err != nil {
				t.Errorf("Join: %v, want nil: it may be cured", err)
			}
			if n := log.with("out of the ring", "Node.Handler", addr, c.says); n != 1 {
				t.Errorf("%d warnings that say why and what to do, want 1: %q", n, log.lines)
			}
			if isReady(b) || len(a.Peers()) != 1 {
				t.Errorf("the node is ready: %t, and the other has %d peers, want it to stay out", isReady(b), len(a.Peers()))
			}

			first.Close()
			l, err = new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			mux := http.NewServeMux()
			mux.Handle(b.Handler())
			server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
			go func() { _ = server.Serve(l) }()
			defer server.Close()
			t.Logf("in the ring %v after the cure", eventually(t, "it enters the ring", func() bool { return isReady(b) && len(a.Peers()) == 2 }))
		})
	}
}

func TestNodeThatNobodyCanCheckEntersAfterASecond(t *testing.T) {
	t.Parallel() // it mostly waits
	a := newReal(t, valueOf)
	a.server.Close()
	b := newUnjoined(t, anywhere, peercache.NodeOptions{}, valueOf)
	start := time.Now()
	if err := b.Join(t.Context(), a.GossipAddr()); err != nil {
		t.Fatal(err)
	}
	<-b.Ready()
	took := time.Since(start)
	t.Logf("ready after %v", took)
	if took < time.Second {
		t.Errorf("ready after %v, want a second for the answer", took)
	}
}

func TestJoiningTakesNoMoreThanGossip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 1)
		for range 10 {
			start := time.Now()
			i := c.Add()
			if took := time.Since(start); !isReady(c.Node(i)) || took > time.Second/2 {
				t.Errorf("node %d joined in %v and is ready: %t, want it within half a second", i, took, isReady(c.Node(i)))
			}
		}
		c.Converge()
	})
}

func TestStalledMemberKeepsNoJoinerWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		c.Pause(1) // it is still taken for active
		start := time.Now()
		i := c.Add()
		if took := time.Since(start); !isReady(c.Node(i)) || took > 3*time.Second {
			t.Errorf("joined in %v and is ready: %t, want it within 3s though one of two active members hangs", took, isReady(c.Node(i)))
		}
	})
}

// A process that is no member could otherwise have a node dial any address.
func TestOnlyMembersAreDialledBack(t *testing.T) {
	trap, err := new(net.ListenConfig).Listen(t.Context(), "tcp", anywhere)
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	dialled := make(chan struct{})
	go func() {
		if conn, err := trap.Accept(); err == nil {
			conn.Close()
			close(dialled)
		}
	}()
	a := newReal(t, valueOf)
	s := &served{node: a.Node, url: a.Self().URL + "/_peercache/v1"}
	hello := s.hello(t)
	hello.Url, hello.State, hello.Boot = "http://"+trap.Addr().String(), wire.State_JOINING, 1
	_, answers := s.post(t, frame(t, &wire.Request{Hello: hello, Op: &wire.Request_Meet{Meet: &wire.Meet{}}}), nil)
	if len(answers) != 1 || answers[0].GetStatus() != wire.Status_BUSY {
		t.Errorf("a stranger's Meet is answered %v, want BUSY", answers)
	}
	select {
	case <-dialled:
		t.Error("a stranger's URL was dialled")
	default:
	}
	hello.State = wire.State_ACTIVE
	_, answers = s.post(t, frame(t, &wire.Request{Hello: hello, Op: &wire.Request_Meet{Meet: &wire.Meet{}}}), nil)
	if len(answers) != 1 || answers[0].GetStatus() != wire.Status_OK || answers[0].GetHello().GetUrl() != a.Self().URL {
		t.Errorf("a Meet of one that does not join is answered %v, want OK and a hello", answers)
	}
}

func TestProcessWithTheURLOfAnotherStaysOut(t *testing.T) {
	a := newReal(t, valueOf)
	b := newReal(t, valueOf, a.GossipAddr())
	eventually(t, "two nodes", see(2, a, b))
	version := a.Stats().RingVersion

	var log warnings
	twin, err := peercache.NewNode(b.Self().URL, &peercache.NodeOptions{Gossip: anywhere, Logger: slog.New(&log)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_ = twin.Leave(ended)
	}()
	if err := twin.Join(t.Context(), a.GossipAddr()); err != nil {
		t.Fatal(err)
	}
	if isReady(twin) || log.with("out of the ring", "another process answers at") != 1 {
		t.Errorf("ready: %t, logged %q, want it out of the ring and told why", isReady(twin), log.lines)
	}
	eventually(t, "the twins are counted", func() bool { return a.Stats().Twins == 1 && b.Stats().Twins == 1 })
	if v := a.Stats().RingVersion; v != version {
		t.Errorf("the ring changed %d times, want never: the one that answers counts", v-version)
	}
	if n := len(a.Peers()); n != 2 {
		t.Errorf("%d peers, want 2", n)
	}
}

func TestLoopbackBesideSeedsElsewhereIsWarnedOf(t *testing.T) {
	unreachable := peercache.Network{
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no way") },
		Listen: func(network, addr string) (net.Listener, error) {
			return new(net.ListenConfig).Listen(t.Context(), network, addr)
		},
		ListenPacket: func(network, addr string) (net.PacketConn, error) {
			return new(net.ListenConfig).ListenPacket(t.Context(), network, addr)
		},
	}
	for seed, want := range map[string]int{"10.0.0.4:7946": 1, "[fd00::1]:7946": 1, "127.0.0.1:1": 0, "localhost:1": 0} {
		var log warnings
		n, err := peercache.NewNode("http://localhost:8080", &peercache.NodeOptions{Gossip: anywhere, Network: &unreachable, Logger: slog.New(&log)})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Join(t.Context(), seed); err != nil {
			t.Errorf("Join(%s): %v", seed, err)
		}
		if got := log.with("loopback", "use an address of this machine"); got != want {
			t.Errorf("Join(%s) of a node on loopback warns of that %d times, want %d", seed, got, want)
		}
		_ = n.Leave(t.Context())
	}
}
