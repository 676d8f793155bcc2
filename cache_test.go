package peercache_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
)

// One process: what a cache does without a node. Clusters are in cluster_test.go.

func TestGetLoadsOnceUntilTheTTLEnds(t *testing.T) {
	for _, c := range []struct {
		name          string
		ttl, maxTTL   time.Duration
		fresh, expire time.Duration
	}{
		{"loader's ttl", time.Minute, 0, 57*time.Second - 1, time.Minute}, // up to 5 % early
		{"no ttl means MaxTTL", 0, 3 * time.Second, 2850*time.Millisecond - 1, 3 * time.Second},
		{"default MaxTTL", 0, 0, 57*time.Minute - 1, time.Hour},
		{"MaxTTL caps", time.Hour, time.Second, 950*time.Millisecond - 1, time.Second},
		{"shorter than the coarse clock's tick", time.Millisecond, 0, 950*time.Microsecond - 1, time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				cache := peercache.New("c", constant(&calls, "v", c.ttl), &peercache.Options{MaxTTL: c.maxTTL})
				start := time.Now()
				for _, step := range []struct {
					at    time.Duration
					loads int32
				}{{0, 1}, {c.fresh / 2, 1}, {c.fresh, 1}, {c.expire, 2}} {
					time.Sleep(time.Until(start.Add(step.at)))
					if v, err := cache.Get(t.Context(), "k"); err != nil || v != "v" {
						t.Fatalf("Get = %q, %v, want v", v, err)
					}
					if n := calls.Load(); n != step.loads {
						t.Errorf("after %v: %d loads, want %d", step.at, n, step.loads)
					}
				}
			})
		})
	}
}

func TestNegativeTTLIsServedAndNotKept(t *testing.T) {
	var calls atomic.Int32
	cache := peercache.New("c", constant(&calls, "v", -1), nil)
	for want := range int32(3) {
		if v, err := cache.Get(t.Context(), "k"); err != nil || v != "v" {
			t.Fatalf("Get = %q, %v, want v", v, err)
		}
		if n := calls.Load(); n != want+1 {
			t.Errorf("%d loads, want %d", n, want+1)
		}
	}
	if s := cache.Stats(); s.Entries != 0 {
		t.Errorf("%d entries, want none", s.Entries)
	}
}

func TestNotFoundIsRememberedAsLongAsSaid(t *testing.T) {
	for _, c := range []struct {
		name        string
		ttl         time.Duration
		notFoundTTL time.Duration
		remembered  time.Duration
	}{
		{"not at all by default", 0, 0, 0},
		{"as the loader says", 5 * time.Second, 0, 5 * time.Second},
		{"as the options say", 0, 7 * time.Second, 7 * time.Second},
		{"the loader before the options", time.Second, time.Minute, time.Second},
		{"a negative ttl keeps nothing", -1, time.Minute, 0},
		{"MaxTTL caps", time.Hour, 0, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				load := func(context.Context, string) (string, time.Duration, error) {
					calls.Add(1)
					return "", c.ttl, fmt.Errorf("no row: %w", peercache.ErrNotFound)
				}
				cache := peercache.New("c", load, &peercache.Options{NotFoundTTL: c.notFoundTTL, MaxTTL: time.Minute})
				get := func(want int32) {
					t.Helper()
					if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, peercache.ErrNotFound) {
						t.Errorf("Get: %v, want ErrNotFound", err)
					}
					if n := calls.Load(); n != want {
						t.Errorf("%d loads, want %d", n, want)
					}
				}
				get(1)
				if c.remembered > 0 {
					time.Sleep(c.remembered - c.remembered/20 - 1)
					get(1)
					time.Sleep(c.remembered/20 + 1)
				}
				get(2)
				if slices.Collect(cache.Keys()) != nil {
					t.Error("Keys lists a key that has no value")
				}
			})
		})
	}
}

func TestTTLLoaderRemembersNotFoundOnlyAsOptionsSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		load := peercache.TTL(time.Minute, func(context.Context, string) (string, error) {
			calls++
			return "", peercache.ErrNotFound
		})
		cache := peercache.New("c", load, nil)
		for range 2 {
			if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, peercache.ErrNotFound) {
				t.Errorf("Get: %v, want ErrNotFound", err)
			}
		}
		if calls != 2 {
			t.Errorf("%d loads, want 2", calls)
		}
	})
}

