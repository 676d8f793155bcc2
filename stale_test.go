package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// StaleFor: values past their life.

// versions is a loader of a number that grows with each load, slow or failing as
// the test says.
type versions struct {
	delay   time.Duration
	failing atomic.Bool
	loads   atomic.Int32
}

var errDown = errors.New("origin down")

func (o *versions) load(context.Context, string) (int32, time.Duration, error) {
	n := o.loads.Add(1)
	time.Sleep(o.delay)
	if o.failing.Load() {
		return 0, 0, errDown
	}
	return n, 10 * time.Second, nil
}

func wantVersion(t *testing.T, cache *peercache.Cache[int32], want int32) {
	t.Helper()
	if v, err := cache.Get(t.Context(), "k"); err != nil || v != want {
		t.Errorf("Get = %d, %v, want version %d", v, err, want)
	}
}

func TestStaleValueIsServedWhileOneLoadReplacesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &versions{delay: time.Second}
		cache := peercache.New("c", o.load, &peercache.Options{StaleFor: time.Minute})
		wantVersion(t, cache, 1)
		time.Sleep(10 * time.Second)
		start := time.Now()
		for range 100 {
			wantVersion(t, cache, 1)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("stale Gets waited %v", d)
		}
		if _, ok := cache.Peek("k"); ok {
			t.Error("Peek shows a stale value")
		}
		time.Sleep(time.Second + 1)
		wantVersion(t, cache, 2)
		if n := o.loads.Load(); n != 2 {
			t.Errorf("%d loads, want one to replace the value", n-1)
		}
		if s := cache.Stats(); s.StaleHits != 100 {
			t.Errorf("%d stale hits, want 100", s.StaleHits)
		}
		time.Sleep(10*time.Second + time.Minute)
		wantVersion(t, cache, 3) // too old even for StaleFor: a load to wait for
	})
}

func TestStaleValueIsServedWhileLoadsFailAndRetriesAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &versions{}
		cache := peercache.New("c", o.load, &peercache.Options{StaleFor: time.Minute})
		wantVersion(t, cache, 1)
		time.Sleep(10 * time.Second)
		o.failing.Store(true)
		for range 300 { // 30 s, a Get each 0.1 s
			wantVersion(t, cache, 1)
			time.Sleep(100 * time.Millisecond)
		}
		// 0.1 doubling to 5 s within 30 s: six pauses of 6.3 s in all, then one in 5 s.
		if n := o.loads.Load() - 1; n < 9 || n > 15 {
			t.Errorf("%d loads failed in 30 s, want about 11", n)
		}
		o.failing.Store(false)
		time.Sleep(5 * time.Second)
		wantVersion(t, cache, 1) // has it replaced
		synctest.Wait()
		wantVersion(t, cache, o.loads.Load())
		if v, _ := cache.Peek("k"); v == 1 {
			t.Error("5 s after the origin is well the value is stale still")
		}
	})
}

func TestRemovedValueNeverComesBackStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &versions{delay: time.Second}
		cache := peercache.New("c", o.load, &peercache.Options{StaleFor: time.Hour})
		wantVersion(t, cache, 1)
		time.Sleep(10 * time.Second)
		wantVersion(t, cache, 1) // stale; a load begins
		synctest.Wait()
		o.failing.Store(true)
		if err := cache.Remove(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if v, err := cache.Get(t.Context(), "k"); !errors.Is(err, errDown) {
				t.Errorf("Get after Remove = %d, %v, want the loader's error", v, err)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestOriginThatSaysOtherwiseEndsAStaleValue(t *testing.T) {
	for _, c := range []struct {
		name string
		ttl  time.Duration
		err  error
	}{
		{"not found", 0, peercache.ErrNotFound},
		{"not to be kept", -1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				cache := peercache.New("c", func(context.Context, string) (string, time.Duration, error) {
					if calls.Add(1) == 1 {
						return "old", time.Second, nil
					}
					return "new", c.ttl, c.err
				}, &peercache.Options{StaleFor: time.Hour})
				get := func(want string, wantErr error) {
					t.Helper()
					if v, err := cache.Get(t.Context(), "k"); v != want || !errors.Is(err, wantErr) {
						t.Errorf("Get = %q, %v, want %q, %v", v, err, want, wantErr)
					}
					synctest.Wait()
				}
				get("old", nil)
				time.Sleep(time.Second)
				get("old", nil)
				if c.err != nil {
					get("", c.err)
				} else {
					get("new", nil)
				}
			})
		})
	}
}

func TestStaleValuesOfACluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		o := &versions{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{StaleFor: time.Hour})
		owner := -1
		for i := range caches {
			if caches[0].Owner("k") == c.Node(i).Self().URL {
				owner = i
			}
		}
		for _, cache := range caches {
			wantVersion(t, cache, 1)
		}
		o.failing.Store(true)
		time.Sleep(10 * time.Second)
		for i, cache := range caches { // everyone gets it, from the owner's memory
			wantVersion(t, cache, 1)
			if v, ok := cache.Peek("k"); ok {
				t.Errorf("node %d keeps the stale value %d, which has no life", i, v)
			}
		}
		for i, cache := range caches {
			if s := cache.Stats(); i != owner && s.StaleHits != 0 {
				t.Errorf("node %d served its copy past its end", i)
			}
		}
		synctest.Wait() // for the load in the background, which is to fail
		o.failing.Store(false)
		time.Sleep(6 * time.Second)
		wantVersion(t, caches[(owner+1)%5], 1) // a peer's Get has it replaced too
		synctest.Wait()
		for _, cache := range caches {
			wantVersion(t, cache, o.loads.Load())
		}
	})
}

// F13: the origin is down for 10 s and then slow for 10 s.
func TestOriginDownThenSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys, maxLoads = 500, 8
		c := cachetest.NewCluster(t, 3)
		var down, slow atomic.Bool
		var running [3]atomic.Int32
		var tooMany atomic.Int32
		stamp := func() int64 { return time.Now().UnixNano() }
		caches := make([]*peercache.Cache[int64], 3)
		for i := range caches {
			caches[i] = peercache.New("c", func(context.Context, string) (int64, time.Duration, error) {
				if running[i].Add(1) > maxLoads {
					tooMany.Add(1)
				}
				defer running[i].Add(-1)
				delay := 5 * time.Millisecond
				if slow.Load() {
					delay *= 10
				}
				time.Sleep(delay)
				if down.Load() {
					return 0, 0, errDown
				}
				return stamp(), 5 * time.Second, nil
			}, &peercache.Options{Node: c.Node(i), StaleFor: time.Minute, MaxLoads: maxLoads})
		}
		var gets, failed, stale int
		var mu sync.Mutex
		phase := func(d time.Duration, each func(v int64, err error)) {
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := g; i < int(d/(4*time.Millisecond)); i += 4 {
						time.Sleep(16 * time.Millisecond)
						v, err := caches[i%3].Get(t.Context(), fmt.Sprint("key-", (i*7)%keys))
						mu.Lock()
						gets++
						each(v, err)
						mu.Unlock()
					}
				})
			}
			wg.Wait()
		}
		for i := range keys {
			for {
				if _, err := caches[0].Get(t.Context(), fmt.Sprint("key-", i)); err == nil {
					break
				}
			}
		}
		count := func(_ int64, err error) {
			if err != nil {
				failed++
			}
		}
		down.Store(true)
		phase(10*time.Second, count)
		down.Store(false)
		slow.Store(true)
		phase(10*time.Second, count)
		if failed*1000 > gets {
			t.Errorf("%d of %d Gets of cached keys failed while the origin was down and slow, want at most 0.1%%", failed, gets)
		}
		slow.Store(false)
		phase(time.Second, func(int64, error) {})
		failed = 0
		phase(5*time.Second, count)
		if failed != 0 {
			t.Errorf("%d Gets failed 1 s after the origin was well", failed)
		}
		for range 2 {
			phase(4*time.Second, func(v int64, err error) {
				if age := time.Duration(stamp() - v); err == nil && age > 15*time.Second {
					stale++
				}
			})
		}
		if stale != 0 {
			t.Errorf("%d Gets got values from before the origin was down, 6 s after it was well", stale)
		}
		if n := tooMany.Load(); n != 0 {
			t.Errorf("%d loads began above the limit", n)
		}
	})
}

// ranked returns a key of which a node is, by its own view, the i-th owner.
func ranked[V any](t *testing.T, cache *peercache.Cache[V], node *peercache.Node, i int) string {
	t.Helper()
	for n := range 10_000 {
		key := fmt.Sprint("k", n)
		if owners := peercache.OwnersOf(cache, key, i+1); len(owners) > i && owners[i] == node.Self().URL {
			return key
		}
	}
	t.Fatalf("no key within 10,000 of which %s is owner %d", node.Self().URL, i)
	return ""
}

