package etcd_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peercache/peercache"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/peercache/peercache/discovery/etcd"
)

// shared is the etcd of all tests that neither stop it nor count on its revisions.
var shared *server

// A server is an etcd in this process.
type server struct {
	dir      string
	endpoint string
	etcd     *embed.Etcd

	// front is what clients talk to, so that they find the server again at the same
	// address. And an etcd that stops waits for five seconds for its clients to go:
	// it is cut off from them first.
	front *proxy
}

// newServer starts an etcd for one test.
func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{dir: t.TempDir(), front: newProxy(t, "")}
	t.Cleanup(s.stop)
	s.start(t)
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	s.front.mend(s.endpoint)
	s.endpoint = s.front.endpoint
}

func (s *server) stop() {
	s.front.cut()
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// run starts the server, on a port that is free.
func (s *server) run() error {
	var err error
	c := embed.NewConfig()
	c.Dir = s.dir
	c.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}} // of a cluster of one: nobody calls
	c.TickMs, c.ElectionMs = 10, 100                                    // so that leases may be as short as a second
	c.UnsafeNoFsync = true
	c.LogOutputs = []string{"/dev/null"}
	c.LogLevel = "fatal"
	if s.etcd, err = embed.StartEtcd(c); err != nil {
		return err
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		return err
	}
	s.endpoint = "http://" + s.etcd.Clients[0].Addr().String()
	return nil
}

// client returns a client that is closed at the end of the test.
func (s *server) client(t *testing.T) *clientv3.Client {
	t.Helper()
	return newClient(t, s.endpoint)
}

func newClient(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// prefixOf returns where a test keeps its entries.
func prefixOf(t *testing.T) string { return "/" + t.Name() + "/" }

func options(t *testing.T) *etcd.Options {
	return &etcd.Options{Prefix: prefixOf(t), TTL: time.Second, Logger: slog.New(slog.DiscardHandler)}
}

var ports atomic.Int32 // of nodes, none of which listens

func newNode(t *testing.T, opts *peercache.NodeOptions) *peercache.Node {
	t.Helper()
	node, err := peercache.NewNode(fmt.Sprint("http://127.0.0.1:", 10_000+ports.Add(1)), opts)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func newNodeAt(t *testing.T, url string) *peercache.Node {
	t.Helper()
	node, err := peercache.NewNode(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// A following is a Follow under way.
type following struct {
	node *peercache.Node
	end  context.CancelFunc
	err  chan error
}

// follow follows etcd for a node until the end of the test, and all the while holds
// its peers against what must always be so.
func follow(t *testing.T, node *peercache.Node, client *clientv3.Client, opts *etcd.Options) *following {
	t.Helper()
	return followWith(t, node, func(ctx context.Context) error { return etcd.Follow(ctx, node, client, opts) })
}

func followWith(t *testing.T, node *peercache.Node, run func(context.Context) error) *following {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	f := &following{node: node, end: end, err: make(chan error, 1)}
	var wg sync.WaitGroup
	wg.Go(func() { f.err <- run(ctx) })
	wg.Go(func() {
		for ctx.Err() == nil {
			if peers := node.Peers(); len(peers) > 0 && !slices.Contains(peers, node.Self()) { // none, once it has left
				t.Errorf("Peers() = %v without the node itself, %v", peers, node.Self())
				return
			}
			pause(time.Millisecond)
		}
	})
	t.Cleanup(func() {
		end()
		wg.Wait()
	})
	return f
}

// stop ends the context and waits.
func (f *following) stop(t *testing.T) {
	t.Helper()
	f.end()
	if err := f.wait(t); err != nil {
		t.Errorf("Follow() = %v at the end of its context, want nil", err)
	}
}

func (f *following) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-f.err:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("Follow has not returned for 20 s")
		return nil
	}
}

func pause(d time.Duration) { <-time.After(d) }

// eventually waits until a claim is true.
func eventually(t *testing.T, claim string, holds func() bool) {
	t.Helper()
	within(t, 20*time.Second, claim, holds)
}

func within(t *testing.T, limit time.Duration, claim string, holds func() bool) {
	t.Helper()
	late := time.After(limit)
	for !holds() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-late:
			t.Fatalf("not true after %v: %s", limit, claim)
		}
	}
}

// always fails the test when a claim is not true for a while.
func always(t *testing.T, d time.Duration, claim string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); pause(2 * time.Millisecond) {
		if !holds() {
			t.Fatalf("not true any more: %s", claim)
		}
	}
}

// knows reports whether these, and no others, are the peers of a node.
func knows(node *peercache.Node, peers ...*peercache.Node) bool {
	var want []peercache.Peer
	for _, p := range append(peers, node) {
		want = append(want, p.Self())
	}
	slices.SortFunc(want, func(a, b peercache.Peer) int { return strings.Compare(a.URL, b.URL) })
	return slices.Equal(node.Peers(), want)
}

// know waits until all of these know each other, and nobody else.
func know(t *testing.T, nodes ...*peercache.Node) {
	t.Helper()
	for i, node := range nodes {
		others := slices.Delete(slices.Clone(nodes), i, i+1)
		eventually(t, fmt.Sprintf("%s knows %d others", node.Self().URL, len(others)), func() bool { return knows(node, others...) })
	}
}

// keyOf is where a node's entry is, by the documented format.
func keyOf(prefix string, node *peercache.Node) string {
	return prefix + url.PathEscape(node.Self().URL)
}

// put writes an entry without a lease, until the end of the test.
func put(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := client.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Delete(context.WithoutCancel(t.Context()), key) }) // for -count=2
}

// leaseOf returns the lease of a node's entry, 0 if there is no entry.
func leaseOf(t *testing.T, client *clientv3.Client, prefix string, node *peercache.Node) clientv3.LeaseID {
	t.Helper()
	got, err := client.Get(t.Context(), keyOf(prefix, node))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) == 0 {
		return 0
	}
	return clientv3.LeaseID(got.Kvs[0].Lease)
}

// A logbook keeps what is logged.
type logbook struct {
	mu   sync.Mutex // guards the fields below
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// count returns how often a text was logged.
func (l *logbook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
