package main

import (
	"context"
	"os"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

// memcached through the library that Go programs use.

func memcachedMissing() error { return daemonMissing("memcached", "memcached") }

func serveMemcached(ctx context.Context, _ job) (*server, error) {
	return serveDaemon(ctx, "memcached", func(port string) []string {
		arguments := []string{
			"-l", "127.0.0.1", "-p", port, "-U", "0",
			"-m", "256", "-I", "2m", // its largest value by default, 1 MiB, is too small for one with its key
		}
		if os.Geteuid() == 0 {
			arguments = append(arguments, "-u", "root") // it refuses to be root without being told
		}
		return arguments
	})
}

func dialMemcached(_ context.Context, j job) (*client, error) {
	c := memcache.New(j.Server)
	c.MaxIdleConns = j.Callers // the default of 2 would close most after each Get
	c.Timeout = 5 * time.Second
	return &client{
		get: func(_ context.Context, key string) (int, error) {
			it, err := c.Get(key)
			if err != nil {
				return 0, err
			}
			return len(it.Value), nil
		},
		put: func(_ context.Context, key, value string) error {
			return c.Set(&memcache.Item{Key: key, Value: []byte(value)})
		},
	}, nil
}