func TestErrorsOfTheLoaderAreNotKept(t *testing.T) {
	failure := errors.New("database down")
	calls := 0
	cache := peercache.New("c", func(context.Context, string) (int, time.Duration, error) {
		if calls++; calls < 3 {
			return 0, time.Minute, failure
		}
		return 42, time.Minute, nil
	}, nil)
	for range 2 {
		if _, err := cache.Get(t.Context(), "k"); err != failure {
			t.Errorf("Get: %v, want the loader's error itself", err)
		}
	}
	if v, err := cache.Get(t.Context(), "k"); err != nil || v != 42 {
		t.Errorf("Get = %d, %v, want 42", v, err)
	}
	if s := cache.Stats(); s.Loads != 3 || s.LoadErrors != 2 || s.Gets != 3 || s.Hits != 0 {
		t.Errorf("Stats = %+v, want 3 loads, 2 of them failed, 3 gets, no hit", s)
	}
}

func TestCallersShareALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		cache := peercache.New("c", func(context.Context, string) (string, time.Duration, error) {
			calls.Add(1)
			time.Sleep(time.Second)
			return "v", 0, nil
		}, nil)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if v, err := cache.Get(t.Context(), "k"); err != nil || v != "v" {
					t.Errorf("Get = %q, %v, want v", v, err)
				}
			})
		}
		wg.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d loads, want 1", n)
		}
	})
}

func TestWaiterLeavesOnItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type tag struct{}
		cache := peercache.New("c", func(ctx context.Context, _ string) (string, time.Duration, error) {
			if ctx.Value(tag{}) != "first" {
				t.Errorf("the loader's context carries %v, want the first caller's value", ctx.Value(tag{}))
			}
			time.Sleep(time.Second)
			return "v", 0, ctx.Err()
		}, nil)
		first, cancel := context.WithCancel(context.WithValue(t.Context(), tag{}, "first"))
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := cache.Get(first, "k"); err != context.Canceled {
				t.Errorf("the cancelled caller's Get: %v, want context.Canceled", err)
			}
			if d := time.Since(start); d != 100*time.Millisecond {
				t.Errorf("the cancelled caller left after %v, want 100ms", d)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if _, err := cache.Get(ctx, "k"); err != context.DeadlineExceeded {
				t.Errorf("Get with a deadline: %v, want context.DeadlineExceeded", err)
			}
			if d := time.Since(start); d != 500*time.Millisecond {
				t.Errorf("it left after %v, want 500ms", d)
			}
		})
		wg.Go(func() {
			if v, err := cache.Get(t.Context(), "k"); err != nil || v != "v" {
				t.Errorf("Get of the caller that waits = %q, %v, want v", v, err)
			}
		})
		time.Sleep(100 * time.Millisecond)
		cancel()
		wg.Wait()
	})
}

func TestEndedContextStartsNoLoad(t *testing.T) {
	var calls atomic.Int32
	cache := peercache.New("c", constant(&calls, "v", time.Minute), nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cache.Get(ended, "k"); err != context.Canceled {
		t.Errorf("Get: %v, want context.Canceled", err)
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d loads, want none", n)
	}
	if _, err := cache.Get(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if v, err := cache.Get(ended, "k"); err != nil || v != "v" {
		t.Errorf("Get of a key in memory = %q, %v, want v whatever the context", v, err)
	}
}

func TestPanicReachesCallersAndPoisonsNothing(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		name  string
		blow  func()
		value any
		is    error
	}{
		{"panic with text", func() { panic("boom") }, "boom", nil},
		{"panic with an error", func() { panic(cause) }, cause, cause},
		{"panic(nil)", func() { panic(nil) }, nil, new(runtime.PanicNilError)},
		{"Goexit", runtime.Goexit, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				blow := c.blow
				cache := peercache.New("c", func(context.Context, string) (string, time.Duration, error) {
					time.Sleep(time.Second)
					blow()
					return "v", time.Minute, nil
				}, nil)
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() {
						_, err := cache.Get(t.Context(), "k")
						panicked, ok := errors.AsType[*peercache.PanicError](err)
						if !ok {
							t.Errorf("Get: %v, want a *PanicError", err)
							return
						}
						if c.value != nil && panicked.Value != c.value {
							t.Errorf("Value = %v, want %v", panicked.Value, c.value)
						}
						if c.is == cause && !errors.Is(err, cause) {
							t.Errorf("%v does not unwrap to what was passed to panic", err)
						}
						if !strings.Contains(string(panicked.Stack), "cache_test.go") {
							t.Errorf("the stack does not show the loader:\n%s", panicked.Stack)
						}
					})
				}
				wg.Wait()
				blow = func() {}
				if v, err := cache.Get(t.Context(), "k"); err != nil || v != "v" {
					t.Errorf("the next Get = %q, %v, want v", v, err)
				}
			})
		})
	}
}

