package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Set and Remove, in one process and in many.

func TestRemoveAndSetReachEveryProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: time.Hour})
		for owner := range caches {
			key := ownedBy(t, c, caches[0], fmt.Sprint("k", owner, "-"), owner)
			for from := range caches {
				for _, cache := range caches {
					wantValue(t, cache, key)
				}
				before := o.of(key)
				if err := caches[from].Remove(t.Context(), key); err != nil {
					t.Fatalf("Remove at %d of a key of %d: %v", from, owner, err)
				}
				for i, cache := range caches {
					if v, ok := cache.Peek(key); ok {
						t.Errorf("node %d holds %q after Remove at %d", i, v, from)
					}
				}
				wantValue(t, caches[(from+1)%4], key)
				if n := o.of(key) - before; n != 1 {
					t.Errorf("%d loads after Remove, want 1", n)
				}

				set := fmt.Sprint("set at ", from)
				if err := caches[from].Set(t.Context(), key, set, time.Hour); err != nil {
					t.Fatalf("Set at %d of a key of %d: %v", from, owner, err)
				}
				for i, cache := range caches {
					if v, err := cache.Get(t.Context(), key); err != nil || v != set {
						t.Errorf("node %d: Get after Set = %q, %v, want %q", i, v, err, set)
					}
				}
				if n := o.of(key) - before; n != 1 {
					t.Errorf("%d loads after Set, want none more", n-1)
				}
				if err := caches[from].Remove(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func TestRemoveInTheMiddleOfALoadMakesExactlyTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		var calls atomic.Int32
		caches := cachetest.Caches(c, "c", func(context.Context, string) (int32, time.Duration, error) {
			n := calls.Add(1)
			time.Sleep(200 * time.Millisecond)
			return n, time.Hour, nil
		}, nil)
		var wg sync.WaitGroup
		get := func(oldest int32) {
			for _, cache := range caches {
				for range 2000 {
					wg.Go(func() {
						if v, err := cache.Get(t.Context(), "k"); err != nil || v < oldest {
							t.Errorf("Get = %d, %v, want %d or newer", v, err, oldest)
						}
					})
				}
			}
		}
		get(1)
		time.Sleep(100 * time.Millisecond)
		if err := caches[3].Remove(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		get(2)
		wg.Wait()
		get(2)
		wg.Wait()
		if n := calls.Load(); n != 2 {
			t.Errorf("%d loads, want 2", n)
		}
	})
}

func TestPartialErrorNamesWhoDidNotConfirm(t *testing.T) {
	for name, change := range map[string]func(context.Context, *peercache.Cache[string], string) error{
		"Remove": func(ctx context.Context, c *peercache.Cache[string], key string) error { return c.Remove(ctx, key) },
		"Set": func(ctx context.Context, c *peercache.Cache[string], key string) error {
			return c.Set(ctx, key, "value of "+key, 0)
		},
		"Clear": func(ctx context.Context, c *peercache.Cache[string], _ string) error { return c.Clear(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cachetest.NewCluster(t, 4)
				caches := cachetest.Caches(c, "c", (&origin{}).load, nil)
				key := ownedBy(t, c, caches[0], "k", 1)
				for _, cache := range caches {
					wantValue(t, cache, key)
				}
				c.Pause(2)
				defer c.Resume(2)
				start := time.Now()
				err := change(t.Context(), caches[0], key)
				partial, ok := errors.AsType[*peercache.PartialError](err)
				if !ok || !errors.Is(err, peercache.ErrPartial) {
					t.Fatalf("%v, want a *PartialError", err)
				}
				if d := time.Since(start); d > 2100*time.Millisecond {
					t.Errorf("it returned after %v, want at most 2.1s", d)
				}
				paused := c.Node(2).Self().URL
				if got := slices.Collect(maps.Keys(partial.Peers)); !slices.Equal(got, []string{paused}) || partial.Peers[paused] == nil {
					t.Errorf("unconfirmed %v, want %s alone", partial.Peers, paused)
				}
				for _, i := range []int{0, 3} {
					if v, ok := caches[i].Peek(key); ok {
						t.Errorf("node %d holds %q", i, v)
					}
				}
				if s := c.Node(0).Stats(); s.Partials != 1 || s.Pending != 1 {
					t.Errorf("%d partial calls, %d pending, want one of each", s.Partials, s.Pending)
				}

				ended, cancel := context.WithCancel(t.Context())
				cancel()
				wantValue(t, caches[3], key)
				start = time.Now()
				err = change(ended, caches[0], key)
				partial, ok = errors.AsType[*peercache.PartialError](err)
				if d := time.Since(start); d != 0 || !ok || partial.Peers[paused] == nil {
					t.Errorf("with an ended context: %v after %v, want ErrPartial at once", err, d)
				}
				time.Sleep(time.Second)
				if v, ok := caches[3].Peek(key); ok {
					t.Errorf("node 3 holds %q: what is called with an ended context must be sent all the same", v)
				}
			})
		})
	}
}

func TestRemoveDetachesTheLoadItOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		cache := peercache.New("c", func(context.Context, string) (string, time.Duration, error) {
			n := calls.Add(1)
			time.Sleep(time.Second)
			return fmt.Sprint("v", n), time.Hour, nil
		}, nil)
		var wg sync.WaitGroup
		get := func(want string) {
			wg.Go(func() {
				if v, err := cache.Get(t.Context(), "k"); err != nil || v != want {
					t.Errorf("Get = %q, %v, want %s", v, err, want)
				}
			})
			synctest.Wait()
		}
		get("v1")
		if err := cache.Remove(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		get("v2") // must not join the load that began before the Remove
		time.Sleep(10 * time.Second)
		wg.Wait()
		get("v2") // nor may that one's value have been kept
		wg.Wait()
		if n := calls.Load(); n != 2 {
			t.Errorf("%d loads, want 2", n)
		}
	})
}

func TestSetReplacesAndDetaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := peercache.New("c", func(context.Context, string) (string, time.Duration, error) {
			time.Sleep(time.Second)
			return "loaded", time.Hour, nil
		}, nil)
		var wg sync.WaitGroup
		wg.Go(func() {
			if v, err := cache.Get(t.Context(), "k"); err != nil || v != "loaded" {
				t.Errorf("the Get that was there first = %q, %v, want loaded", v, err)
			}
		})
		synctest.Wait()
		if err := cache.Set(t.Context(), "k", "set", time.Minute); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if v, err := cache.Get(t.Context(), "k"); err != nil || v != "set" {
			t.Errorf("Get = %q, %v, want set", v, err)
		}
		time.Sleep(time.Minute)
		if v, err := cache.Get(t.Context(), "k"); err != nil || v != "loaded" {
			t.Errorf("Get after the ttl = %q, %v, want loaded", v, err)
		}
		if err := cache.Set(t.Context(), "k", "", -1); err != nil {
			t.Fatal(err)
		}
		if v, ok := cache.Peek("k"); ok {
			t.Errorf("Peek after a Set with a negative ttl = %q, want nothing", v)
		}
	})
}
