package peercache_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
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

// Many processes: what caches do together, on clusters in memory.

// origin is a loader that records what it loaded and where, for any number of
// caches.
type origin struct {
	delay time.Duration

	mu    sync.Mutex
	loads map[string]int
	fail  error
}

func (o *origin) load(_ context.Context, key string) (string, time.Duration, error) {
	o.mu.Lock()
	if o.loads == nil {
		o.loads = make(map[string]int)
	}
	o.loads[key]++
	err := o.fail
	o.mu.Unlock()
	time.Sleep(o.delay)
	return "value of " + key, time.Hour, err
}

func (o *origin) of(key string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loads[key]
}

// ownedBy returns a key, with this prefix, that a node owns by another's view.
func ownedBy[V any](t *testing.T, c *cachetest.Cluster, cache *peercache.Cache[V], prefix string, node int) string {
	t.Helper()
	url := c.Node(node).Self().URL
	for i := range 10_000 {
		if key := fmt.Sprint(prefix, i); cache.Owner(key) == url {
			return key
		}
	}
	t.Fatalf("no key of %s within 10,000", url)
	return ""
}

func wantValue(t *testing.T, cache *peercache.Cache[string], key string) {
	t.Helper()
	if v, err := cache.Get(t.Context(), key); err != nil || v != "value of "+key {
		t.Errorf("Get(%.40q) = %.60q, %v, want its value", key, v, err)
	}
}

func TestOneColdKeyIsLoadedOnceForAllCallersInAllProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		o := &origin{delay: 200 * time.Millisecond}
		caches := cachetest.Caches(c, "c", o.load, nil)
		var wg sync.WaitGroup
		for _, cache := range caches {
			for range 2000 {
				wg.Go(func() { wantValue(t, cache, "cold") })
			}
		}
		wg.Wait()
		if n := o.of("cold"); n != 1 {
			t.Errorf("%d loads for 5 processes of 2,000 callers, want 1", n)
		}
		var s peercache.Stats
		for _, cache := range caches {
			s.PeerGets += cache.Stats().PeerGets
			s.Served += cache.Stats().Served
		}
		if s.PeerGets != 4 || s.Served != 4 {
			t.Errorf("%d fetches sent and %d served, want one for each process that is not the owner", s.PeerGets, s.Served)
		}
	})
}

func TestCancelOfTheFirstCallerHurtsNobodyElse(t *testing.T) {
	for _, owner := range []int{0, 1} { // the load runs here, or on a peer
		synctest.Test(t, func(t *testing.T) {
			c := cachetest.NewCluster(t, 2)
			o := &origin{delay: time.Second}
			caches := cachetest.Caches(c, "c", o.load, nil)
			key := ownedBy(t, c, caches[0], "k", owner)
			first, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			var canceled, values atomic.Int32
			for i := range 1000 {
				ctx := t.Context()
				if i == 0 {
					ctx = first
				}
				wg.Go(func() {
					v, err := caches[0].Get(ctx, key)
					switch {
					case err == nil && v == "value of "+key:
						values.Add(1)
					case errors.Is(err, context.Canceled):
						canceled.Add(1)
					default:
						t.Errorf("Get = %q, %v", v, err)
					}
				})
				if i == 0 {
					synctest.Wait()
				}
			}
			time.Sleep(500 * time.Millisecond)
			cancel()
			wg.Wait()
			if values.Load() != 999 || canceled.Load() != 1 || o.of(key) != 1 {
				t.Errorf("%d values, %d canceled, %d loads, want 999, 1, 1", values.Load(), canceled.Load(), o.of(key))
			}
		})
	}
}