// A node that owned a key, and now is the second to own it, has a stale value.
// What it fetches in the stale one's stead is not kept here, for either reason.
func TestStaleValueGivesWayToAnAnswerThatIsNotKept(t *testing.T) {
	for _, c := range []struct {
		name   string
		hotTTL time.Duration
		ttl    time.Duration // of all values but the first
	}{
		{"there are no copies", -1, time.Minute},
		{"the loader says so", 0, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBareNodes(t, 2)
				var loads atomic.Int32
				caches := bareCaches(b, "c", func(context.Context, string) (int32, time.Duration, error) {
					if n := loads.Add(1); n > 1 {
						return n, c.ttl, nil
					}
					return 1, 10 * time.Second, nil
				}, &peercache.Options{HotTTL: c.hotTTL, StaleFor: time.Hour})
				b.setPeers()
				key := ranked(t, caches[0], b.nodes[0], 1)
				if err := b.nodes[0].SetPeers(b.nodes[0].Self()); err != nil {
					t.Fatal(err)
				}
				if v, err := caches[0].Get(t.Context(), key); v != 1 || err != nil {
					t.Fatal(v, err)
				}
				b.setPeers()
				time.Sleep(20 * time.Second)
				for range 3 { // the first may be served the stale value
					_, _ = caches[0].Get(t.Context(), key)
					synctest.Wait()
				}
				if v, err := caches[0].Get(t.Context(), key); v == 1 || err != nil {
					t.Errorf("Get = %d, %v: the value that ended 10 s ago, while %d loads have replaced it", v, err, loads.Load()-1)
				}
			})
		})
	}
}

func TestNodeThatMayNotActDoesNotReplaceWhatIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBareNodes(t, 5)
		var at [5]atomic.Int32
		caches := make([]*peercache.Cache[string], 5)
		for i := range caches {
			caches[i] = peercache.New("c", func(context.Context, string) (string, time.Duration, error) {
				at[i].Add(1)
				return "v", 50 * time.Second, nil
			}, &peercache.Options{Node: b.nodes[i], StaleFor: time.Hour, HotTTL: -1})
		}
		b.setPeers()
		// Node 0 may not act for the key, but owns it where there is only node 1 beside.
		key := ""
		for i := 0; key == ""; i++ {
			owners := peercache.OwnersOf(caches[0], fmt.Sprint("k", i), 5)
			if owners[3] == b.nodes[0].Self().URL && owners[4] == b.nodes[1].Self().URL {
				key = fmt.Sprint("k", i)
			}
		}
		// Node 0 owns all when it loads, then knows of the others and looks at the
		// entry while it still may act.
		if err := b.nodes[0].SetPeers(b.nodes[0].Self()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute) // the tables of before do not count any more
		if _, err := caches[0].Get(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		b.setPeers()
		if _, ok := caches[0].Peek(key); !ok {
			t.Fatal("node 0 does not hold the entry")
		}
		time.Sleep(2 * time.Minute)
		// To node 1 there is only node 0.
		if err := b.nodes[1].SetPeers(b.nodes[0].Self(), b.nodes[1].Self()); err != nil {
			t.Fatal(err)
		}
		if owner := caches[1].Owner(key); owner != b.nodes[0].Self().URL {
			t.Fatalf("node 1 takes %s for the owner", owner)
		}
		if _, err := caches[1].Get(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := at[0].Load(); n != 1 {
			t.Errorf("node 0 loaded %d times, want once: it may not act for the key any more", n)
		}
	})
}

func TestStaleKeysOfAGetManyAreReplacedTogether(t *testing.T) {
	const n = 100
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
	}
	synctest.Test(t, func(t *testing.T) {
		var calls, asked atomic.Int32
		cache := peercache.NewBatch("c", func(_ context.Context, keys []string) (map[string]string, time.Duration, error) {
			calls.Add(1)
			asked.Add(int32(len(keys)))
			vs := make(map[string]string)
			for _, key := range keys {
				vs[key] = "v"
			}
			return vs, 10 * time.Second, nil
		}, &peercache.Options{StaleFor: time.Minute})
		for range 2 {
			if vs, err := cache.GetMany(t.Context(), keys); len(vs) != n || err != nil {
				t.Errorf("GetMany: %d values, %v", len(vs), err)
			}
			synctest.Wait()
			time.Sleep(11 * time.Second)
		}
		if calls.Load() != 2 || asked.Load() != 2*n {
			t.Errorf("%d calls of the loader for %d keys, want 2 for %d", calls.Load(), asked.Load(), 2*n)
		}
		if s := cache.Stats(); s.StaleHits != n {
			t.Errorf("%d stale hits, want %d", s.StaleHits, n)
		}
	})
}
