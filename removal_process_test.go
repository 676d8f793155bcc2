package peercache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// Invalidation among processes that are stopped, killed and started while keys change. What
// they may serve is known to the register (removal_register_test.go), which is their origin
// too.

// changing is the name of the cache in all processes. Its copies live for long, or they
// would hide what was not removed.
const changing = "changing"

func changingOptions(n *realNode) *peercache.Options {
	return &peercache.Options{Node: n.Node, HotTTL: 10 * time.Minute}
}

func init() { children["changing"] = runChanging }

// runChanging is what a process does that is a node with a cache, and does to it what it is
// told over HTTP; childPlace is its origin.
func runChanging() {
	ctx := context.Background()
	load := func(ctx context.Context, key string) (string, time.Duration, error) {
		_, v, err := ask(ctx, http.DefaultClient, os.Getenv(childPlace), "", key, "")
		return v, time.Hour, err
	}
	n, err := startReal(ctx, anywhere, peercache.NodeOptions{}, valueOf)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cache := peercache.New(changing, load, changingOptions(n))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", anywhere)
	if err == nil {
		err = n.Join(ctx, strings.Fields(os.Getenv(childSeeds))...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	control := &http.Server{Handler: obey(n, cache), ReadHeaderTimeout: time.Minute}
	go func() { _ = control.Serve(l) }()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println(n.Self().URL, n.GossipAddr(), "http://"+l.Addr().String())
	go func() {
		<-term
		_ = n.Leave(context.Background())
		os.Exit(0)
	}()
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // the parent's end of the pipe closes with it
}

// obey does to a cache what requests say.
func obey(n *realNode, cache *peercache.Cache[string]) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, value, found := r.FormValue("key"), "", true
		var err error
		switch r.URL.Path {
		case "/get":
			value, err = cache.Get(r.Context(), key)
		case "/peek":
			value, found = cache.Peek(key)
		case "/remove":
			err = cache.Remove(r.Context(), key)
		case "/set":
			err = cache.Set(r.Context(), key, r.FormValue("value"), time.Hour)
		case "/peers":
			value = fmt.Sprint(len(n.Peers()))
		case "/stats":
			value = fmt.Sprintf("%+v", n.Stats())
		}
		switch {
		case errors.Is(err, peercache.ErrPartial):
			w.WriteHeader(http.StatusMultiStatus)
		case err != nil:
			w.WriteHeader(http.StatusInternalServerError)
			value = err.Error()
		case !found:
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, value)
	})
}

// ask sends such a request. Any answer but success, partial success and "not found" is an
// error.
func ask(ctx context.Context, client *http.Client, to, do, key, value string) (status int, body string, err error) {
	query := url.Values{"key": {key}, "value": {value}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to+"/"+do+"?"+query, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusInternalServerError {
		err = errors.New(string(b))
	}
	return resp.StatusCode, string(b), err
}

// A fleet is a register and the processes that cache its values.
type fleet struct {
	*register

	t      *testing.T
	origin *httptest.Server
	client *http.Client
	unseen atomic.Int64 // Gets that returned what others removed before they had noticed the process
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{register: new(register), t: t, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	f.origin = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, _, _ := f.load(r.Context(), r.FormValue("key"))
		_, _ = io.WriteString(w, v)
	}))
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		f.origin.Close()
	})
	return f
}

// A member is a process of a fleet.
type member struct {
	*child

	fleet   *fleet
	control string
	stopped atomic.Bool // and answers nobody
	ended   atomic.Bool // or is about to

	mu     sync.Mutex // guards the fields below
	known  time.Time  // from when on others have noticed that it is there
	floors map[string]int
}

// appear notes that a process is there, or again. Calls of others that have not noticed do
// not wait for it, for as long as it may take to catch up: what it may serve is bounded by
// the floors of now.
func (m *member) appear(floors map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known, m.floors = time.Now().Add(3*time.Second), floors
}

