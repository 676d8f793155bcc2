package peercache_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// A name server that does not answer, such as one of a zone that was given up, must not
// keep a node from the seeds that are well. Not in parallel: the resolver is the process's.
func TestSilentNameServerHoldsUpNoOtherSeed(t *testing.T) {
	resolver := net.DefaultResolver
	defer func() { net.DefaultResolver = resolver }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		t.Run(host, func(t *testing.T) {
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
