package etcd_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/peercache/peercache"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/peercache/peercache/discovery/etcd"
)

// In the environment of a process that follows until it is killed.
const (
	childURL      = "PEERCACHE_TEST_URL"
	childEndpoint = "PEERCACHE_TEST_ETCD"
	childPrefix   = "PEERCACHE_TEST_PREFIX"
)

// TestMain runs the tests with an etcd that they share, or the process that
// TestKilledProcessIsGoneAfterItsTTL kills, and then looks for goroutines that were
// left behind.
func TestMain(m *testing.M) {
	if url := os.Getenv(childURL); url != "" {
		fmt.Fprintln(os.Stderr, runChild(url))
		os.Exit(1)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "etcd")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }() // a directory that stays hurts nobody
		shared = &server{dir: dir}
		err = shared.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	shared.etcd.Close()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func runChild(url string) error {
	node, err := peercache.NewNode(url, nil)
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Getenv(childEndpoint)}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	return etcd.Follow(context.Background(), node, client, &etcd.Options{
		Prefix: os.Getenv(childPrefix),
		TTL:    time.Second,
		Logger: slog.New(slog.DiscardHandler),
	})
}
