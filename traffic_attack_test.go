package peercache_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/wire"
)

// F16: bad requests and slow connections, by the thousand, during load. What is attacked
// is a process of its own, a node or, to compare with, a server that has none.

const (
	childMode  = "PEERCACHE_TEST_MODE"  // of what is attacked: "bare", "open" or "secret"
	childAsker = "PEERCACHE_TEST_ASKER" // the URL of the node that asks it
)

func init() { children["attacked"] = runAttacked }

// victimOf is a loader of what only peers may see.
func victimOf(_ context.Context, key string) (string, time.Duration, error) {
	return "value " + victim + " " + key, time.Hour, nil
}

// runAttacked is what the process does that is attacked: it serves, says where, and then
// how many goroutines it has each time it is asked.
func runAttacked() {
	if err := serveAttacked(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serveAttacked(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", anywhere)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	url := "http://" + l.Addr().String()
	if mode := os.Getenv(childMode); mode != "bare" {
		opts := &peercache.NodeOptions{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
		if mode == "secret" {
			opts.Secret = secretA
		}
		node, err := peercache.NewNode(url, opts)
		if err != nil {
			return err
		}
		peercache.New("c", victimOf, &peercache.Options{Node: node, HotTTL: -1})
		if err := node.SetPeers(node.Self(), peercache.Peer{URL: os.Getenv(childAsker)}); err != nil {
			return err
		}
		mux.Handle(node.Handler())
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	fmt.Println(url)
	for questions := bufio.NewScanner(os.Stdin); questions.Scan(); {
		fmt.Println(runtime.NumGoroutine())
	}
	return nil // the parent has gone
}

// An attacked is that process.
type attacked struct {
	pid    int
	url    string
	ask    func() int // for its goroutines
	stderr *tap
}

func startAttacked(t *testing.T, mode, asker string) *attacked {
	t.Helper()
	cmd := newChild(t, "attacked", childMode+"="+mode, childAsker+"="+asker)
	p := &attacked{stderr: new(tap)}
	cmd.Stderr = p.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	next := func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the attacked process has ended, and said %q", p.stderr.all.String())
		}
		return lines.Text()
	}
	p.pid, p.url = cmd.Process.Pid, next()
	p.ask = func() int {
		t.Helper()
		fmt.Fprintln(in)
		n, err := strconv.Atoi(next())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return p
}

func (p *attacked) descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// memory is what the system has given the process, in bytes.
func (p *attacked) memory(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// A loaded node gets keys, half of them from a peer, and notes how long that takes.
type loaded struct {
	mu   sync.Mutex
	took []time.Duration
	stop func()
}

// loadOf has a node get a key each two milliseconds until it is stopped.
func loadOf(t *testing.T, n *realNode) *loaded {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := new(loaded)
	var wg sync.WaitGroup
	wg.Go(func() {
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			<-pace.C
			wg.Go(func() {
				key := fmt.Sprint("key-", i%2000)
				start := time.Now()
				v, err := n.cache.Get(t.Context(), key)
				took := time.Since(start)
				if err != nil || v != "value "+victim+" "+key {
					t.Errorf("Get(%s) = %q, %v", key, v, err)
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				l.took = append(l.took, took)
			})
		}
	})
	l.stop = func() {
		cancel()
		wg.Wait()
	}
	return l
}

// p99 is that of all Gets since it was last called, and their number.
func (l *loaded) p99() (time.Duration, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := l.took
	l.took = nil
	slices.Sort(took)
	if len(took) == 0 {
		return 0, 0
	}
	return took[len(took)*99/100], len(took)
}

// An attack is how many of each kind there are.
type attack struct {
	requests, slow int
	lasts          time.Duration // at least, once all is open
}

// on attacks a process and returns by how many bytes that grew at most.
func (k attack) on(t *testing.T, p *attacked, a *attacker, load *loaded) (grown int64) {
	t.Helper()
	p99 := func(when string) {
		if load != nil {
			d, n := load.p99()
			t.Logf("p99 of %d Gets %s the attack: %v", n, when, d)
		}
	}
	<-time.After(500 * time.Millisecond)
	p99("before")
	memory, goroutines, descriptors := p.memory(t), p.ask(), p.descriptors(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all, flood sync.WaitGroup
	flood.Go(func() {
		wait := a.dribble(ctx, k.slow)
		all.Go(wait)
		a.flood(t, k.requests)
		<-time.After(k.lasts)
	})
	ended := make(chan struct{})
	all.Go(func() {
		flood.Wait()
		close(ended)
	})
	start := time.Now()
	most := 0
	for open := true; open; {
		select {
		case <-ended:
			open = false
		case <-time.After(20 * time.Millisecond):
			grown = max(grown, p.memory(t)-memory)
			most = max(most, p.descriptors(t))
		}
	}
	p99("during")
	t.Logf("%d requests and %d slow connections, %d descriptors, in %v: %d KiB more, %d bytes heard",
		k.requests, k.slow, most, time.Since(start).Round(time.Millisecond), grown>>10, a.heard.Load())
	if most < k.slow*3/4 {
		t.Errorf("%d descriptors at most with %d slow connections: the test shows nothing", most, k.slow)
	}
	cancel()
	all.Wait()
	over := time.Now()
	for p.ask() > goroutines || p.descriptors(t) > descriptors {
		if time.Since(over) > 5*time.Second {
			t.Errorf("%d goroutines and %d descriptors 5s after the attack, want %d and %d as before", p.ask(), p.descriptors(t), goroutines, descriptors)
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Logf("goroutines and descriptors are those of before after %v", time.Since(over).Round(time.Millisecond))
	if load != nil {
		load.p99()
	}
	<-time.After(500 * time.Millisecond)
	p99("after")
	return grown
}

func TestAttackersHearNothingAndCostLittle(t *testing.T) {
	if _, err := os.Stat("/proc/self/statm"); err != nil {
		t.Skip("this system does not tell how much memory a process has")
	}
	k := attack{requests: 1000, slow: 200, lasts: 200 * time.Millisecond}
	if *long {
		k = attack{requests: 10_000, slow: 2000, lasts: 10 * time.Second}
	} else {
		t.Parallel() // it mostly waits
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	bare := startAttacked(t, "bare", "")
	allowed := k.on(t, bare, newAttacker(t, bare.url, "", seed), nil) + 16<<20
	for mode, secret := range map[string][]byte{"open": nil, "secret": secretA} {
		t.Run(mode, func(t *testing.T) {
			var overheard tap
			asker := newUnjoined(t, anywhere, peercache.NodeOptions{Secret: secret, Network: overheard.network()}, victimOf)
			p := startAttacked(t, mode, asker.Self().URL)
			if err := asker.SetPeers(asker.Self(), peercache.Peer{URL: p.url}); err != nil {
				t.Fatal(err)
			}
			load := loadOf(t, asker)
			defer load.stop()
			eventually(t, "a stream is made", func() bool { return asker.Stats().Streams == 1 })
			<-time.After(1500 * time.Millisecond) // the node that is attacked makes its own, to ask what it missed
			ids := overheard.secrets()
			if (ids == "") != (secret == nil) {
				t.Fatalf("the ids of the secrets are overheard as %q", ids)
			}
			a := newAttacker(t, p.url, ids, seed)
			if secret == nil {
				hearAsPeer(t, a)
			} else {
				a.impersonate(t)
			}
			if grown := k.on(t, p, a, load); grown > allowed && !peercache.Race {
				t.Errorf("the node grew by %d KiB, want at most %d, of which a server without one takes all but 16 MiB", grown>>10, allowed>>10)
			}
			if n := a.told.Load(); n != 0 {
				t.Errorf("attackers heard keys or values %d times", n)
			}
			if p.stderr.heard("panic") {
				t.Errorf("the node panicked: %s", p.stderr.all.String())
			}
			if s := asker.cache.Stats(); s.PeerGets == 0 {
				t.Errorf("no key was asked of the node that was attacked: the test shows nothing: %+v", s)
			}
		})
	}
}

// secrets returns the ids of the secrets that a node offers, "" if it has none.
func (c *tap) secrets() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := regexp.MustCompile("Peercache-Secrets: ([0-9a-f,]+)").FindSubmatch(c.all.Bytes())
	if m == nil {
		return ""
	}
	return string(m[1])
}

// hearAsPeer has an attacker ask as a peer does, which an open node must answer: so that
// it would be noticed were others answered.
func hearAsPeer(t *testing.T, a *attacker) {
	t.Helper()
	ask := func(hello *wire.Hello) *wire.Response {
		conn, err := a.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r := upgradeRaw(t, conn, a.host)
		r.send(t, &wire.Request{Hello: hello})
		m := r.next(t)
		if m.GetStatus() == wire.Status_OK {
			req := get("key-" + victim)
			req.Id = 1
			r.send(t, req)
			a.note(r.next(t).GetAnswers()[0].GetValue())
		}
		return m
	}
	ask(ask(nil).GetHello()) // which even who is refused is told
	if a.told.Swap(0) != 1 {
		t.Fatal("a peer hears nothing: the test shows nothing")
	}
}