// start starts a process that has joined.
func (f *fleet) start(seeds ...string) *member {
	f.t.Helper()
	floors := f.floors("")
	cmd := newChild(f.t, "changing", childPlace+"="+f.origin.URL, childSeeds+"="+strings.Join(seeds, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	m := &member{child: &child{Process: cmd.Process, wait: sync.OnceValue(cmd.Wait)}, fleet: f}
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = m.wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) != 3 {
		f.t.Fatalf("the process said %q, %v", line, err)
	}
	m.url, m.gossip, m.control = words[0], words[1], words[2]
	m.appear(floors)
	return m
}

func (m *member) signal(s syscall.Signal) {
	m.fleet.t.Helper()
	if s == syscall.SIGSTOP {
		m.stopped.Store(true)
	}
	if s == syscall.SIGTERM || s == syscall.SIGKILL {
		m.ended.Store(true)
	}
	m.fleet.t.Logf("%s %s: %v", time.Now().Format("05.000"), m.url, s)
	if s == syscall.SIGCONT {
		m.appear(m.fleet.floors(m.url))
	}
	if err := m.Signal(s); err != nil {
		m.fleet.t.Errorf("signal %v: %v", s, err)
	}
	if s == syscall.SIGCONT {
		m.stopped.Store(false)
	}
}

// do has the process do something. It reports false for one that has ended.
func (m *member) do(do, key, value string) (status int, body string, ok bool) {
	status, body, err := ask(m.fleet.t.Context(), m.fleet.client, m.control, do, key, value)
	if err != nil && !m.ended.Load() {
		m.fleet.t.Errorf("%s at %s: %s %s: %v", time.Now().Format("05.000"), m.url, do, key, err)
	}
	return status, body, err == nil
}

// get checks one Get.
func (m *member) get(key string) {
	m.mu.Lock()
	least, known := m.floors[key], time.Now().After(m.known)
	m.mu.Unlock()
	floor := m.fleet.floor(m.url, key)
	_, v, ok := m.do("get", key, "")
	if !ok || m.ended.Load() { // who has left is told of nothing any more
		return
	}
	wrong := m.fleet.judge(key, v, floor)
	if wrong != "" && !known {
		m.fleet.unseen.Add(1)
		wrong = m.fleet.judge(key, v, least)
	}
	if wrong != "" {
		m.fleet.t.Errorf("%s at %s: %s", time.Now().Format("05.000"), m.url, wrong)
	}
}

// change makes one Remove or Set.
func (m *member) change(key string, set bool) (partial bool) {
	c, value := m.fleet.begin(m.url, key, set)
	do := "remove"
	if set {
		do = "set"
	}
	status, _, ok := m.do(do, key, value)
	if ok {
		m.fleet.end(c, status == http.StatusOK)
	}
	return status == http.StatusMultiStatus
}

// fourAndOne are four nodes in this process and one in another that can be stopped.
func fourAndOne(t *testing.T) (*fleet, []*realNode, []*peercache.Cache[string], *member) {
	t.Helper()
	f := newFleet(t)
	var nodes []*realNode
	var caches []*peercache.Cache[string]
	for range 4 {
		var seeds []string
		if len(nodes) > 0 {
			seeds = []string{nodes[0].GossipAddr()}
		}
		n := newUnjoined(t, anywhere, peercache.NodeOptions{}, valueOf)
		caches = append(caches, peercache.New(changing, f.load, changingOptions(n)))
		if err := n.Join(t.Context(), seeds...); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	m := f.start(nodes[0].GossipAddr())
	eventually(t, "five nodes", see(5, nodes...))
	return f, nodes, caches, m
}

// stopFor is how long a process is stopped: as the promises say, or for as long as shows
// the same.
func stopFor(short time.Duration) time.Duration {
	if *long {
		return 10 * time.Second
	}
	return short
}

// bound checks a measured time, loosely where it was measured beside other tests.
func bound(t *testing.T, what string, got, promised, short time.Duration) {
	t.Helper()
	t.Logf("%s: %v", what, got)
	want := short
	if *long {
		want = promised
	}
	if got > want {
		t.Errorf("%s: %v, want at most %v", what, got, want)
	}
}

// F3: what a stopped process holds is removed, and it does not serve that when it goes on.
func TestWokenProcessServesNothingThatWasRemoved(t *testing.T) {
	if !*long {
		t.Parallel() // it mostly waits
	}
	f, nodes, caches, m := fourAndOne(t)
	var keys []string
	for i := range 300 {
		keys = append(keys, fmt.Sprint("key-", i))
	}
	kept := "" // which nobody removes
	for i := 0; kept == "" || caches[0].Owner(kept) != m.url; i++ {
		kept = fmt.Sprint("kept-", i)
	}
	for _, key := range append(keys, kept) {
		m.get(key)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var removes, partial atomic.Int64
	pace := 4 * time.Millisecond
	if *long {
		pace = time.Millisecond
	}
	wg.Go(func() {
		ticks := time.NewTicker(pace)
		defer ticks.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			<-ticks.C
			key, at := keys[rand.N(len(keys))], i%len(caches)
			wg.Go(func() {
				c, _ := f.begin(nodes[at].Self().URL, key, false)
				err := caches[at].Remove(context.WithoutCancel(ctx), key)
				if err != nil {
					partial.Add(1)
				}
				if err != nil && !errors.Is(err, peercache.ErrPartial) {
					t.Errorf("Remove: %v", err)
				}
				f.end(c, err == nil)
				removes.Add(1)
			})
		}
	})
	askMember := func() (stop func() int64) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var n atomic.Int64
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					m.get(keys[rand.N(len(keys))])
					n.Add(1)
				}
			})
		}
		return func() int64 {
			cancel()
			wg.Wait()
			return n.Load()
		}
	}
	before := askMember()
	<-time.After(500 * time.Millisecond)
	before()
	m.signal(syscall.SIGSTOP)
	<-time.After(stopFor(4 * time.Second))
	floors := make(map[string]int)
	for _, key := range keys {
		floors[key] = f.floor(m.url, key)
	}
	woken := time.Now()
	m.signal(syscall.SIGCONT)
	after := askMember()
	eventually(t, "it serves from memory", func() bool {
		status, _, _ := m.do("peek", kept, "")
		return status == http.StatusOK
	})
	took := time.Since(woken)
	held := 0
	for _, key := range keys {
		if status, v, _ := m.do("peek", key, ""); status == http.StatusOK {
			held++
			if wrong := f.judge(key, v, floors[key]); wrong != "" {
				t.Errorf("it holds %s", wrong)
			}
		}
	}
	<-time.After(time.Second)
	asked := after()
	cancel()
	wg.Wait()
	eventually(t, "all is delivered", func() bool {
		return !slices.ContainsFunc(nodes, func(n *realNode) bool { return n.Stats().Pending > 0 })
	})
	_, stats, _ := m.do("stats", "", "")
	t.Logf("%d Removes, %d partial, %d Gets of the woken one, which held %d of %d keys; %d Gets returned what was removed before it was noticed: %s",
		removes.Load(), partial.Load(), asked, held, len(keys), f.unseen.Load(), stats)
	if n := f.unseen.Load(); n > 0 {
		t.Errorf("%d Gets of the woken one returned what was removed before gossip had it back, want none", n)
	}
	if partial.Load() == 0 || !strings.Contains(stats, "Fences:1") {
		t.Errorf("%d Removes were partial, Stats = %s: want some and one fence, or the test shows nothing", partial.Load(), stats)
	}
	bound(t, "it has caught up after", took, time.Second, 5*time.Second)
}

