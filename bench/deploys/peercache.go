package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"time"

	"github.com/peercache/peercache"
)

// This library: the nodes join by gossip and leave by Leave.

const (
	cacheName = "bench"

	// cacheBytes is what a node may hold: enough for all keys of the default run.
	cacheBytes = 256 << 20
)

func openPeercache(j job, load loader) (*member, error) {
	node, err := peercache.NewNode("http://"+j.Address, &peercache.NodeOptions{
		Gossip: j.Gossip,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	opts := &peercache.Options{Node: node, MaxBytes: cacheBytes}
	if err := replicate(opts, j.Replicas); err != nil {
		return nil, err
	}
	cache := peercache.New(cacheName, func(ctx context.Context, key string) (peercache.ByteView, time.Duration, error) {
		v, err := load(ctx, key)
		return peercache.View(v), lifetime, err
	}, opts)
	mux := http.NewServeMux()
	mux.Handle(node.Handler())
	return &member{
		handler: mux,
		get: func(ctx context.Context, key string) (string, error) {
			v, err := cache.Get(ctx, key)
			return v.String(), err
		},
		owns: func(key string) bool { return cache.Owner(key) == node.Self().URL },
		join: func(ctx context.Context) error {
			if err := node.Join(ctx, j.Seeds...); err != nil {
				return err
			}
			select {
			case <-node.Ready():
				return nil
			case <-ctx.Done():
				return fmt.Errorf("the node does not get ready: %w", ctx.Err())
			}
		},
		meet: func(ctx context.Context, n int) error {
			again := time.NewTicker(10 * time.Millisecond)
			defer again.Stop()
			for len(node.Peers()) != n {
				select {
				case <-again.C:
				case <-ctx.Done():
					return fmt.Errorf("%d nodes do not meet: %w", n, ctx.Err())
				}
			}
			return nil
		},
		setPeers: func([]string) {}, // it knows
		leave:    node.Leave,
	}, nil
}

// canReplicate says why an entry cannot be held by so many nodes beside its owner.
func canReplicate(replicas int) error { return replicate(new(peercache.Options), replicas) }

// replicate sets Options.Replicas. By its name, so that this program also measures
// versions of the library that have no such field, to compare them with those that do.
func replicate(opts *peercache.Options, replicas int) error {
	if replicas == 0 {
		return nil
	}
	field := reflect.ValueOf(opts).Elem().FieldByName("Replicas")
	if !field.IsValid() {
		return fmt.Errorf("peercache.Options has no Replicas, of which %d are asked for", replicas)
	}
	field.SetInt(int64(replicas))
	return nil
}
