package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/peercache/peercache"
)

// nodeCommand as the first argument makes this program a node of the cluster
// instead of its driver.
const nodeCommand = "node"

const (
	// docsTTL is longer than any run, and docsBytes is several times what all
	// the texts take: nothing leaves a node's memory by itself. Therefore a key
	// that was loaded twice was loaded once too often.
	docsTTL   = time.Hour
	docsBytes = 256 << 20

	// leaveTimeout is how long a node that ends has for its farewell: to hand
	// over what it holds, and for the two seconds for which it goes on serving
	// peers that have not heard of it yet. closeTimeout is how long the requests
	// of people have that are still being answered.
	leaveTimeout = 8 * time.Second
	closeTimeout = time.Second

	// ownerHeader names, in every answer, the node that owns the key.
	ownerHeader = "Peercache-Owner"
)

// An event is what a node tells its driver, as one line of JSON on its standard
// output. A line that has been written survives a kill -9 of its writer, so the
// driver knows of every load that ever began.
type event struct {
	Kind   string           `json:"kind"`             // one of the kinds below
	URL    string           `json:"url,omitempty"`    // kindUp: where the node serves
	Gossip string           `json:"gossip,omitempty"` // kindUp: what others pass to Join
	Key    string           `json:"key,omitempty"`    // kindLoad: what is being loaded
	Stats  *peercache.Stats `json:"stats,omitempty"`  // kindLeft: all that the node has counted
}

const (
	kindUp    = "up"    // serving and gossiping
	kindReady = "ready" // active in the ring
	kindLoad  = "load"  // the loader has been called
	kindLeft  = "left"  // said goodbye; the process ends
)

// status is what a node answers at /stats.
type status struct {
	URL   string              `json:"url"`
	Peers []string            `json:"peers"`
	Cache peercache.Stats     `json:"cache"`
	Node  peercache.NodeStats `json:"node"`
}

// nodeConfig is what the driver tells a node on its command line.
type nodeConfig struct {
	addr     string   // host:port to serve on
	gossip   string   // host:port to gossip on
	seeds    []string // gossip addresses of other nodes
	replicas int
	goroot   string
	parallel int
	verbose  bool
}

func parseNodeFlags(args []string) (nodeConfig, error) {
	var c nodeConfig
	flags := flag.NewFlagSet(nodeCommand, flag.ContinueOnError)
	flags.StringVar(&c.addr, "addr", anyPort, "")
	flags.StringVar(&c.gossip, "gossip", anyPort, "")
	flags.Func("seeds", "", func(list string) error {
		c.seeds = strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
		return nil
	})
	flags.IntVar(&c.replicas, "replicas", 0, "")
	flags.StringVar(&c.goroot, "goroot", "", "")
	flags.IntVar(&c.parallel, "parallel", 1, "")
	flags.BoolVar(&c.verbose, "v", false, "")
	return c, flags.Parse(args)
}

// anyPort is the address of a node that starts for the first time.
const anyPort = "127.0.0.1:0"

// A server is one node: the cache, its place in the cluster, and what it serves
// to people.
type server struct {
	node *peercache.Node
	docs *peercache.Cache[string]
	web  *http.Server

	mu     sync.Mutex // guards the field below
	events *json.Encoder
}

// runNode is the life of a node process. It ends when the process gets SIGTERM,
// or when stdin closes, which happens even if the driver is killed.
func runNode(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	c, err := parseNodeFlags(args)
	if err != nil {
		return err
	}
	// Ctrl-C reaches every process of the terminal. The driver decides.
	signal.Ignore(os.Interrupt)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // however it ends, the driver is gone
		stop()
	}()

	// Many processes share one small machine here; more threads each would only
	// take turns.
	runtime.GOMAXPROCS(min(2, runtime.GOMAXPROCS(0)))

	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	s, err := newServer("http://"+ln.Addr().String(), c, stdout, stderr)
	if err != nil {
		return err
	}
	return s.run(ctx, ln, c.seeds)
}

func newServer(url string, c nodeConfig, stdout, stderr io.Writer) (*server, error) {
	level := slog.LevelInfo
	if c.verbose {
		level = slog.LevelDebug
	}
	node, err := peercache.NewNode(url, &peercache.NodeOptions{
		Gossip: c.gossip,
		Logger: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		return nil, err
	}
	s := &server{node: node, events: json.NewEncoder(stdout)}
	s.docs = peercache.New("docs", peercache.TTL(docsTTL, s.loader(library{c.goroot}, c.parallel)), &peercache.Options{
		Node:     node,
		MaxBytes: docsBytes,
		MaxTTL:   docsTTL,
		Replicas: c.replicas,
	})
	s.web = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second}
	return s, nil
}

