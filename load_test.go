package peercache_test

import (
	"context"
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

// Loads: batches, how many run at once, what becomes of those that must wait.

// calls records the keys of each call of a batch loader.
type calls struct {
	mu  sync.Mutex
	all [][]string
}

func (c *calls) add(keys []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys = slices.Clone(keys)
	slices.Sort(keys)
	c.all = append(c.all, keys)
}

func (c *calls) take() [][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = nil
	return all
}

func TestGetManyGivesABatchLoaderAllKeysAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen calls
		failure := errors.New("some rows are locked")
		cache := peercache.NewBatch("c", func(_ context.Context, keys []string) (map[string]string, time.Duration, error) {
			seen.add(keys)
			vs := make(map[string]string)
			var err error
			for _, key := range keys {
				switch key[0] {
				case 'v':
					vs[key] = "value of " + key
				case 'f':
					err = failure
				}
			}
			return vs, time.Minute, err
		}, &peercache.Options{NotFoundTTL: time.Minute})

		got, err := cache.GetMany(t.Context(), []string{"v1", "m1", "v2", "m2", "v1"})
		if diff := cmp.Diff(map[string]string{"v1": "value of v1", "v2": "value of v2"}, got); diff != "" || err != nil {
			t.Errorf("GetMany: %v (-want +got):\n%s", err, diff)
		}
		if diff := cmp.Diff([][]string{{"m1", "m2", "v1", "v2"}}, seen.take()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		if _, err := cache.Get(t.Context(), "m2"); !errors.Is(err, peercache.ErrNotFound) {
			t.Errorf("Get of a key that the batch did not have: %v, want ErrNotFound", err)
		}
		wantValue(t, cache, "v2")
		if got := seen.take(); got != nil {
			t.Errorf("calls for keys that are known: %q, want none", got)
		}

		got, err = cache.GetMany(t.Context(), []string{"v1", "v3", "f1", "f2"})
		if diff := cmp.Diff(map[string]string{"v1": "value of v1", "v3": "value of v3"}, got); diff != "" {
			t.Errorf("GetMany beside an error (-want +got):\n%s", diff)
		}
		if !errors.Is(err, failure) || !strings.Contains(err.Error(), `"f1"`) || !strings.Contains(err.Error(), `"f2"`) {
			t.Errorf("GetMany: %v, want the failure of f1 and f2", err)
		}
		if diff := cmp.Diff([][]string{{"f1", "f2", "v3"}}, seen.take()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}

		wantValue(t, cache, "v4")
		if diff := cmp.Diff([][]string{{"v4"}}, seen.take()); diff != "" {
			t.Errorf("calls of a Get (-want +got):\n%s", diff)
		}
	})
}

func TestEachOwnerLoadsItsPartOfABatchInOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		perNode := make([]calls, 3)
		caches := make([]*peercache.Cache[string], 3)
		for i := range caches {
			caches[i] = peercache.NewBatch("c", func(_ context.Context, keys []string) (map[string]string, time.Duration, error) {
				perNode[i].add(keys)
				time.Sleep(50 * time.Millisecond)
				vs := make(map[string]string)
				for _, key := range keys {
					vs[key] = "value of " + key
				}
				return vs, time.Minute, nil
			}, &peercache.Options{Node: c.Node(i)})
		}
		want := make(map[string]string)
		owned := make([][]string, 3)
		for i := range 60 {
			key := fmt.Sprint("key-", i)
			want[key] = "value of " + key
			for n := range owned {
				if caches[0].Owner(key) == c.Node(n).Self().URL {
					owned[n] = append(owned[n], key)
				}
			}
		}
		var wg sync.WaitGroup
		for _, cache := range caches {
			wg.Go(func() {
				got, err := cache.GetMany(t.Context(), slices.Collect(maps.Keys(want)))
				if diff := cmp.Diff(want, got); diff != "" || err != nil {
					t.Errorf("GetMany: %v (-want +got):\n%s", err, diff)
				}
			})
			synctest.Wait() // the first asks for all: the others share its flights
		}
		wg.Wait()
		for i := range owned {
			slices.Sort(owned[i])
			if diff := cmp.Diff([][]string{owned[i]}, perNode[i].take()); diff != "" {
				t.Errorf("calls at node %d (-want +got):\n%s", i, diff)
			}
		}
	})
}