func TestBadLoadersHurtOnlyTheirOwnKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		failure := errors.New("the disk is on fire")
		stop := make(chan struct{})
		caches := cachetest.Caches(c, "c", func(ctx context.Context, key string) (string, time.Duration, error) {
			time.Sleep(10 * time.Millisecond)
			switch kind, _, _ := strings.Cut(key, "-"); kind {
			case "panic":
				panic("boom " + key)
			case "goexit":
				runtime.Goexit()
			case "hang": // heeds its context
				<-ctx.Done()
				return "", 0, ctx.Err()
			case "wedge": // does not
				<-stop
			case "fail":
				return "", 0, fmt.Errorf("load %s: %w", key, failure)
			}
			return "value of " + key, time.Hour, nil
		}, &peercache.Options{LoadTimeout: 5 * time.Second})
		defer close(stop)

		var wg sync.WaitGroup
		for i, cache := range caches {
			for n := range 30 {
				for _, kind := range []string{"good", "panic", "goexit", "hang", "wedge", "fail"} {
					key := fmt.Sprint(kind, "-", n)
					wg.Go(func() {
						start := time.Now()
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n+1)*time.Second)
						defer cancel()
						v, err := cache.Get(ctx, key)
						took := time.Since(start)
						local := cache.Owner(key) == c.Node(i).Self().URL
						if remote, ok := errors.AsType[*peercache.PeerError](err); ok == local && err != nil && ctx.Err() == nil ||
							ok && (remote.Peer != cache.Owner(key) || remote.Key != key) {
							t.Errorf("Get(%s) with owner %s: %v", key, cache.Owner(key), err)
						}
						switch kind {
						case "good":
							if err != nil || v != "value of "+key || took > 20*time.Millisecond {
								t.Errorf("Get(%s) = %q, %v after %v, want its value after 10ms", key, v, err, took)
							}
						case "panic", "goexit":
							p, ok := errors.AsType[*peercache.PanicError](err)
							if !ok || local != (p.Stack != nil) || kind == "panic" && fmt.Sprint(p.Value) != "boom "+key {
								t.Errorf("Get(%s): %v, want a *PanicError", key, err)
							}
						case "hang", "wedge":
							want := min(time.Duration(n+1)*time.Second, 5*time.Second+10*time.Millisecond)
							if !errors.Is(err, context.DeadlineExceeded) || took > want+10*time.Millisecond {
								t.Errorf("Get(%s): %v after %v, want context.DeadlineExceeded after %v", key, err, took, want)
							}
						case "fail":
							if err == nil || !strings.Contains(err.Error(), failure.Error()) || local != errors.Is(err, failure) {
								t.Errorf("Get(%s): %v, want the loader's error", key, err)
							}
						}
					})
				}
			}
		}
		wg.Wait()
	})
}

func TestLoadersErrorsTravelAndAreNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		for name, failure := range map[string]error{
			"text":       errors.New("row locked"),
			"overloaded": fmt.Errorf("too many queries: %w", peercache.ErrOverloaded),
			"not found":  fmt.Errorf("no row: %w", peercache.ErrNotFound),
		} {
			o := &origin{fail: failure, delay: 100 * time.Millisecond}
			caches := cachetest.Caches(c, strings.ReplaceAll(name, " ", "-"), func(ctx context.Context, key string) (string, time.Duration, error) {
				v, _, err := o.load(ctx, key)
				return v, 0, err
			}, nil)
			var wg sync.WaitGroup
			for _, cache := range caches {
				wg.Go(func() {
					_, err := cache.Get(t.Context(), "k")
					if err == nil || !strings.Contains(err.Error(), failure.Error()) {
						t.Errorf("%s: Get: %v, want %v", name, err, failure)
					}
					for _, sentinel := range []error{peercache.ErrOverloaded, peercache.ErrNotFound} {
						if errors.Is(err, sentinel) != errors.Is(failure, sentinel) {
							t.Errorf("%s: errors.Is(%v, %v) = %v", name, err, sentinel, errors.Is(err, sentinel))
						}
					}
				})
			}
			wg.Wait()
			if n := o.of("k"); n != 1 {
				t.Errorf("%s: %d loads of a key that fails, want 1", name, n)
			}
		}
	})
}