func TestLoadThatIgnoresItsContextIsAnsweredFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		cache := peercache.New("c", func(context.Context, string) (string, time.Duration, error) {
			n := calls.Add(1)
			if n == 1 {
				time.Sleep(time.Minute)
				return "late", time.Hour, nil
			}
			return "good", time.Hour, nil
		}, &peercache.Options{LoadTimeout: 3 * time.Second})
		start := time.Now()
		_, err := cache.Get(t.Context(), "k")
		if d := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || d != 3*time.Second {
			t.Errorf("Get: %v after %v, want the load's timeout after 3s", err, d)
		}
		if v, err := cache.Get(t.Context(), "k"); err != nil || v != "good" {
			t.Errorf("the next Get = %q, %v, want good", v, err)
		}
		time.Sleep(2 * time.Minute) // the first load returns, and what it brings is dropped
		if v, err := cache.Get(t.Context(), "k"); err != nil || v != "good" {
			t.Errorf("Get after the late load = %q, %v, want good", v, err)
		}
		if s := cache.Stats(); s.Loads != 2 || s.LoadErrors != 1 {
			t.Errorf("Stats = %+v, want 2 loads, 1 failed", s)
		}
	})
}

func TestLimitsAreCheckedWhereKeysAndValuesEnter(t *testing.T) {
	var calls atomic.Int32
	cache := peercache.New("c", constant(&calls, "v", time.Minute), &peercache.Options{MaxBytes: 64 << 20})
	for _, key := range []string{"", strings.Repeat("x", 1025)} {
		if _, err := cache.Get(t.Context(), key); err == nil || !strings.Contains(err.Error(), "1024") {
			t.Errorf("Get of a key of %d bytes: %v, want an error that tells the limit", len(key), err)
		}
		if err := cache.Set(t.Context(), key, "v", 0); err == nil || !strings.Contains(err.Error(), "1024") {
			t.Errorf("Set of a key of %d bytes: %v, want an error that tells the limit", len(key), err)
		}
		if err := cache.Remove(t.Context(), key); err == nil || !strings.Contains(err.Error(), "1024") {
			t.Errorf("Remove of a key of %d bytes: %v, want an error that tells the limit", len(key), err)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d loads, want none", n)
	}
	for _, key := range []string{"x", strings.Repeat("x", 1024)} {
		if _, err := cache.Get(t.Context(), key); err != nil {
			t.Errorf("Get of a key of %d bytes: %v", len(key), err)
		}
	}
	if err := cache.Set(t.Context(), "k", strings.Repeat("x", 16<<20), 0); err != nil {
		t.Errorf("Set of 16 MiB: %v", err)
	}
	if err := cache.Set(t.Context(), "k", strings.Repeat("x", 16<<20+1), 0); err == nil || !strings.Contains(err.Error(), "16777216") {
		t.Errorf("Set of 16 MiB and a byte: %v, want an error that tells the limit", err)
	}
}

func TestPeekAndKeysLookAtMemoryOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		cache := peercache.New("c", constant(&calls, "v", time.Second), nil)
		if v, ok := cache.Peek("k"); ok {
			t.Errorf("Peek of an empty cache = %q", v)
		}
		if _, err := cache.Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if v, ok := cache.Peek("k"); !ok || v != "v" {
			t.Errorf("Peek = %q, %v, want v", v, ok)
		}
		if keys := slices.Collect(cache.Keys()); !slices.Equal(keys, []string{"k"}) {
			t.Errorf("Keys = %q, want k", keys)
		}
		if s := cache.Stats(); s.Gets != 1 || s.Hits != 0 {
			t.Errorf("Stats = %+v, want Peek uncounted", s)
		}
		time.Sleep(time.Second)
		if v, ok := cache.Peek("k"); ok {
			t.Errorf("Peek of an expired entry = %q", v)
		}
		if keys := slices.Collect(cache.Keys()); keys != nil {
			t.Errorf("Keys after expiry = %q, want none", keys)
		}
	})
}

func TestClosedCacheSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		cache := peercache.New("c", func(ctx context.Context, _ string) (string, time.Duration, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return "", 0, ctx.Err()
		}, nil)
		if err := cache.Set(t.Context(), "other", "v", 0); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := cache.Get(t.Context(), "k"); err != peercache.ErrClosed {
				t.Errorf("the Get that waited: %v, want ErrClosed", err)
			}
		})
		synctest.Wait()
		cache.Close()
		cache.Close()
		wg.Wait()
		if err := <-ended; err != context.Canceled {
			t.Errorf("the loader's context ended with %v, want context.Canceled", err)
		}
		if _, err := cache.Get(t.Context(), "other"); err != peercache.ErrClosed {
			t.Errorf("Get: %v, want ErrClosed", err)
		}
		if err := cache.Set(t.Context(), "k", "v", 0); err != peercache.ErrClosed {
			t.Errorf("Set: %v, want ErrClosed", err)
		}
		if err := cache.Remove(t.Context(), "k"); err != peercache.ErrClosed {
			t.Errorf("Remove: %v, want ErrClosed", err)
		}
		if _, err := cache.GetMany(t.Context(), []string{"k"}); !errors.Is(err, peercache.ErrClosed) {
			t.Errorf("GetMany: %v, want ErrClosed", err)
		}
		if s := cache.Stats(); s.Entries != 0 || s.Bytes != 0 {
			t.Errorf("Stats = %+v, want no memory held", s)
		}
	})
}

func TestMisusePanics(t *testing.T) {
	load := func(context.Context, string) (string, time.Duration, error) { return "", 0, nil }
	for name, misuse := range map[string]func(){
		"nil loader":      func() { peercache.New[string]("c", nil, nil) },
		"nil TTL loader":  func() { peercache.TTL[string](time.Second, nil) },
		"empty name":      func() { peercache.New("", load, nil) },
		"long name":       func() { peercache.New(strings.Repeat("x", 65), load, nil) },
		"slash in name":   func() { peercache.New("a/b", load, nil) },
		"newline in name": func() { peercache.New("a\n", load, nil) },
		"half a codec":    func() { peercache.New("c", load, &peercache.Options{Codec: peercache.Codec{Marshal: json.Marshal}}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			misuse()
		}()
	}
	peercache.New(strings.Repeat("x", 64), load, nil)
	peercache.New("A-z_0.9", load, nil)
}

func TestNegativeMaxBytesKeepsNothing(t *testing.T) {
	var calls atomic.Int32
	cache := peercache.New("c", constant(&calls, "v", time.Minute), &peercache.Options{MaxBytes: -1})
	for range 2 {
		if v, err := cache.Get(t.Context(), "k"); err != nil || v != "v" {
			t.Errorf("Get = %q, %v, want v", v, err)
		}
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("%d loads, want 2", n)
	}
}

func TestStoreAgreesWithAPlainMap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	synctest.Test(t, func(t *testing.T) {
		const ttl = 10 * time.Second
		version := map[string]int{} // the origin
		cache := peercache.New("c", func(_ context.Context, key string) (int, time.Duration, error) {
			if version[key] == 0 {
				return 0, ttl, peercache.ErrNotFound
			}
			return version[key], ttl, nil
		}, nil)
		type entry struct {
			v    int
			end  time.Time // not later, and at most a twentieth of life earlier
			life time.Duration
		}
		model := map[string]entry{}
		keys := []string{"a", "b", "c", "d", "e"}
		for range 5000 {
			key := keys[rng.IntN(len(keys))]
			switch rng.IntN(5) {
			case 0:
				time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
			case 1:
				version[key] = rng.IntN(3)
			case 2:
				if err := cache.Remove(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				delete(model, key)
			case 3:
				v, d := rng.IntN(100)+10, time.Duration(1+rng.IntN(20_000))*time.Millisecond
				if err := cache.Set(t.Context(), key, v, d); err != nil {
					t.Fatal(err)
				}
				model[key] = entry{v, time.Now().Add(d), d}
			default:
				before := cache.Stats().Loads
				v, err := cache.Get(t.Context(), key)
				if errors.Is(err, peercache.ErrNotFound) {
					v, err = 0, nil
				}
				if err != nil {
					t.Fatalf("Get(%s): %v", key, err)
				}
				e, held := model[key]
				loaded := cache.Stats().Loads > before
				switch left := time.Until(e.end); {
				case loaded && held && left > e.life/20:
					t.Fatalf("Get(%s) was a load, %v before the end of a life of %v", key, left, e.life)
				case !loaded && (!held || left <= 0):
					t.Fatalf("Get(%s) was no load", key)
				case loaded:
					e = entry{version[key], time.Now().Add(ttl), ttl}
					model[key] = e
				}
				if v != e.v {
					t.Fatalf("Get(%s) = %d, want %d", key, v, e.v)
				}
			}
		}
		held := maps.Collect(func(yield func(string, bool) bool) {
			for key := range cache.Keys() {
				if !yield(key, true) {
					return
				}
			}
		})
		for key, e := range model {
			if left := time.Until(e.end); held[key] && (e.v == 0 || left <= 0) || !held[key] && e.v != 0 && left > e.life/20 {
				t.Errorf("Keys lists %s: %v, which has %v left", key, held[key], left)
			}
		}
	})
}