func TestBatchThatFailsAsAWholeFailsEachKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mode atomic.Value
		mode.Store("panic")
		cache := peercache.NewBatch("c", func(ctx context.Context, keys []string) (map[string]string, time.Duration, error) {
			switch mode.Load() {
			case "panic":
				panic("boom")
			case "hang":
				<-ctx.Done()
				return nil, 0, ctx.Err()
			}
			return map[string]string{keys[0]: "v"}, time.Minute, nil
		}, &peercache.Options{LoadTimeout: time.Second})
		keys := []string{"a", "b", "c"}
		_, err := cache.GetMany(t.Context(), keys)
		if _, ok := errors.AsType[*peercache.PanicError](err); !ok || strings.Count(err.Error(), "boom") != 3 {
			t.Errorf("GetMany: %v, want the panic for each of 3 keys", err)
		}
		mode.Store("hang")
		if _, err := cache.GetMany(t.Context(), keys); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("GetMany: %v, want the load's timeout", err)
		}
		mode.Store("")
		if got, err := cache.GetMany(t.Context(), []string{"a"}); err != nil || got["a"] != "v" {
			t.Errorf("GetMany = %v, %v, want a's value", got, err)
		}
	})
}

func TestBatchLoadsThatWaitBecomeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen calls
		cache := peercache.NewBatch("c", func(_ context.Context, keys []string) (map[string]string, time.Duration, error) {
			seen.add(keys)
			time.Sleep(100 * time.Millisecond)
			vs := make(map[string]string)
			for _, key := range keys {
				vs[key] = "value of " + key
			}
			return vs, time.Minute, nil
		}, &peercache.Options{MaxLoads: 1})
		var wg sync.WaitGroup
		for _, key := range []string{"a", "b", "c", "d"} {
			wg.Go(func() { wantValue(t, cache, key) })
			synctest.Wait()
		}
		wg.Wait()
		if diff := cmp.Diff([][]string{{"a"}, {"b", "c", "d"}}, seen.take()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

func TestMaxLoadsBoundsCallsAndTheQueueBehindThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int32
		o := &origin{}
		cache := peercache.New("c", func(ctx context.Context, key string) (string, time.Duration, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(100 * time.Millisecond)
			return o.load(ctx, key)
		}, &peercache.Options{MaxLoads: 3})
		var values, refused atomic.Int32
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 20 { // 3 run, 12 wait, 5 are refused
			wg.Go(func() {
				_, err := cache.Get(t.Context(), fmt.Sprint("key-", i))
				switch {
				case err == nil:
					values.Add(1)
				case errors.Is(err, peercache.ErrOverloaded):
					refused.Add(1)
					if d := time.Since(start); d != 0 {
						t.Errorf("refused after %v, want at once", d)
					}
				default:
					t.Errorf("Get: %v", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d != 500*time.Millisecond {
			t.Errorf("all done after %v, want 15 loads, three at a time", d)
		}
		if values.Load() != 15 || refused.Load() != 5 || most.Load() != 3 {
			t.Errorf("%d values, %d refused, %d at once, want 15, 5, 3", values.Load(), refused.Load(), most.Load())
		}
		if s := cache.Stats(); s.Overloads != 5 || s.Loads != 15 {
			t.Errorf("Stats = %+v, want 5 overloads, 15 loads", s)
		}
		wantValue(t, cache, "key-19") // room again
	})
}

func TestLoadWaitsForItsTurnAtMostASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var calls atomic.Int32
		cache := peercache.New("c", func(context.Context, string) (string, time.Duration, error) {
			calls.Add(1)
			<-release // heeds no context: it keeps its place
			return "v", time.Minute, nil
		}, &peercache.Options{MaxLoads: 1, LoadTimeout: 500 * time.Millisecond})
		var wg sync.WaitGroup
		get := func(key string, want error, after time.Duration) {
			start := time.Now()
			wg.Go(func() {
				_, err := cache.Get(t.Context(), key)
				if d := time.Since(start); !errors.Is(err, want) || d != after {
					t.Errorf("Get(%s): %v after %v, want %v after %v", key, err, d, want, after)
				}
			})
			synctest.Wait()
		}
		get("holds the place", context.DeadlineExceeded, 500*time.Millisecond)
		get("first in the queue", peercache.ErrOverloaded, time.Second)
		time.Sleep(700 * time.Millisecond)
		get("second in the queue", peercache.ErrOverloaded, time.Second)
		wg.Wait()
		close(release)
		synctest.Wait()
		if v, err := cache.Get(t.Context(), "later"); err != nil || v != "v" {
			t.Errorf("Get once the place is free = %q, %v, want v", v, err)
		}
		if n := calls.Load(); n != 2 {
			t.Errorf("%d calls, want 2: who was refused is not loaded later", n)
		}
	})
}

func TestOverloadedOwnerIsNotBypassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		var running, most, loads atomic.Int32
		caches := cachetest.Caches(c, "c", func(context.Context, string) (string, time.Duration, error) {
			loads.Add(1)
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(3 * time.Second)
			return "v", time.Minute, nil
		}, &peercache.Options{MaxLoads: 1})
		var keys []string
		for i := 0; len(keys) < 8; i++ {
			if key := fmt.Sprint("key-", i); caches[0].Owner(key) == c.Node(1).Self().URL {
				keys = append(keys, key)
			}
		}
		var wg sync.WaitGroup
		var values, refused atomic.Int32
		for _, key := range keys { // of which one is loaded and four may wait, in vain
			for _, i := range []int{0, 2, 3} {
				wg.Go(func() {
					_, err := caches[i].Get(t.Context(), key)
					switch {
					case err == nil:
						values.Add(1)
					case errors.Is(err, peercache.ErrOverloaded):
						refused.Add(1)
						if e, ok := errors.AsType[*peercache.PeerError](err); !ok || e.Peer != c.Node(1).Self().URL {
							t.Errorf("Get: %v, want a *PeerError of the owner", err)
						}
					default:
						t.Errorf("Get: %v", err)
					}
				})
			}
		}
		wg.Wait()
		if values.Load() != 3 || refused.Load() != 21 || most.Load() != 1 || loads.Load() != 1 {
			t.Errorf("%d values, %d refused, %d loads at once of %d, want 3, 21, 1 of 1",
				values.Load(), refused.Load(), most.Load(), loads.Load())
		}
	})
}

func TestClosedCacheRunsNoLoadThatWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		cache := peercache.New("c", func(ctx context.Context, _ string) (string, time.Duration, error) {
			calls.Add(1)
			<-ctx.Done()
			return "", 0, ctx.Err()
		}, &peercache.Options{MaxLoads: 1})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				if _, err := cache.Get(t.Context(), fmt.Sprint(i)); err != peercache.ErrClosed {
					t.Errorf("Get: %v, want ErrClosed", err)
				}
			})
		}
		synctest.Wait()
		cache.Close()
		wg.Wait()
		synctest.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls of the loader, want the one that ran", n)
		}
	})
}

func TestEntriesLoadedTogetherExpireApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		cache := peercache.New("c", constant(&calls, "v", 100*time.Second), nil)
		const n = 1000
		keys := make([]string, n)
		for i := range keys {
			keys[i] = fmt.Sprint("key-", i)
		}
		if _, err := cache.GetMany(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
		held := func() int { return len(slices.Collect(cache.Keys())) }
		time.Sleep(95*time.Second - 1)
		if got := held(); got != n {
			t.Errorf("%d entries after 95 %% of their life, want all %d", got, n)
		}
		for part := 1; part < 5; part++ {
			time.Sleep(time.Second)
			if got, want := held(), n-n*part/5; got < want-n/10 || got > want+n/10 {
				t.Errorf("%d entries after %d%% of their life, want about %d", got, 95+part, want)
			}
		}
		time.Sleep(time.Second + 1)
		if got := held(); got != 0 {
			t.Errorf("%d entries after their life, want none", got)
		}
	})
}

func TestCopiesAreBoundedAndEvictedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxBytes = 256 << 10
		c := cachetest.NewCluster(t, 5)
		value := strings.Repeat("x", 1000)
		caches := cachetest.Caches(c, "c", func(context.Context, string) (string, time.Duration, error) {
			return value, time.Hour, nil
		}, &peercache.Options{MaxBytes: maxBytes, HotTTL: time.Hour})
		owned, copies := 0, 0
		for i := range 1000 {
			key := fmt.Sprint("key-", i)
			if caches[0].Owner(key) != c.Node(0).Self().URL || owned < 100 {
				if _, err := caches[0].Get(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				if caches[0].Owner(key) == c.Node(0).Self().URL {
					owned++
				}
			}
		}
		for key := range caches[0].Keys() {
			if caches[0].Owner(key) == c.Node(0).Self().URL {
				owned--
			} else {
				copies++
			}
		}
		if owned != 0 {
			t.Errorf("%d own entries gave way to copies, want none", owned)
		}
		if copies == 0 || copies*len(value) > maxBytes/8 {
			t.Errorf("%d copies of %d bytes are held, want some and at most %d bytes", copies, len(value), maxBytes/8)
		}
	})
}

