package consul_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/peercache/peercache"
	"go.uber.org/goleak"

	"github.com/peercache/peercache/discovery/consul"
)

// Processes that follow an agent in a bubble, and what tests ask about them.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inBubble runs f where time is free, with an agent of its own. Goroutines that are left
// when it ends fail the test.
func inBubble(t *testing.T, f func(t *testing.T, a *agent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newInMemory()
		a := newAgent(l, l.dial)
		t.Cleanup(a.close)
		f(t, a)
	})
}

// A process has a node and follows an agent.
type process struct {
	node *peercache.Node
	logs *logs
	line *line
	stop func() error // ends the context and returns what Follow does
}

const (
	urlA = "http://127.0.0.1:8081"
	urlB = "http://127.0.0.1:8082"
	urlC = "http://127.0.0.1:8083"
	urlD = "http://127.0.0.1:8084"
)

// newProcess returns one that does not follow yet. It is stopped with the test. At all
// times its node must be among its peers.
func newProcess(t *testing.T, a *agent, url string, opts *peercache.NodeOptions) (*process, *api.Client) {
	t.Helper()
	p := &process{logs: new(logs)}
	o := peercache.NodeOptions{}
	if opts != nil {
		o = *opts
	}
	o.Logger = p.logs.logger()
	node, err := peercache.NewNode(url, &o)
	if err != nil {
		t.Fatal(err)
	}
	p.node = node
	p.line = &line{transport: &http.Transport{DialContext: a.dial}}
	client, err := api.NewClient(&api.Config{
		Address:    a.server.Listener.Addr().String(),
		HttpClient: &http.Client{Transport: p.line},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.line.transport.CloseIdleConnections)
	t.Cleanup(func() { _ = node.Leave(ended()) })
	return p, client
}

// start returns a process that follows.
func start(t *testing.T, a *agent, url string, opts *peercache.NodeOptions) *process {
	t.Helper()
	p, client := newProcess(t, a, url, opts)
	p.follow(t, client, nil)
	return p
}

// follow begins to follow, until the test ends or stop is called.
func (p *process) follow(t *testing.T, client *api.Client, opts *consul.Options) {
	t.Helper()
	o := consul.Options{}
	if opts != nil {
		o = *opts
	}
	o.Logger = p.logs.logger()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- consul.Follow(ctx, p.node, client, &o) }()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if peers := p.peers(); len(peers) > 0 && !slices.Contains(peers, p.node.Self().URL) {
					t.Errorf("Peers() = %q, want %s among them", peers, p.node.Self().URL)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	stopped := false
	p.stop = func() error {
		cancel()
		stopped = true
		return <-done
	}
	t.Cleanup(func() {
		cancel()
		<-watched
		if stopped {
			return
		}
		if err := <-done; err != nil {
			t.Errorf("Follow(%s) = %v, want nil", p.node.Self().URL, err)
		}
	})
}

func (p *process) peers() []string {
	var urls []string
	for _, peer := range p.node.Peers() {
		urls = append(urls, peer.URL)
	}
	return urls
}

// wantPeers fails the test unless the processes have these peers.
func wantPeers(t *testing.T, when string, want []string, of ...*process) {
	t.Helper()
	synctest.Wait()
	for _, p := range of {
		if got := p.peers(); !slices.Equal(got, want) {
			t.Fatalf("%s: Peers() of %s = %q, want %q", when, p.node.Self().URL, got, want)
		}
	}
}

// startThree returns three processes that know each other.
func startThree(t *testing.T, a *agent) (x, y, z *process) {
	t.Helper()
	x, y, z = start(t, a, urlA, nil), start(t, a, urlB, nil), start(t, a, urlC, nil)
	time.Sleep(20 * time.Second) // what the start took of their pace is given back
	wantPeers(t, "at the start", []string{urlA, urlB, urlC}, x, y, z)
	return x, y, z
}

// A line is a process's way to the agent.
type line struct {
	transport *http.Transport
	cut       atomic.Bool
}

var errCut = errors.New("the line is cut")

func (l *line) RoundTrip(r *http.Request) (*http.Response, error) {
	if l.cut.Load() {
		return nil, errCut
	}
	return l.transport.RoundTrip(r)
}

// logs are what a process has logged.
type logs struct {
	mu   sync.Mutex // guards the field below
	text bytes.Buffer
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) count(of string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), of)
}

// ended returns a context that has.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
