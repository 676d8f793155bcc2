package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

// total returns the number of loads.
func (o *origin) total() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, loads := range o.loads {
		n += loads
	}
	return n
}

func (o *origin) of(key string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loads[key]
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

// joinedByFive returns a cluster of which node 0 was alone when it loaded these keys.
func joinedByFive(t *testing.T) (*cachetest.Cluster, []*peercache.Cache[string], []string) {
	t.Helper()
	c := cachetest.NewCluster(t, 1)
	caches := cachetest.Caches(c, "c", (&origin{}).load, nil)
	keys := make([]string, 200)
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
		wantValue(t, caches[0], keys[i])
	}
	for range 5 {
		c.Add()
	}
	c.Converge()
	return c, caches, keys
}

func TestEntriesThatMovedBecomeCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, caches, keys := joinedByFive(t)
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
