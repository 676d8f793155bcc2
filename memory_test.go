package peercache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// What a cache holds, and what a hit costs.

func TestMaxBytesHolds(t *testing.T) {
	const maxBytes = 1 << 20
	cache := peercache.New("c", func(_ context.Context, key string) (string, time.Duration, error) {
		return strings.Repeat(key, 1+rand.IntN(200)), time.Minute, nil
	}, &peercache.Options{MaxBytes: maxBytes})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				if _, err := cache.Get(t.Context(), fmt.Sprintf("key-%d-%d", g, i)); err != nil {
					t.Error(err)
				}
				if s := cache.Stats(); s.Bytes > maxBytes {
					t.Errorf("%d bytes held, want at most %d", s.Bytes, maxBytes)
					return
				}
			}
		})
	}
	wg.Wait()
	if s := cache.Stats(); s.Evictions == 0 || s.Bytes < maxBytes/2 {
		t.Errorf("Stats = %+v, want evictions and a full cache", s)
	}
}

func TestResizeHoldsFromWhenItReturns(t *testing.T) {
	cache := peercache.New("c", func(_ context.Context, key string) (string, time.Duration, error) {
		return strings.Repeat(key, 100), time.Minute, nil
	}, &peercache.Options{MaxBytes: 1 << 20})
	fill := func() {
		for i := range 5000 {
			if _, err := cache.Get(t.Context(), fmt.Sprintf("key-%d", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill()
	for _, size := range []int64{1 << 18, 1 << 19, 4 << 20, 1 << 12} {
		cache.Resize(size)
		if got := cache.Stats().Bytes; got > size {
			t.Errorf("%d bytes held after Resize(%d)", got, size)
		}
		fill()
		if got := cache.Stats().Bytes; got > size || got < min(size, 5000*700)*3/4 {
			t.Errorf("%d bytes held after Resize(%d) and loads that fill it, want nearly that", got, size)
		}
	}
	cache.Resize(-1)
	if s := cache.Stats(); s.Bytes != 0 || s.Entries != 0 {
		t.Errorf("Stats = %+v after Resize(-1), want nothing held", s)
	}
	cache.Resize(0)
	fill()
	if s := cache.Stats(); s.Entries != 5000 {
		t.Errorf("%d entries held after Resize(0), want all 5000 within the default", s.Entries)
	}
}

func TestHitAllocatesNothing(t *testing.T) {
	ctx := t.Context()
	for name, get := range map[string]func() error{
		"ByteView": getter(ctx, peercache.View("v")),
		"string":   getter(ctx, "v"),
		"struct":   getter(ctx, struct{ N int }{42}),
		"pointer":  getter(ctx, &struct{ N int }{42}),
	} {
		if err := get(); err != nil { // loads, and decodes
			t.Fatal(err)
		}
		allocs := testing.AllocsPerRun(1000, func() {
			if err := get(); err != nil {
				t.Error(err)
			}
		})
		if allocs != 0 {
			t.Errorf("a hit of a Cache[%s] allocates %v times, want 0", name, allocs)
		}
	}
}

// getter returns a Get of one key from a cache on a node, where values are encoded,
// and another without.
func getter[V any](ctx context.Context, v V) func() error {
	load := func(context.Context, string) (V, time.Duration, error) { return v, time.Hour, nil }
	alone := peercache.New("c", load, nil)
	node, err := peercache.NewNode("http://127.0.0.1:8080", nil)
	if err != nil {
		return func() error { return err }
	}
	onNode := peercache.New("c", load, &peercache.Options{Node: node})
	return func() error {
		if _, err := alone.Get(ctx, "key"); err != nil {
			return err
		}
		_, err := onNode.Get(ctx, "key")
		return err
	}
}

func TestStatsCountWhatCallersSee(t *testing.T) {
	var calls atomic.Int32
	cache := peercache.New("c", constant(&calls, "v", time.Minute), nil)
	for range 3 {
		for _, key := range []string{"a", "b"} {
			if _, err := cache.Get(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := cache.GetMany(t.Context(), []string{"a", "b", "c"}); err != nil {
		t.Fatal(err)
	}
	cache.Peek("a")
	if err := cache.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	s := cache.Stats()
	if s.Gets != 9 || s.Hits != 6 || s.HotHits != 0 || s.Loads != 3 || s.Entries != 2 {
		t.Errorf("Stats = %+v, want 9 gets, 6 hits, none from copies, 3 loads, 2 entries", s)
	}
}
