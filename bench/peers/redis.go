package main

import (
	"context"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

// Redis through the two libraries that Go programs use, both with their defaults:
// go-redis has a connection for each caller who waits, ten for each processor in all;
// rueidis puts the commands of all callers into a few connections.

func redisMissing() error { return daemonMissing("redis-server", "redis-server") }

func serveRedis(ctx context.Context, _ job) (*server, error) {
	return serveDaemon(ctx, "redis-server", func(port string) []string {
		return []string{
			"--bind", "127.0.0.1", "--port", port,
			"--save", "", "--appendonly", "no", // nothing on disk
			"--daemonize", "no",
		}
	})
}

func dialGoRedis(ctx context.Context, j job) (*client, error) {
	c := redis.NewClient(&redis.Options{Addr: j.Server})
	if err := c.Ping(ctx).Err(); err != nil {
		return nil, err
	}
	return &client{
		get: func(ctx context.Context, key string) (int, error) {
			value, err := c.Get(ctx, key).Result()
			return len(value), err
		},
		put: func(ctx context.Context, key, value string) error { return c.Set(ctx, key, value, 0).Err() },
	}, nil
}

func dialRueidis(_ context.Context, j job) (*client, error) {
	// Without DisableCache it needs a server that tracks what it has given out, also
	// for those who keep nothing.
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{j.Server}, DisableCache: true})
	if err != nil {
		return nil, err
	}
	return &client{
		get: func(ctx context.Context, key string) (int, error) {
			value, err := c.Do(ctx, c.B().Get().Key(key).Build()).ToString()
			return len(value), err
		},
		put: func(ctx context.Context, key, value string) error {
			return c.Do(ctx, c.B().Set().Key(key).Value(value).Build()).Error()
		},
	}, nil
}