func TestQueueLongerThanItsLimitTurnsAwayWhoComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{delay: 100 * time.Millisecond}
		cache := peercache.New("c", o.load, &peercache.Options{MaxLoads: 1})
		keys := make([]string, 8) // one runs, seven wait where four may: the queue was empty
		for i := range keys {
			keys[i] = fmt.Sprint("k", i)
		}
		go func() { _, _ = cache.GetMany(t.Context(), keys) }()
		synctest.Wait()
		if _, err := cache.Get(t.Context(), "late"); !errors.Is(err, peercache.ErrOverloaded) {
			t.Errorf("Get behind a queue that is too long: %v, want ErrOverloaded", err)
		}
		time.Sleep(time.Second)
		wantValue(t, cache, "late")
	})
}

// nilError is what a loader returns by mistake: a nil pointer in an error.
type nilError struct{ cause error }

func (e *nilError) Error() string { return "nil" }
func (e *nilError) Unwrap() error { return e.cause }

func TestErrorThatPanicsIsALoadersPanic(t *testing.T) {
	cache := peercache.New("c", func(context.Context, string) (string, time.Duration, error) {
		return "", 0, (*nilError)(nil)
	}, nil)
	_, err := cache.Get(t.Context(), "k")
	if _, ok := errors.AsType[*peercache.PanicError](err); !ok {
		t.Errorf("Get: %v, want a PanicError", err)
	}
}

func TestRequestsThatWaitForLoadsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound, more = 1024, 50
		c := cachetest.NewCluster(t, 2)
		var loads atomic.Int32
		caches := cachetest.Caches(c, "c", func(context.Context, string) (string, time.Duration, error) {
			loads.Add(1)
			time.Sleep(time.Second)
			return "v", time.Hour, nil
		}, &peercache.Options{MaxLoads: -1})
		var keys []string
		for i := 0; len(keys) < bound+more; i++ {
			if key := fmt.Sprint("key-", i); caches[0].Owner(key) == c.Node(1).Self().URL {
				keys = append(keys, key)
			}
		}
		var values, busy atomic.Int32
		var wg sync.WaitGroup
		for _, key := range keys {
			wg.Go(func() {
				_, err := caches[0].Get(t.Context(), key)
				switch {
				case err == nil:
					values.Add(1)
				case errors.Is(err, peercache.ErrOverloaded):
					busy.Add(1)
				default:
					t.Errorf("Get: %v", err)
				}
			})
		}
		wg.Wait()
		if values.Load() != bound || busy.Load() != more {
			t.Errorf("%d values and %d refused, want %d and %d", values.Load(), busy.Load(), bound, more)
		}
		if n := loads.Load(); n != bound {
			t.Errorf("%d loads, want none for what is refused, there or elsewhere", n)
		}
		if s := c.Node(0).Stats(); s.Tripped != 0 {
			t.Error("a node that is busy was taken for dead")
		}
	})
}

// A textlessError is an error as functions return it by mistake: a nil pointer that is
// not a nil error, and panics when its text is asked for.
type textlessError struct{ text string }

func (e *textlessError) Error() string { return e.text }

func TestErrorWithoutATextIsAnAnswerToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		var loads atomic.Int32
		caches := cachetest.Caches(c, "c", func(context.Context, string) (string, time.Duration, error) {
			loads.Add(1)
			return "", 0, (*textlessError)(nil)
		}, nil)
		_, err := caches[0].Get(t.Context(), ownedBy(t, c, caches[0], "k", 1))
		if _, ok := errors.AsType[*peercache.PeerError](err); !ok {
			t.Errorf("Get: %T, want a *PeerError", err)
		}
		if n := loads.Load(); n != 1 {
			t.Errorf("%d loads, want 1: the owner has answered", n)
		}
	})
}