// Two camps that each take the other for the owner: by weights that differ, each
// node's ring gives nearly all keys to the other camp.
func TestDisagreeingRingsNeitherHangNorLoadTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, caches, o := disagreeing(t)
		ownedByOther := 0
		var wg sync.WaitGroup
		for i := range 10_000 {
			key := fmt.Sprint("key-", i%1000)
			cache := caches[i%2]
			if cache.Owner(key) != nodes[i%2].Self().URL {
				ownedByOther++
			}
			wg.Go(func() {
				start := time.Now()
				wantValue(t, cache, key)
				if d := time.Since(start); d > o.delay+50*time.Millisecond {
					t.Errorf("Get(%s) took %v", key, d)
				}
			})
			if i%500 == 0 {
				time.Sleep(20 * time.Millisecond)
			}
		}
		wg.Wait()
		if ownedByOther < 9000 {
			t.Errorf("only %d of 10,000 Gets went to the other node: the rings agree", ownedByOther)
		}
		for i := range 1000 {
			if n := o.of(fmt.Sprint("key-", i)); n > 2 {
				t.Errorf("key-%d was loaded %d times, want at most 2", i, n)
			}
		}
	})
}

// disagreeing returns two nodes that each give the other nearly all keys.
func disagreeing(t *testing.T) ([]*peercache.Node, []*peercache.Cache[string], *origin) {
	t.Helper()
	c := newBareNodes(t, 2)
	for i, n := range c.nodes {
		weights := []int{100, 100}
		weights[i] = 1
		err := n.SetPeers(peercache.Peer{URL: c.nodes[0].Self().URL, Weight: weights[0]}, peercache.Peer{URL: c.nodes[1].Self().URL, Weight: weights[1]})
		if err != nil {
			t.Fatal(err)
		}
	}
	o := &origin{delay: 50 * time.Millisecond}
	caches := []*peercache.Cache[string]{
		peercache.New("c", o.load, &peercache.Options{Node: c.nodes[0]}),
		peercache.New("c", o.load, &peercache.Options{Node: c.nodes[1]}),
	}
	return c.nodes, caches, o
}

func TestNextOwnerActsForAllWhenTheOwnerIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		o := &origin{delay: 100 * time.Millisecond}
		caches := cachetest.Caches(c, "c", o.load, nil)
		key := ownedBy(t, c, caches[1], "k", 0)
		c.Kill(0)
		start := time.Now() // gossip needs seconds to notice
		var wg sync.WaitGroup
		for _, cache := range caches[1:] {
			for range 10 {
				wg.Go(func() { wantValue(t, cache, key) })
			}
		}
		wg.Wait()
		if d := time.Since(start); d > time.Second {
			t.Errorf("all had the value after %v, want no wait for gossip", d)
		}
		if n := o.of(key); n != 1 {
			t.Errorf("%d loads in the whole cluster, want 1", n)
		}
		c.Converge()
		for _, cache := range caches[1:] {
			wantValue(t, cache, key)
		}
		if n := o.of(key); n != 1 {
			t.Errorf("%d loads after gossip noticed, want still 1: the new owner is who acted", n)
		}
	})
}

func TestSilentOwnerIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		o := &origin{delay: 100 * time.Millisecond}
		caches := cachetest.Caches(c, "c", o.load, nil)
		key := ownedBy(t, c, caches[1], "k", 0)
		c.Pause(0)
		start := time.Now()
		var wg sync.WaitGroup
		for _, cache := range caches[1:] {
			wg.Go(func() { wantValue(t, cache, key) })
		}
		wg.Wait()
		if d := time.Since(start); d > 700*time.Millisecond {
			t.Errorf("all had the value after %v, want the silence of 300ms and a load", d)
		}
		if n := o.of(key); n != 1 {
			t.Errorf("%d loads, want 1", n)
		}
		c.Resume(0)
	})
}

func TestSlowOwnerIsNotTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{delay: 8 * time.Second}
		caches := cachetest.Caches(c, "c", o.load, nil)
		key := ownedBy(t, c, caches[1], "k", 0)
		c.Delay(0, 20*time.Millisecond)
		wantValue(t, caches[1], key)
		if n := o.of(key); n != 1 {
			t.Errorf("%d loads, want 1: the owner was heard from all the time", n)
		}
	})
}

func TestLoadWithoutAnyOwnerIsKeptOnlyAsACopy(t *testing.T) {
	for _, c := range []struct {
		name   string
		hotTTL time.Duration
		life   time.Duration
	}{
		{"default", 0, 10 * time.Second},
		{"HotTTL", 3 * time.Second, 3 * time.Second},
		{"no copies", -1, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := cachetest.NewCluster(t, 6)
				o := &origin{}
				caches := cachetest.Caches(cluster, "c", o.load, &peercache.Options{HotTTL: c.hotTTL})
				// A key that node 0 may not act for: the last two owners are alive.
				key, owners := keyOf(t, cluster, caches[0])
				for _, i := range owners {
					cluster.Pause(i)
				}
				wantValue(t, caches[0], key)
				time.Sleep(c.life - time.Millisecond)
				if _, ok := caches[0].Peek(key); !ok {
					t.Errorf("the value is gone before %v", c.life)
				}
				time.Sleep(time.Millisecond)
				if _, ok := caches[0].Peek(key); ok {
					t.Errorf("the value is still there after %v", c.life)
				}
			})
		})
	}
}

// keyOf returns a key of which node 0 is none of the first three owners, and the
// first two. They are found by asking: whoever answers for it while it is loaded
// may act.
func keyOf(t *testing.T, c *cachetest.Cluster, cache *peercache.Cache[string]) (string, []int) {
	t.Helper()
	urls := make([]string, c.Len())
	for i := range urls {
		urls[i] = c.Node(i).Self().URL
	}
	for i := range 1000 {
		key := fmt.Sprint("orphan-", i)
		owners := peercache.OwnersOf(cache, key, 3)
		if slices.Contains(owners, urls[0]) {
			continue
		}
		return key, []int{slices.Index(urls, owners[0]), slices.Index(urls, owners[1])}
	}
	t.Fatal("no such key")
	return "", nil
}

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

func TestGetManySendsOneRequestToEachOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 3)
		c.setPeers()
		o := &origin{delay: 10 * time.Millisecond}
		caches := bareCaches(c, "c", o.load, nil)
		var keys []string
		want := make(map[string]string)
		for i := range 900 {
			key := fmt.Sprint("key-", i)
			keys = append(keys, key)
			want[key] = "value of " + key
		}
		start := time.Now()
		got, err := caches[0].GetMany(t.Context(), keys)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("GetMany: %d values, %v, want %d", len(got), err, len(want))
		}
		if d := time.Since(start); d > 50*time.Millisecond {
			t.Errorf("GetMany took %v, want the loads to run beside each other", d)
		}
		if n := c.requests.Load(); n != 2 {
			t.Errorf("%d requests, want one to each of the two other owners", n)
		}
		for _, key := range keys {
			if n := o.of(key); n != 1 {
				t.Errorf("%d loads of %s, want 1", n, key)
			}
		}
	})
}

func TestGetManySplitsWhatAFrameCannotHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 2)
		c.setPeers()
		caches := bareCaches(c, "c", (&origin{}).load, nil)
		keys := make([]string, 6000)
		for i := range keys {
			keys[i] = fmt.Sprint("key-", i)
		}
		got, err := caches[0].GetMany(t.Context(), keys)
		if err != nil || len(got) != len(keys) {
			t.Errorf("GetMany: %d values, %v, want %d", len(got), err, len(keys))
		}
		if n := c.requests.Load(); n != 3 {
			t.Errorf("%d requests for some 3,000 keys, want 3", n)
		}
	})
}

func TestGetManySharesFlightsWithGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{delay: 100 * time.Millisecond}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		var wg sync.WaitGroup
		for _, cache := range caches {
			for range 5 {
				wg.Go(func() {
					if got, err := cache.GetMany(t.Context(), keys); err != nil || len(got) != len(keys) {
						t.Errorf("GetMany: %d values, %v, want %d", len(got), err, len(keys))
					}
				})
				for _, key := range keys {
					wg.Go(func() { wantValue(t, cache, key) })
				}
			}
		}
		wg.Wait()
		for _, key := range keys {
			if n := o.of(key); n != 1 {
				t.Errorf("%d loads of %s, want 1", n, key)
			}
		}
	})
}

func TestGetManyGoesOnWhenAnOwnerIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, nil)
		c.Kill(2)
		keys := make([]string, 400)
		for i := range keys {
			keys[i] = fmt.Sprint("key-", i)
		}
		for i, cache := range caches {
			if i == 2 {
				continue
			}
			got, err := cache.GetMany(t.Context(), keys)
			if err != nil || len(got) != len(keys) {
				t.Errorf("GetMany: %d values, %v, want %d", len(got), err, len(keys))
			}
		}
		for _, key := range keys {
			if n := o.of(key); n != 1 {
				t.Errorf("%d loads of %s, want 1", n, key)
			}
		}
	})
}

func TestGetManyNamesKeyAndPeerOfWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{fail: errors.New("no")}
		caches := cachetest.Caches(c, "c", o.load, nil)
		keys := []string{"a", "b", "c", "d", "e", "f"}
		got, err := caches[0].GetMany(t.Context(), keys)
		if len(got) != 0 {
			t.Errorf("GetMany = %v, want nothing", got)
		}
		failed := make(map[string]string)
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			e := err.(*peercache.PeerError)
			failed[e.Key] = e.Peer
		}
		want := make(map[string]string)
		for _, key := range keys {
			want[key] = caches[0].Owner(key)
		}
		if diff := cmp.Diff(want, failed); diff != "" {
			t.Errorf("peers of failed keys (-want +got):\n%s", diff)
		}
	})
}

func TestTypedValuesAreDecodedOncePerProcessAndAlikeEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		var marshals, unmarshals atomic.Int32
		caches := cachetest.Caches(c, "c", func(_ context.Context, key string) (*user, time.Duration, error) {
			return &user{Name: key, Tags: []string{"x"}, lost: 7}, time.Hour, nil
		}, &peercache.Options{Codec: countingJSON(&marshals, &unmarshals), HotTTL: time.Hour})
		key := ownedBy(t, c, caches[0], "k", 2)
		for i, cache := range caches { // the owner is the last to read
			first, err := cache.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if first.Name != key || first.lost != 0 {
				t.Errorf("node %d: Get = %+v, want what the codec keeps of it", i, first)
			}
			for range 3 {
				if again, err := cache.Get(t.Context(), key); err != nil || again != first {
					t.Errorf("node %d: Get = %p, %v, want the shared %p", i, again, err, first)
				}
			}
			if u := unmarshals.Load(); u != int32(i)+1 {
				t.Errorf("decoded %d times in %d processes, want once in each", u, i+1)
			}
			if held := cache.Stats().Bytes; held < int64(2*len(`{"Name":"k0","Tags":["x"]}`)) {
				t.Errorf("node %d holds %d bytes, want the decoded value charged too", i, held)
			}
		}
		if m := marshals.Load(); m != 1 {
			t.Errorf("encoded %d times, want 1", m)
		}
	})
}

