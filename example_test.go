package peercache_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// The code that people copy: an Example for each exported name, and what
// README.md shows, which a test at the end holds against it. Nodes are in
// example_node_test.go; what the examples use is below them.

// One process.
func Example() {
	ctx := context.Background()
	users := peercache.New("users", peercache.TTL(time.Minute, db.User), nil)
	u, err := users.Get(ctx, "gopher")
	fmt.Println(u.Name, err)
	// Output: the gopher <nil>
}

// A process of a cluster. This one is not run, for it takes a machine with the
// address 10.0.0.5; that of Node.Join is the same on this machine.
//
//nolint:errcheck // of ListenAndServe and Leave: shown short, serveUsers below checks both
func Example_cluster() {
	ctx, mux := context.Background(), http.NewServeMux()
	secret := []byte(os.Getenv("PEERCACHE_SECRET")) // of openssl rand -hex 32
	start := func() error {
		node, err := peercache.NewNode("http://10.0.0.5:8080", &peercache.NodeOptions{Secret: secret})
		if err != nil {
			return err
		}
		users := peercache.New("users", peercache.TTL(time.Minute, db.User), &peercache.Options{Node: node})
		mux.Handle(node.Handler())
		go http.ListenAndServe(":8080", mux)
		if err := node.Join(ctx, "10.0.0.4:7946"); err != nil {
			return err
		}
		defer node.Leave(context.WithoutCancel(ctx))

		u, err := users.Get(ctx, "gopher")
		fmt.Println(u.Name)
		return err
	}
	_ = start
}

// A test with three peers: each asks for the same user, which is loaded once.
func TestUserIsLoadedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int32
		load := func(_ context.Context, id string) (string, time.Duration, error) {
			loads.Add(1)
			return "user " + id, time.Minute, nil
		}
		for _, users := range cachetest.Caches(cachetest.NewCluster(t, 3), "users", load, nil) {
			if u, err := users.Get(t.Context(), "42"); err != nil || u != "user 42" {
				t.Errorf("Get(42) = %q, %v", u, err)
			}
		}
		if n := loads.Load(); n != 1 {
			t.Errorf("loaded %d times, want 1", n)
		}
	})
}

func ExampleNew() {
	squares := peercache.New("squares", func(_ context.Context, key string) (int, time.Duration, error) {
		var n int
		_, err := fmt.Sscan(key, &n)
		return n * n, time.Hour, err
	}, &peercache.Options{MaxBytes: 1 << 20})

	fmt.Println(squares.Get(context.Background(), "12"))
	// Output: 144 <nil>
}

func ExampleTTL() {
	greetings := peercache.New("greetings", peercache.TTL(time.Minute, func(_ context.Context, name string) (string, error) {
		fmt.Println("loading", name)
		return "hello, " + name, nil
	}), nil)

	for range 2 {
		fmt.Println(greetings.Get(context.Background(), "gopher"))
	}
	// Output:
	// loading gopher
	// hello, gopher <nil>
	// hello, gopher <nil>
}

// A loader that says for each value how long it lives, and remembers for ten
// seconds that there is none.
func ExampleLoader() {
	var load peercache.Loader[User] = func(ctx context.Context, id string) (User, time.Duration, error) {
		u, err := db.User(ctx, id)
		switch {
		case errors.Is(err, errNoRow):
			return User{}, 10 * time.Second, peercache.ErrNotFound
		case id == "root":
			return u, -1, err // given to who asks, and not kept
		}
		return u, 5 * time.Minute, err
	}
	users := peercache.New("users", load, nil)
	for _, id := range []string{"gopher", "nobody", "root"} {
		u, err := users.Get(context.Background(), id)
		fmt.Printf("%q, not found: %t\n", u.Name, errors.Is(err, peercache.ErrNotFound))
	}
	fmt.Println(users.Stats().Entries, "kept")
	// Output:
	// "the gopher", not found: false
	// "", not found: true
	// "the root", not found: false
	// 2 kept
}

// Callers of one key share one load.
func ExampleCache() {
	release := make(chan struct{})
	users := peercache.New("users", func(ctx context.Context, id string) (User, time.Duration, error) {
		<-release
		u, err := db.User(ctx, id)
		return u, time.Minute, err
	}, nil)

	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() { _, _ = users.Get(context.Background(), "gopher") })
	}
	close(release)
	wg.Wait()
	fmt.Println(users.Stats().Gets, "gets,", users.Stats().Loads, "load")
	// Output: 1000 gets, 1 load
}