// F14: a peer that hangs is named, and holds up nobody but the calls that wait for it.
func TestHangingPeerIsNamedAndDelaysNobody(t *testing.T) {
	if !*long {
		t.Parallel() // it mostly waits
	}
	_, nodes, caches, m := fourAndOne(t)
	var keys []string
	for i := range stopFor(2200*time.Millisecond) / (5 * time.Millisecond) {
		key := fmt.Sprint("key-", int(i))
		keys = append(keys, key)
		m.get(key)
		for _, cache := range caches {
			if _, err := cache.Get(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.signal(syscall.SIGSTOP)
	stopped := time.Now()

	var wg sync.WaitGroup
	var mu sync.Mutex
	var reached, returned []time.Duration
	remove := func(at int, key string) {
		start := time.Now()
		mustWait := start.Sub(stopped) < 500*time.Millisecond // it cannot be declared dead within the next two seconds
		wg.Go(func() {
			err := caches[at].Remove(t.Context(), key)
			took := time.Since(start)
			partial, ok := errors.AsType[*peercache.PartialError](err)
			if ok && !slices.Equal(slices.Collect(maps.Keys(partial.Peers)), []string{m.url}) || !ok && (mustWait || err != nil) {
				t.Errorf("Remove: %v, want a *PartialError that names %s alone", err, m.url)
			}
			mu.Lock()
			defer mu.Unlock()
			returned = append(returned, took)
		})
		poll := time.NewTicker(200 * time.Microsecond)
		defer poll.Stop()
		for i, cache := range caches {
			for _, there := cache.Peek(key); there && i != at; _, there = cache.Peek(key) {
				<-poll.C
				if time.Since(start) > 10*time.Second {
					t.Errorf("node %d still holds %s", i, key)
					return
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		reached = append(reached, time.Since(start))
	}
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for i, key := range keys {
		<-pace.C
		remove(i%len(caches), key)
	}
	wg.Wait()
	pending := int64(0)
	for _, n := range nodes {
		pending += n.Stats().Pending
	}
	if pending == 0 {
		t.Error("nothing is pending: the test shows nothing")
	}
	m.signal(syscall.SIGCONT)
	delivered := eventually(t, "all is delivered", func() bool {
		return !slices.ContainsFunc(nodes, func(n *realNode) bool { return n.Stats().Pending > 0 })
	})
	for _, key := range keys {
		if status, v, _ := m.do("peek", key, ""); status == http.StatusOK && v != "" {
			t.Errorf("%s = %q is there, want it removed", key, v)
		}
	}
	slices.Sort(reached)
	slices.Sort(returned)
	t.Logf("%d Removes, %d pending; reached all others after p50 %v", len(reached), pending, reached[len(reached)/2])
	bound(t, "reached all others after p99", reached[len(reached)*99/100], 20*time.Millisecond, time.Second)
	bound(t, "returned after at most", returned[len(returned)-1], 2100*time.Millisecond, 3*time.Second)
	bound(t, fmt.Sprint("delivered to the one that was stopped for ", stopFor(2200*time.Millisecond)), delivered, time.Second, 5*time.Second)
}