func TestBytesThatCannotBeDecodedMakeTheOwnerUnusable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 2)
		c.setPeers()
		load := func(context.Context, string) (user, time.Duration, error) {
			return user{Name: "gopher"}, time.Hour, nil
		}
		xml := peercache.Codec{
			Marshal:   func(any) ([]byte, error) { return []byte("<user>"), nil },
			Unmarshal: func(data []byte, _ any) error { panic("no xml here: " + string(data)) },
		}
		a := peercache.New("c", load, &peercache.Options{Node: c.nodes[0]})
		peercache.New("c", load, &peercache.Options{Node: c.nodes[1], Codec: xml})
		var key string
		for i := 0; key == "" || a.Owner(key) != c.nodes[1].Self().URL; i++ {
			key = fmt.Sprint("k", i)
		}
		if u, err := a.Get(t.Context(), key); err != nil || u.Name != "gopher" {
			t.Errorf("Get = %+v, %v, want a load of its own", u, err)
		}
		if s := a.Stats(); s.Loads != 1 || s.PeerErrors != 1 {
			t.Errorf("Stats = %+v, want 1 load and 1 peer that failed", s)
		}
	})
}

func TestUnknownCacheOnAPeerIsNoPanicAndNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 2)
		c.setPeers()
		o := &origin{}
		cache := peercache.New("only-here", o.load, &peercache.Options{Node: c.nodes[0]})
		for i := range 20 {
			wantValue(t, cache, fmt.Sprint("key-", i))
		}
		if err := cache.Remove(t.Context(), "key-1"); err != nil {
			t.Errorf("Remove: %v, want nil: who does not have the cache holds nothing", err)
		}
		if err := cache.Set(t.Context(), "key-2", "set", 0); err != nil {
			t.Errorf("Set: %v", err)
		}
	})
}

func TestAnotherClusterIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 2, "blue", "green")
		c.setPeers()
		o := &origin{}
		caches := bareCaches(c, "c", o.load, nil)
		for i := range 20 {
			wantValue(t, caches[0], fmt.Sprint("key-", i))
		}
		if s := caches[1].Stats(); s.Served != 0 || s.Loads != 0 {
			t.Errorf("the other cluster's node: %+v, want nothing served", s)
		}
	})
}

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
				for range 200 {
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
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		caches := cachetest.Caches(c, "c", (&origin{}).load, nil)
		key := ownedBy(t, c, caches[0], "k", 1)
		for _, cache := range caches {
			wantValue(t, cache, key)
		}
		c.Pause(2)
		defer c.Resume(2)
		for name, change := range map[string]func(context.Context) error{
			"Remove": func(ctx context.Context) error { return caches[0].Remove(ctx, key) },
			"Set":    func(ctx context.Context) error { return caches[0].Set(ctx, key, "value of "+key, 0) },
		} {
			start := time.Now()
			err := change(t.Context())
			partial, ok := errors.AsType[*peercache.PartialError](err)
			if !ok || !errors.Is(err, peercache.ErrPartial) {
				t.Fatalf("%s: %v, want a *PartialError", name, err)
			}
			if d := time.Since(start); d > 2100*time.Millisecond {
				t.Errorf("%s returned after %v, want at most 2.1s", name, d)
			}
			paused := c.Node(2).Self().URL
			if got := slices.Collect(maps.Keys(partial.Peers)); !slices.Equal(got, []string{paused}) || partial.Peers[paused] == nil {
				t.Errorf("%s: unconfirmed %v, want %s alone", name, partial.Peers, paused)
			}
			for _, i := range []int{0, 3} {
				if v, ok := caches[i].Peek(key); ok {
					t.Errorf("node %d holds %q after %s", i, v, name)
				}
			}

			ended, cancel := context.WithCancel(t.Context())
			cancel()
			wantValue(t, caches[3], key)
			start = time.Now()
			err = change(ended)
			if d := time.Since(start); d != 0 || !errors.Is(err, peercache.ErrPartial) || !errors.Is(err, context.Canceled) {
				t.Errorf("%s with an ended context: %v after %v, want ErrPartial at once", name, err, d)
			}
			time.Sleep(2 * time.Second)
			if v, ok := caches[3].Peek(key); ok {
				t.Errorf("node 3 holds %q: %s with an ended context must be sent all the same", v, name)
			}
		}
	})
}

func TestEntriesThatMovedBecomeCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 1)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, nil)
		keys := make([]string, 200)
		for i := range keys {
			keys[i] = fmt.Sprint("key-", i)
			wantValue(t, caches[0], keys[i])
		}
		for range 5 {
			c.Add()
		}
		c.Converge()
		time.Sleep(2 * time.Minute) // past the grace of the ring in which node 0 was alone
		for _, key := range keys {
			wantValue(t, caches[0], key) // turns what may no longer be acted for into a copy
		}
		time.Sleep(10 * time.Second)
		held := 0
		for _, key := range keys {
			if _, ok := caches[0].Peek(key); ok {
				held++
				if !slices.Contains(peercache.OwnersOf(caches[0], key, 3), c.Node(0).Self().URL) {
					t.Errorf("%s is held for longer than HotTTL by a node that may not act for it", key)
				}
			}
		}
		if held == 0 || held == len(keys) {
			t.Errorf("%d of %d entries are held, want those that node 0 may act for", held, len(keys))
		}
	})
}

func TestCachesGoOnAloneAfterLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, nil)
		key := ownedBy(t, c, caches[0], "k", 0)
		other := ownedBy(t, c, caches[0], "k", 1)
		wantValue(t, caches[0], key)
		if err := c.Node(0).Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := caches[0].Owner(other); got != c.Node(0).Self().URL {
			t.Errorf("Owner after Leave = %s, want the node itself", got)
		}
		wantValue(t, caches[0], other)
		if s := caches[0].Stats(); s.PeerGets != 0 {
			t.Errorf("%d requests to peers after Leave, want none", s.PeerGets)
		}
		time.Sleep(10 * time.Second)
		for _, k := range []string{key, other} {
			if _, ok := caches[0].Peek(k); ok {
				t.Errorf("%s is held for longer than HotTTL after Leave", k)
			}
		}
		if err := caches[0].Set(t.Context(), key, "set", 0); err != nil {
			t.Errorf("Set after Leave: %v", err)
		}
		if err := caches[0].Remove(t.Context(), key); err != nil {
			t.Errorf("Remove after Leave: %v", err)
		}
		c.Converge()
		for _, cache := range caches[1:] {
			wantValue(t, cache, key)
		}
	})
}

func TestKilledNodesCachesRunOnCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, nil)
		c.Kill(0)
		for i := range 20 {
			wantValue(t, caches[0], fmt.Sprint("key-", i))
		}
	})
}

func discardLogger() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

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

func TestKeysOfADeadOwnerDoNotWaitForSlowLoadsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		caches := cachetest.Caches(c, "c", func(_ context.Context, key string) (string, time.Duration, error) {
			if key[0] == 's' {
				time.Sleep(5 * time.Second)
			}
			return "value of " + key, time.Hour, nil
		}, nil)
		slow := ownedBy(t, c, caches[0], "slow-", 1)
		quick := ownedBy(t, c, caches[0], "quick-", 2)
		c.Kill(2)
		var wg sync.WaitGroup
		wg.Go(func() {
			got, err := caches[0].GetMany(t.Context(), []string{slow, quick})
			if err != nil || len(got) != 2 {
				t.Errorf("GetMany = %v, %v, want both values", got, err)
			}
		})
		synctest.Wait()
		start := time.Now()
		wantValue(t, caches[0], quick) // shares the flight
		if d := time.Since(start); d > time.Second {
			t.Errorf("a key of a dead owner took %v, as long as a load it has nothing to do with", d)
		}
		wg.Wait()
	})
}