// run serves until ctx ends: first the server, then the cluster; and the other
// way round at the end.
func (s *server) run(ctx context.Context, ln net.Listener, seeds []string) error {
	served := make(chan error, 1)
	go func() { served <- s.web.Serve(ln) }() // before Join: peers ask as soon as they know

	if err := s.node.Join(ctx, seeds...); err != nil {
		return err
	}
	if err := s.tell(event{Kind: kindUp, URL: s.node.Self().URL, Gossip: s.node.GossipAddr()}); err != nil {
		return err
	}
	select {
	case <-s.node.Ready():
		if err := s.tell(event{Kind: kindReady}); err != nil {
			return err
		}
	case <-ctx.Done():
	}

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	return s.shutdown(context.WithoutCancel(ctx))
}

// shutdown ends what run began, in the order that costs nobody anything: Leave
// hands what this node holds to those who own it from now on, while the web
// server goes on answering; only then does that stop. ctx is not the one that
// SIGTERM has ended, for with that both would give up at once.
func (s *server) shutdown(ctx context.Context) error {
	leaving, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	err := s.node.Leave(leaving)

	closing, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	err = errors.Join(err, s.web.Shutdown(closing))
	if errors.Is(err, context.DeadlineExceeded) {
		// A browser that keeps its connection, or a loader that hangs. They have
		// had their time.
		return errors.Join(s.web.Close(), s.tellLeft())
	}
	return errors.Join(err, s.tellLeft())
}

// tellLeft is the last word of a node.
func (s *server) tellLeft() error {
	return s.tell(event{Kind: kindLeft, Stats: new(s.docs.Stats())})
}

// loader returns what the cache calls on a miss, at most parallel at once: the
// parser would take every core there is, and a process that gets no time looks
// dead to its peers.
func (s *server) loader(lib library, parallel int) func(ctx context.Context, key string) (string, error) {
	sem := semaphore.NewWeighted(int64(parallel))
	return func(ctx context.Context, key string) (string, error) {
		if err := s.tell(event{Kind: kindLoad, Key: key}); err != nil {
			return "", err
		}
		if err := sem.Acquire(ctx, 1); err != nil {
			return "", err
		}
		defer sem.Release(1)
		return lib.text(ctx, key)
	}
}

// tell writes one event. Events of several goroutines do not mix.
func (s *server) tell(e event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events.Encode(e)
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(s.node.Handler())
	mux.HandleFunc("GET /doc/{key...}", s.doc)
	mux.HandleFunc("GET /stats", s.stats)
	mux.HandleFunc("POST /owners", s.owners)
	mux.HandleFunc("GET /{$}", s.index)
	return mux
}

// doc answers with the text of one key.
func (s *server) doc(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("key")
	if _, ok := parseKey(key); !ok {
		http.NotFound(w, r)
		return
	}
	text, err := s.docs.Get(r.Context(), key)
	w.Header().Set(ownerHeader, s.docs.Owner(key))
	switch {
	case errors.Is(err, peercache.ErrNotFound):
		http.NotFound(w, r)
	case errors.Is(err, peercache.ErrOverloaded):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, text) // fails only if the client has gone
	}
}

// stats answers with the node's counters, as JSON.
func (s *server) stats(w http.ResponseWriter, _ *http.Request) {
	st := status{URL: s.node.Self().URL, Cache: s.docs.Stats(), Node: s.node.Stats()}
	for _, p := range s.node.Peers() {
		st.Peers = append(st.Peers, p.URL)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(st) // fails only if the client has gone
}

// owners answers with the URL of the owner of each key of a list, both as JSON.
func (s *server) owners(w http.ResponseWriter, r *http.Request) {
	var keys []string
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<20)).Decode(&keys); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	owners := make([]string, len(keys))
	for i, key := range keys {
		owners[i] = s.docs.Owner(key)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(owners) // fails only if the client has gone
}

// index says what there is to ask for.
func (s *server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	url := s.node.Self().URL
	fmt.Fprintf(w, `The documentation of Go's standard library, from a cache that several processes share.

  %[1]s/doc/net/http             a package
  %[1]s/doc/net/http.Client      something it exports
  %[1]s/doc/net/http.Client.Do   a method
  %[1]s/stats                    this node's counters

Every node gives the same answers; the header %[2]s names the one that holds a text.
The nodes:

`, url, ownerHeader)
	for _, p := range s.node.Peers() {
		fmt.Fprintf(w, "  %s/\n", p.URL)
	}
}
