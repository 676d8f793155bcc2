package peercache_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// What crosses the wire means the same on both sides: keys, lives, not-found, errors.

func TestEveryKeySurvivesTheWire(t *testing.T) {
	random := make([]byte, 1024)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	keys := []string{
		"a b", "a+b", "a/b", "..", ".", "/", "%2F", "%", "?x=y", "#", "\r\nX: y", "\x00", "\xff\xfe", "�", "é", "e\u0301",
		strings.Repeat("x", 1024), string(random),
	}
	bad := map[string]string{"": "empty", strings.Repeat("x", 1025): "1024"}
	for _, nodes := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cachetest.NewCluster(t, nodes)
				o := &origin{}
				caches := cachetest.Caches(c, "c", o.load, nil)
				var all []string
				want := make(map[string]string)
				for _, suffix := range []string{"", "1", "2"} {
					for _, key := range keys {
						if key += suffix; len(key) <= 1024 {
							all = append(all, key)
							want[key] = "value of " + key
						}
					}
				}
				for _, cache := range caches {
					for _, key := range all {
						wantValue(t, cache, key)
					}
					if got, err := cache.GetMany(t.Context(), all); err != nil || !maps.Equal(got, want) {
						t.Errorf("GetMany: %v, differs:\n%s", err, cmp.Diff(want, got))
					}
					for key, hint := range bad {
						if _, err := cache.Get(t.Context(), key); err == nil || !strings.Contains(err.Error(), hint) {
							t.Errorf("Get of a key of %d bytes: %v, want an error with %q", len(key), err, hint)
						}
					}
				}
				for _, key := range all {
					if n := o.of(key); n != 1 {
						t.Errorf("%d loads of %.40q, want 1", n, key)
					}
					if err := caches[0].Remove(t.Context(), key); err != nil {
						t.Errorf("Remove(%.40q): %v", key, err)
					}
				}
				for i, cache := range caches {
					if left := slices.Collect(cache.Keys()); left != nil {
						t.Errorf("node %d holds %.200q after they were removed", i, left)
					}
				}
			})
		})
	}
}

func TestExpiryOnAnotherNodeIsRemainingTime(t *testing.T) {
	for _, c := range []struct {
		name             string
		ttl, max, hot    time.Duration
		askedAt, freshTo time.Duration // since the load, at another node
	}{
		{"the entry ends before the copy", 5 * time.Second, 0, 0, 2 * time.Second, 5 * time.Second},
		{"HotTTL ends the copy", time.Hour, 0, 3 * time.Second, 2 * time.Second, 5 * time.Second},
		{"default HotTTL", time.Hour, 0, 0, 2 * time.Second, 12 * time.Second},
		{"MaxTTL ends both", time.Hour, 4 * time.Second, 0, 2 * time.Second, 4 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := cachetest.NewCluster(t, 2)
				caches := cachetest.Caches(cluster, "c", func(context.Context, string) (string, time.Duration, error) {
					return "v", c.ttl, nil
				}, &peercache.Options{HotTTL: c.hot, MaxTTL: c.max})
				key := ownedBy(t, cluster, caches[0], "k", 1)
				start := time.Now()
				if _, err := caches[1].Get(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				time.Sleep(c.askedAt)
				if _, err := caches[0].Get(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				early := c.freshTo / 20                                                   // the jitter of the entry at most
				time.Sleep(time.Until(start.Add(c.freshTo - early - 2*time.Millisecond))) // lives travel in whole milliseconds
				if _, ok := caches[0].Peek(key); !ok {
					t.Errorf("the copy is gone before %v", c.freshTo-early)
				}
				time.Sleep(early + 2*time.Millisecond)
				if _, ok := caches[0].Peek(key); ok {
					t.Errorf("the copy is still there after %v", c.freshTo)
				}
			})
		})
	}
}

func TestNegativeHotTTLKeepsNoCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		key := ownedBy(t, c, caches[0], "k", 1)
		for range 3 {
			wantValue(t, caches[0], key)
			if _, ok := caches[0].Peek(key); ok {
				t.Error("a copy was kept")
			}
		}
		if s := caches[0].Stats(); s.PeerGets != 3 || o.of(key) != 1 {
			t.Errorf("%d fetches and %d loads, want 3 and 1", s.PeerGets, o.of(key))
		}
	})
}

func TestNotFoundIsRememberedAcrossTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		var calls atomic.Int32
		caches := cachetest.Caches(c, "c", func(context.Context, string) (string, time.Duration, error) {
			calls.Add(1)
			return "", 4 * time.Second, fmt.Errorf("user deleted: %w", peercache.ErrNotFound)
		}, nil)
		key := ownedBy(t, c, caches[0], "k", 1)
		get := func(want int32) {
			t.Helper()
			for _, cache := range caches {
				if _, err := cache.Get(t.Context(), key); !errors.Is(err, peercache.ErrNotFound) {
					t.Errorf("Get: %v, want ErrNotFound", err)
				}
				if got, err := cache.GetMany(t.Context(), []string{key}); err != nil || len(got) != 0 {
					t.Errorf("GetMany = %v, %v, want the key left out", got, err)
				}
			}
			if n := calls.Load(); n != want {
				t.Errorf("%d loads, want %d", n, want)
			}
		}
		get(1)
		if n := caches[0].Stats().PeerGets; n != 1 {
			t.Errorf("%d fetches, want 1: the copy remembers too", n)
		}
		time.Sleep(3800*time.Millisecond - 2*time.Millisecond) // the jitter is 5 %
		get(1)
		time.Sleep(202 * time.Millisecond)
		get(2)
	})
}

func TestUnkeptValueIsGivenToPeersAndNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		var calls atomic.Int32
		caches := cachetest.Caches(c, "c", constant(&calls, "v", -1), nil)
		for range 2 {
			for _, cache := range caches {
				if v, err := cache.Get(t.Context(), "k"); err != nil || v != "v" {
					t.Errorf("Get = %q, %v, want v", v, err)
				}
			}
		}
		if n := calls.Load(); n != 4 {
			t.Errorf("%d loads, want 4", n)
		}
		for _, cache := range caches {
			if n := cache.Stats().Entries; n != 0 {
				t.Errorf("%d entries kept, want none", n)
			}
		}
	})
}

// What a loader returns or passes to panic may be one of the cache's own errors.
func TestLoaderThatUsesTheCachesOwnErrorsIsUnderstoodEverywhere(t *testing.T) {
	for name, c := range map[string]struct {
		fail  func() error
		check func(error) bool
	}{
		"panic(ErrNotFound)": {func() error { panic(peercache.ErrNotFound) }, func(err error) bool {
			_, ok := errors.AsType[*peercache.PanicError](err)
			return ok
		}},
		"panic(ErrOverloaded)": {func() error { panic(peercache.ErrOverloaded) }, func(err error) bool {
			_, ok := errors.AsType[*peercache.PanicError](err)
			return ok
		}},
		"ErrClosed": {func() error { return peercache.ErrClosed }, func(err error) bool {
			return err != peercache.ErrClosed && strings.Contains(err.Error(), peercache.ErrClosed.Error())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := cachetest.NewCluster(t, 3)
				var calls atomic.Int32
				caches := cachetest.Caches(cluster, "c", func(context.Context, string) (string, time.Duration, error) {
					calls.Add(1)
					time.Sleep(time.Second)
					return "", 0, c.fail()
				}, nil)
				var wg sync.WaitGroup
				for i, cache := range caches {
					wg.Go(func() {
						if _, err := cache.Get(t.Context(), "k"); !c.check(err) {
							t.Errorf("node %d: Get: %v (%T)", i, err, err)
						}
					})
				}
				wg.Wait()
				if n := calls.Load(); n != 1 {
					t.Errorf("%d loads, want 1", n)
				}
			})
		})
	}
}