func ExampleCache_Get() {
	users := peercache.New("users", func(ctx context.Context, _ string) (User, time.Duration, error) {
		<-ctx.Done() // a slow database; ctx ends with the cache or at LoadTimeout
		return User{}, 0, ctx.Err()
	}, nil)
	defer users.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := users.Get(ctx, "gopher") // leaves; the load goes on
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

func ExampleCache_GetMany() {
	users := peercache.New("users", peercache.TTL(time.Minute, func(ctx context.Context, id string) (User, error) {
		switch id {
		case "nobody":
			return User{}, peercache.ErrNotFound
		case "locked":
			return User{}, errors.New("row is locked")
		}
		return db.User(ctx, id)
	}), nil)

	found, err := users.GetMany(context.Background(), []string{"gopher", "nobody", "locked", "ada"})
	fmt.Println(found)
	fmt.Println(err)
	// Output:
	// map[ada:{the ada} gopher:{the gopher}]
	// peercache: key "locked": row is locked
}

// One query for all that this process owns of many keys.
func ExampleNewBatch() {
	load := func(_ context.Context, ids []string) (map[string]User, time.Duration, error) {
		fmt.Printf("SELECT … WHERE id IN %q\n", ids)
		users := make(map[string]User)
		for _, id := range ids {
			if id != "nobody" { // what is left out is not found
				users[id] = User{Name: "the " + id}
			}
		}
		return users, time.Minute, nil
	}
	users := peercache.NewBatch("users", load, &peercache.Options{NotFoundTTL: time.Minute})
	fmt.Println(users.GetMany(context.Background(), []string{"gopher", "nobody", "ada"}))
	fmt.Println(users.Get(context.Background(), "ada"))
	// Output:
	// SELECT … WHERE id IN ["gopher" "nobody" "ada"]
	// map[ada:{the ada} gopher:{the gopher}] <nil>
	// {the ada} <nil>
}

// A BatchLoader returns what it has beside an error: only the rest has failed.
func ExampleBatchLoader() {
	var load peercache.BatchLoader[string] = func(context.Context, []string) (map[string]string, time.Duration, error) {
		return map[string]string{"a": "1"}, time.Minute, errors.New("page 2 is missing")
	}
	fmt.Println(peercache.NewBatch("pages", load, nil).GetMany(context.Background(), []string{"a", "b"}))
	// Output: map[a:1] peercache: key "b": page 2 is missing
}

func ExampleCache_Peek() {
	users := peercache.New("users", peercache.TTL(time.Minute, db.User), nil)
	_, held := users.Peek("gopher") // loads nothing
	fmt.Println(held)

	_, _ = users.Get(context.Background(), "gopher")
	fmt.Println(users.Peek("gopher"))
	// Output:
	// false
	// {the gopher} true
}

func ExampleCache_Set() {
	users := peercache.New("users", peercache.TTL(time.Minute, db.User), nil)
	if err := users.Set(context.Background(), "gopher", User{Name: "another gopher"}, time.Hour); err != nil {
		fmt.Println(err) // a *PartialError names who may serve the old value
	}
	fmt.Println(users.Get(context.Background(), "gopher"))
	// Output: {another gopher} <nil>
}

// First the database, then the cache: the other way round a Get in between
// would bring the old value back.
func ExampleCache_Remove() {
	ctx, name := context.Background(), "the gopher"
	names := peercache.New("names", func(context.Context, string) (string, time.Duration, error) {
		return name, time.Hour, nil
	}, nil)
	fmt.Println(names.Get(ctx, "gopher"))

	name = "Gordon"
	if err := names.Remove(ctx, "gopher"); err != nil {
		fmt.Println(err) // a *PartialError names who may serve the old value
	}
	fmt.Println(names.Get(ctx, "gopher"))
	// Output:
	// the gopher <nil>
	// Gordon <nil>
}

func ExampleCache_Close() {
	users := peercache.New("users", peercache.TTL(time.Minute, db.User), nil)
	users.Close()
	_, err := users.Get(context.Background(), "gopher")
	fmt.Println(errors.Is(err, peercache.ErrClosed))
	// Output: true
}

func ExampleCache_Name() {
	fmt.Println(peercache.New("users.v2", peercache.TTL(time.Minute, db.User), nil).Name())
	// Output: users.v2
}

func ExampleCache_Owner() {
	a, b, stop := examplePair()
	defer stop()
	load := peercache.TTL(time.Minute, db.User)
	atA := peercache.New("users", load, &peercache.Options{Node: a})
	atB := peercache.New("users", load, &peercache.Options{Node: b})

	fmt.Println(atA.Owner("gopher") == atB.Owner("gopher"))
	// Output: true
}

func ExampleCache_Keys() {
	users := peercache.New("users", peercache.TTL(time.Minute, db.User), nil)
	_, _ = users.GetMany(context.Background(), []string{"gopher", "ada", "grace"})
	fmt.Println(slices.Sorted(users.Keys()))
	// Output: [ada gopher grace]
}

func ExampleCache_Stats() {
	users := peercache.New("users", peercache.TTL(time.Minute, db.User), nil)
	for range 3 {
		_, _ = users.Get(context.Background(), "gopher")
	}
	s := users.Stats()
	fmt.Println(s.Gets, "gets,", s.Hits, "hits,", s.Loads, "load,", s.Entries, "entry")
	// Output: 3 gets, 2 hits, 1 load, 1 entry
}

func ExampleStats() {
	s := peercache.Stats{Gets: 1000, Hits: 950, Loads: 20, LoadNanos: 100e6}
	fmt.Printf("%.0f %% hits, %v for a load\n", 100*float64(s.Hits)/float64(s.Gets), time.Duration(s.LoadNanos/s.Loads))
	// Output: 95 % hits, 5ms for a load
}

func ExampleOptions() {
	users := peercache.New("users", peercache.TTL(time.Hour, db.User), &peercache.Options{
		MaxBytes:    256 << 20,
		MaxTTL:      10 * time.Minute, // less than the hour that the loader asks for
		NotFoundTTL: 5 * time.Second,
		LoadTimeout: 2 * time.Second,
	})
	fmt.Println(users.Get(context.Background(), "gopher"))
	// Output: {the gopher} <nil>
}

// A cache of XML: each value is encoded where it is loaded and decoded once in
// every process that reads it.
func ExampleCodec() {
	a, b, stop := examplePair()
	defer stop()
	var atA *peercache.Cache[User]
	for _, node := range []*peercache.Node{b, a} {
		atA = peercache.New("users", peercache.TTL(time.Minute, db.User), &peercache.Options{
			Node:  node,
			Codec: peercache.Codec{Marshal: xml.Marshal, Unmarshal: xml.Unmarshal},
		})
	}
	fmt.Println(atA.Get(context.Background(), "gopher"))
	// Output: {the gopher} <nil>
}

func ExampleJSON() {
	b, err := peercache.JSON.Marshal(User{Name: "the gopher"})
	fmt.Println(string(b), err)
	// Output: {"Name":"the gopher"} <nil>
}

func ExampleProto() {
	b, err := peercache.Proto.Marshal(wrapperspb.String("gopher"))
	var m wrapperspb.StringValue
	err = errors.Join(err, peercache.Proto.Unmarshal(b, &m))
	fmt.Println(m.GetValue(), err)
	// Output: gopher <nil>
}

// A cache of ByteViews copies no value on the way in or out.
func ExampleByteView() {
	pages := peercache.New("pages", peercache.TTL(time.Hour, func(_ context.Context, path string) (peercache.ByteView, error) {
		return peercache.View("<h1>" + path + "</h1>"), nil
	}), nil)
	first, _ := pages.Get(context.Background(), "/about")
	again, _ := pages.Get(context.Background(), "/about")
	fmt.Println(first, first == again)
	// Output: <h1>/about</h1> true
}

func ExampleView() {
	b := []byte("gopher")
	v := peercache.View(b) // a copy
	b[0] = 'G'
	fmt.Println(v, peercache.View("a string is not copied"))
	// Output: gopher a string is not copied
}

func ExampleByteView_Len() {
	fmt.Println(peercache.View("gopher").Len())
	// Output: 6
}

func ExampleByteView_String() {
	fmt.Println(peercache.View([]byte{'g', 'o'}).String())
	// Output: go
}

func ExampleByteView_AppendTo() {
	fmt.Printf("%s\n", peercache.View("gopher").AppendTo([]byte("the ")))
	// Output: the gopher
}

func ExampleByteView_Reader() {
	var greeting, name string
	_, _ = fmt.Fscan(peercache.View("hello gopher").Reader(), &greeting, &name)
	fmt.Println(name)
	// Output: gopher
}

func ExampleByteView_WriteTo() {
	_, _ = peercache.View("gopher\n").WriteTo(os.Stdout)
	// Output: gopher
}

// A load that failed on another node.
func ExamplePeerError() {
	a, b, stop := examplePair()
	defer stop()
	load := func(context.Context, string) (User, time.Duration, error) {
		return User{}, 0, errors.New("row is locked")
	}
	atA := peercache.New("users", load, &peercache.Options{Node: a})
	peercache.New("users", load, &peercache.Options{Node: b})

	_, err := atA.Get(context.Background(), keyOwnedBy(atA, b.Self().URL))
	if failed, ok := errors.AsType[*peercache.PeerError](err); ok {
		fmt.Println(failed.Peer == b.Self().URL, failed.Err)
	}
	// Output: true row is locked
}

// A Remove that did not reach everybody.
func ExamplePartialError() {
	a, b, stop := examplePair()
	defer stop()
	users := peercache.New("users", peercache.TTL(time.Minute, db.User), &peercache.Options{Node: a})
	dead := peercache.Peer{URL: "http://127.0.0.1:9"} // nobody is there
	_ = a.SetPeers(a.Self(), b.Self(), dead)

	err := users.Remove(context.Background(), "gopher")
	if partial, ok := errors.AsType[*peercache.PartialError](err); ok {
		fmt.Println(errors.Is(err, peercache.ErrPartial), slices.Collect(maps.Keys(partial.Peers)))
	}
	// Output: true [http://127.0.0.1:9]
}

// A loader that panics hurts nobody but those who wait for it.
func ExamplePanicError() {
	users := peercache.New("users", peercache.TTL(time.Minute, func(context.Context, string) (User, error) {
		panic("index out of range")
	}), nil)
	_, err := users.Get(context.Background(), "gopher")
	if panicked, ok := errors.AsType[*peercache.PanicError](err); ok {
		fmt.Println(panicked.Value, bytes.Contains(panicked.Stack, []byte("goroutine")))
	}
	// Output: index out of range true
}

// A User is what most of the examples keep, and db where it comes from.
type User struct{ Name string }

var db database

type database struct{}

var errNoRow = errors.New("no row")

func (database) User(_ context.Context, id string) (User, error) {
	if id == "nobody" {
		return User{}, errNoRow
	}
	return User{Name: "the " + id}, nil
}

// exampleNode returns a node with its server, on free ports of this machine, and
// what ends both.
func exampleNode() (node *peercache.Node, stop func()) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	node, err = peercache.NewNode("http://"+listener.Addr().String(), &peercache.NodeOptions{Gossip: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle(node.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return node, func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = node.Leave(ended) // at once: the others end too
		_ = server.Close()
	}
}

// examplePair returns two nodes that know each other, and what ends them.
func examplePair() (a, b *peercache.Node, stop func()) {
	a, stopA := exampleNode()
	b, stopB := exampleNode()
	for _, node := range []*peercache.Node{a, b} {
		if err := node.SetPeers(a.Self(), b.Self()); err != nil {
			panic(err)
		}
	}
	return a, b, func() { stopA(); stopB() }
}

// keyOwnedBy returns a key that the node at url owns.
func keyOwnedBy[V any](cache *peercache.Cache[V], url string) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint("key-", i); cache.Owner(key) == url {
			return key
		}
	}
}

// await returns when ok does, looking every 10 ms.
func await(ok func() bool) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		<-ticker.C
	}
}

func TestReadmeShowsCodeOfTheExamples(t *testing.T) {
	// Lines without their indentation: README.md shows parts of functions.
	flat := func(text string) string {
		var b strings.Builder
		for line := range strings.Lines(text) {
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
		return b.String()
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, name := range []string{"example_test.go", "example_node_test.go"} {
		part, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, part...)
	}
	blocks := strings.Split(string(readme), "```go\n")[1:]
	if len(blocks) < 3 {
		t.Errorf("%d blocks of Go in README.md, want at least the three usages", len(blocks))
	}
	for _, block := range blocks {
		code, _, closed := strings.Cut(block, "```")
		if !closed || !strings.Contains(flat(string(source)), flat(code)) {
			t.Errorf("README.md shows code that is not in the examples:\n%s", code)
		}
	}
}
