package peercache_test

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// Name servers that do not answer, such as those of a zone that was given up. These tests
// must not run in parallel: the resolver is the process's.

// nameServer is asked in place of the system's name servers while it is not nil. The
// resolver itself is replaced once, before any test: goroutines that tests leave behind
// for a while go on reading it.
var nameServer atomic.Pointer[func(context.Context) error]

func init() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if ask := nameServer.Load(); ask != nil {
			return nil, (*ask)(ctx)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
}

// silentNames makes every look-up of a name end with its context, and returns where each
// is told.
func silentNames(t *testing.T) <-chan struct{} {
	t.Helper()
	asked := make(chan struct{}, 1)
	t.Cleanup(func() { nameServer.Store(nil) })
	nameServer.Store(new(func(ctx context.Context) error {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return ctx.Err()
	}))
	return asked
}

func TestSilentNameServerHoldsUpNoOtherSeed(t *testing.T) {
	silentNames(t)
	for _, host := range []string{"127.0.0.1", "localhost"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel() // it mostly waits
			a := newReal(t, valueOf)
			_, port, err := net.SplitHostPort(a.GossipAddr())
			if err != nil {
				t.Fatal(err)
			}
			var log warnings
			b := newUnjoined(t, anywhere, peercache.NodeOptions{Logger: slog.New(&log)}, valueOf)
			start := time.Now()
			if err := b.Join(t.Context(), "silent.example.:7946", net.JoinHostPort(host, port)); err != nil {
				t.Fatal(err)
			}
			if n := len(b.Peers()); n != 2 || len(log.lines) != 0 {
				t.Errorf("after %v in Join the node has %d peers and has warned %q, want 2 peers and no warning", time.Since(start), n, log.lines)
			}
		})
	}
}

func TestLeaveBoundsTheLookUpOfAJoin(t *testing.T) {
	asked := silentNames(t)
	n, err := peercache.NewNode("http://silent.example.:8080", &peercache.NodeOptions{Insecure: true, Logger: discardLogger()})
	if err != nil {
		t.Fatal(err)
	}
	joined := make(chan error, 1)
	go func() { joined <- n.Join(t.Context()) }()
	<-asked
	start := time.Now()
	if err := n.Leave(t.Context()); err != nil {
		t.Errorf("Leave: %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("Leave took %v, want it not to wait for a name server", took)
	}
	if err := <-joined; err == nil {
		t.Error("Join that Leave overtook: no error")
	}
}
