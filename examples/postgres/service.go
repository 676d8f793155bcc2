package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/peercache/peercache"
)

const (
	// startTimeout bounds how long the nodes take to become one cluster.
	// Arbitrary: it takes about a second.
	startTimeout = 20 * time.Second

	// leaveTimeout is how long a node has for its farewell. It includes the two
	// seconds for which it goes on serving peers that have not heard of it yet.
	leaveTimeout = 4 * time.Second
)

// A service is one node with the cache of users. Here several live in one process,
// for a short program; nothing else about them is different from processes on
// several machines.
type service struct {
	node   *peercache.Node
	users  *peercache.Cache[User]
	server *http.Server
}

// startService starts a node that finds the others by seeds, gossip addresses.
func startService(ctx context.Context, table *userTable, log *slog.Logger, seeds ...string) (*service, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	node, err := peercache.NewNode("http://"+ln.Addr().String(), &peercache.NodeOptions{Gossip: "127.0.0.1:0", Logger: log})
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	s := &service{
		node: node,
		users: peercache.NewBatch("users", table.load, &peercache.Options{
			Node:        node,
			MaxTTL:      userTTL,
			HotTTL:      userTTL,
			NotFoundTTL: userTTL,
		}),
	}
	mux := http.NewServeMux()
	mux.Handle(node.Handler())
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := s.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the server ended", "err", err)
		}
	}()
	if err := node.Join(ctx, seeds...); err != nil {
		return nil, errors.Join(err, s.stop(ctx))
	}
	return s, nil
}

func (s *service) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	err := s.node.Leave(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // all leave at once: nobody was left to listen
	}
	return errors.Join(err, s.server.Close())
}

// startServices starts n nodes and waits until they are one cluster.
func startServices(ctx context.Context, n int, table *userTable, log *slog.Logger) ([]*service, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var all []*service
	var seeds []string
	for range n {
		s, err := startService(ctx, table, log, seeds...)
		if err != nil {
			return nil, errors.Join(err, stopServices(ctx, all))
		}
		all = append(all, s)
		seeds = append(seeds, s.node.GossipAddr())
	}
	for _, s := range all {
		if err := poll(ctx, func() bool { return slices.Equal(s.node.Peers(), all[0].node.Peers()) && len(s.node.Peers()) == n }); err != nil {
			err = fmt.Errorf("%s sees %v, not %d nodes: %w", s.node.Self().URL, s.node.Peers(), n, err)
			return nil, errors.Join(err, stopServices(ctx, all))
		}
	}
	return all, nil
}

func stopServices(ctx context.Context, all []*service) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, s := range all {
		wg.Go(func() { errs[i] = s.stop(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// poll asks once a millisecond until the answer is yes or ctx ends, whose error
// it then returns.
func poll(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
