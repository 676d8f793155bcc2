package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Streams between nodes in memory: order, size, time, ends.

// otherKeys returns n keys with this prefix that node 1 owns.
func otherKeys(c *cachetest.Cluster, cache *peercache.Cache[string], prefix string, n int) []string {
	var keys []string
	for i := 0; len(keys) < n; i++ {
		if key := fmt.Sprint(prefix, i); cache.Owner(key) == c.Node(1).Self().URL {
			keys = append(keys, key)
		}
	}
	return keys
}

func TestHitsAndFastLoadsDoNotWaitForASlowLoadOfTheSamePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", slowKeys(3*time.Second), &peercache.Options{HotTTL: -1})
		hit := otherKeys(c, caches[0], "hit", 1)[0]
		wantValue(t, caches[0], hit)
		slow := make(chan time.Duration)
		start := time.Now()
		go func() {
			wantValue(t, caches[0], otherKeys(c, caches[0], "slow", 1)[0])
			slow <- time.Since(start)
		}()
		synctest.Wait()
		for _, key := range append(otherKeys(c, caches[0], "fast", 20), hit) {
			wantValue(t, caches[0], key)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("other keys took %v, want no wait for the slow one", d)
		}
		if d := <-slow; d != 3*time.Second {
			t.Errorf("the slow key took %v, want 3s", d)
		}
		if s := c.Node(0).Stats(); s.Streams != 1 {
			t.Errorf("%d connections, want one for all", s.Streams)
		}
	})
}

func TestLargeValueDoesNotHoldUpSmallOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		large := strings.Repeat("v", 16<<20)
		caches := cachetest.Caches(c, "c", func(_ context.Context, key string) (string, time.Duration, error) {
			if strings.HasPrefix(key, "large") {
				return large, time.Hour, nil
			}
			return "value of " + key, time.Hour, nil
		}, &peercache.Options{HotTTL: -1, MaxBytes: 1 << 30})
		wantValue(t, caches[0], otherKeys(c, caches[0], "first", 1)[0])
		for range 7 { // else the owner asks the other node first, which owned all keys lately
			time.Sleep(10 * time.Second)
			wantValue(t, caches[0], otherKeys(c, caches[0], "first", 1)[0])
		}
		const delay = 10 * time.Millisecond // with which a connection in memory carries 256 KiB in 20 ms
		c.Delay(1, delay)
		start := time.Now()
		got := make(chan time.Duration)
		go func() {
			if v, err := caches[0].Get(t.Context(), otherKeys(c, caches[0], "large", 1)[0]); err != nil || v != large {
				t.Errorf("Get of the large value = %d bytes, %v", len(v), err)
			}
			got <- time.Since(start)
		}()
		for _, key := range otherKeys(c, caches[0], "small", 20) {
			at := time.Now()
			wantValue(t, caches[0], key)
			if d := time.Since(at); d > 2*delay+time.Millisecond {
				t.Errorf("a small value took %v, want one round trip of %v", d, 2*delay)
			}
		}
		small := time.Since(start)
		if d := <-got; d < small {
			t.Errorf("the large value took %v and the small ones %v: the test shows nothing", d, small)
		}
		if s := caches[1].Stats(); s.Loads != 22 {
			t.Errorf("%d loads, want one each of 22 keys", s.Loads)
		}
	})
}

func TestLargeValueThatIsNotKeptIsLoadedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		var calls atomic.Int32
		large := strings.Repeat("v", 1<<20)
		caches := cachetest.Caches(c, "c", constant(&calls, large, -1), nil)
		if v, err := caches[0].Get(t.Context(), otherKeys(c, caches[0], "k", 1)[0]); err != nil || v != large {
			t.Errorf("Get = %d bytes, %v", len(v), err)
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d loads, want 1", n)
		}
	})
}

func TestLargeSetsArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", (&origin{}).load, &peercache.Options{HotTTL: -1})
		key := otherKeys(c, caches[0], "k", 1)[0]
		for _, size := range []int{100, 64 << 10, 64<<10 + 1, 1 << 20, 16 << 20} {
			v := strings.Repeat("v", size)
			if err := caches[0].Set(t.Context(), key, v, time.Hour); err != nil {
				t.Errorf("Set of %d bytes: %v", size, err)
			}
			if got, err := caches[0].Get(t.Context(), key); err != nil || got != v {
				t.Errorf("Get = %d bytes, %v, want the %d that were set", len(got), err, size)
			}
		}
		if s := caches[1].Stats(); s.Loads != 0 {
			t.Errorf("%d loads, want none: all was set", s.Loads)
		}
	})
}

func TestOwnerThatDiesWhileItLoadsIsPassedOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		var first atomic.Bool
		caches := cachetest.Caches(c, "c", func(_ context.Context, key string) (string, time.Duration, error) {
			if first.CompareAndSwap(false, true) {
				time.Sleep(5 * time.Second)
			}
			return "value of " + key, time.Hour, nil
		}, nil)
		key := ownedBy(t, c, caches[0], "k", 1)
		var died time.Time
		go func() {
			time.Sleep(time.Second)
			died = time.Now()
			c.Kill(1)
		}()
		wantValue(t, caches[0], key)
		if d := time.Since(died); d > 10*time.Millisecond {
			t.Errorf("the value came %v after its owner had died, want it from the next one at once", d)
		}
		if s := c.Node(0).Stats(); s.Failovers != 1 {
			t.Errorf("%d failovers, want 1", s.Failovers)
		}
	})
}

// Whether the peer is silent is looked at every 20 ms. What is asked just before has time
// to arrive, and must not begin that of what has been asked long before anew.
func TestSilenceIsNoticedWhateverElseIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", slowKeys(0), &peercache.Options{HotTTL: -1})
		keys := otherKeys(c, caches[0], "k", 2)
		wantValue(t, caches[0], keys[0])
		time.Sleep(time.Second) // the stream is looked at again from the next request on
		c.Pause(1)
		start := time.Now()
		asking, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		go func() {
			for time.Sleep(20*time.Millisecond - time.Microsecond); asking.Err() == nil; time.Sleep(20 * time.Millisecond) {
				go func() {
					ctx, cancel := context.WithTimeout(asking, 50*time.Millisecond)
					defer cancel()
					_ = peercache.Peek(ctx, c.Node(0), c.Node(1).Self().URL, "c", strings.Repeat("k", 100))
				}()
			}
		}()
		wantValue(t, caches[0], keys[1])
		if d := time.Since(start); d > 300*time.Millisecond {
			t.Errorf("a Get waited %v for a silent peer, want 300ms", d)
		}
	})
}

func TestLargeRequestHasTimeToArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", slowKeys(0), &peercache.Options{HotTTL: -1})
		wantValue(t, caches[0], otherKeys(c, caches[0], "k", 1)[0])
		peer := c.Node(1).Self().URL
		c.Delay(1, 20*time.Millisecond) // for every 256 KiB, which is all that is on its way at once
		start := time.Now()
		if err := peercache.Peek(t.Context(), c.Node(0), peer, "c", strings.Repeat("k", 8<<20)); err != nil {
			t.Errorf("8 MiB, at more than 12 a second: %v", err)
		}
		if d := time.Since(start); d < 600*time.Millisecond {
			t.Fatalf("8 MiB took %v, which is not long enough to be a test", d)
		}
		if s := c.Node(0).Stats(); s.Streams != 1 {
			t.Errorf("%d streams, want the one of before", s.Streams)
		}
	})
}

func TestRequestsThatWereGivenUpAreOverWhenTheyAreAnswered(t *testing.T) {
	for name, n := range map[string]int{"some": 20, "more than a stream takes": 9000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cachetest.NewCluster(t, 2)
				caches := cachetest.Caches(c, "c", slowKeys(0), &peercache.Options{HotTTL: -1})
				keys := otherKeys(c, caches[0], "k", 2)
				wantValue(t, caches[0], keys[0])
				peer := c.Node(1).Self().URL
				c.Pause(1)
				var wg sync.WaitGroup
				var busy atomic.Int64
				for range n {
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
						defer cancel()
						if err := peercache.Peek(ctx, c.Node(0), peer, "c", "k"); errors.Is(err, peercache.ErrOverloaded) {
							busy.Add(1)
						}
					})
				}
				wg.Wait()
				if requests, bytes := peercache.Pending(c.Node(0), peer); requests != n-int(busy.Load()) || requests > 8192 || bytes == 0 {
					t.Errorf("%d requests wait, of %d bytes, and %d of %d were refused", requests, bytes, busy.Load(), n)
				}
				c.Resume(1)
				time.Sleep(20 * time.Millisecond)
				if requests, bytes := peercache.Pending(c.Node(0), peer); requests != 0 || bytes != 0 {
					t.Errorf("%d requests wait, of %d bytes, after all are answered", requests, bytes)
				}
				wantValue(t, caches[0], keys[1])
				if s := c.Node(0).Stats(); s.Streams != 1 || s.Silences != 0 {
					t.Errorf("%d streams, %d silences, want the one of before", s.Streams, s.Silences)
				}
			})
		})
	}
}

func TestLeaveLosesNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		caches := cachetest.Caches(c, "c", slowKeys(200*time.Millisecond), &peercache.Options{HotTTL: -1})
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for g := range 20 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
					prefix := []string{"slow", "fast"}[g%2]
					wantValue(t, caches[g%2*2], fmt.Sprint(prefix, "-", g, "-", i))
				}
			})
		}
		time.Sleep(time.Second)
		if err := c.Node(1).Leave(t.Context()); err != nil {
			t.Errorf("Leave: %v", err)
		}
		time.Sleep(time.Second)
		close(stop)
		wg.Wait()
		for _, i := range []int{0, 2} {
			if s := caches[i].Stats(); s.PeerGets == 0 || s.PeerErrors != 0 {
				t.Errorf("node %d: %d fetches, %d without an answer, want some and none", i, s.PeerGets, s.PeerErrors)
			}
		}
	})
}

func TestNodesEndLetsAskersGoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		caches := cachetest.Caches(c, "c", slowKeys(5*time.Second), nil)
		key := ownedBy(t, c, caches[0], "slow", 1)
		got := make(chan time.Duration)
		var left time.Time
		go func() {
			wantValue(t, caches[0], key)
			got <- time.Since(left)
		}()
		time.Sleep(time.Second)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		left = time.Now()
		_ = c.Node(1).Leave(ended)
		if d := time.Since(left); d > 50*time.Millisecond {
			t.Errorf("Leave with an ended context took %v", d)
		}
		if d := <-got; d > 5*time.Second+50*time.Millisecond {
			t.Errorf("the value came %v after its owner ended, want the time of one load", d)
		}
	})
}

func TestIdleStreamsCloseAndComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", (&origin{}).load, &peercache.Options{HotTTL: -1})
		key := otherKeys(c, caches[0], "k", 1)[0]
		wantValue(t, caches[0], key)
		for _, step := range []struct {
			idle time.Duration
			want int64
		}{{50 * time.Second, 1}, {61 * time.Second, 0}, {0, 0}} {
			time.Sleep(step.idle)
			if s := c.Node(0).Stats(); s.Streams != step.want {
				t.Errorf("%d streams after %v without a request, want %d", s.Streams, step.idle, step.want)
			}
			wantValue(t, caches[0], key)
			if s := c.Node(0).Stats(); s.Streams != 1 {
				t.Errorf("%d streams after a request, want 1", s.Streams)
			}
			if step.want == 0 {
				time.Sleep(61 * time.Second)
			}
		}
		if s := caches[0].Stats(); s.PeerErrors != 0 {
			t.Errorf("%d fetches without an answer, want none", s.PeerErrors)
		}
	})
}

// A request that begins and ends between two looks at the stream is a use of it.
func TestStreamThatIsUsedNowAndThenStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", (&origin{}).load, &peercache.Options{HotTTL: -1})
		key := otherKeys(c, caches[0], "k", 1)[0]
		for _, pause := range []time.Duration{10 * time.Millisecond, time.Second, 30 * time.Second, 59 * time.Second} {
			for range 3 * time.Minute / pause {
				wantValue(t, caches[0], key)
				time.Sleep(pause)
				if s := c.Node(0).Stats(); s.Streams != 1 {
					t.Fatalf("%d streams while a request comes every %v, want 1", s.Streams, pause)
				}
			}
		}
	})
}

// MaxLoads and the queue behind it aside, so much of a node's memory is for peers.
func TestRequestsOfPeersThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound, more = 1024, 76
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", slowKeys(time.Second), &peercache.Options{MaxLoads: -1})
		hit := otherKeys(c, caches[0], "hit", 1)[0]
		wantValue(t, caches[1], hit)
		var values, busy atomic.Int32
		var wg sync.WaitGroup
		for _, key := range otherKeys(c, caches[0], "slow", bound+more) {
			wg.Go(func() {
				switch _, err := caches[0].Get(t.Context(), key); {
				case err == nil:
					values.Add(1)
				case errors.Is(err, peercache.ErrOverloaded):
					busy.Add(1)
				default:
					t.Errorf("Get: %v", err)
				}
			})
		}
		synctest.Wait()
		wantValue(t, caches[0], hit) // which is answered all the same
		wg.Wait()
		if values.Load() != bound || busy.Load() != more {
			t.Errorf("%d values, %d turned away, want %d and %d", values.Load(), busy.Load(), bound, more)
		}
		wantValue(t, caches[0], otherKeys(c, caches[0], "slow", bound+more+1)[bound+more])
	})
}

func TestFetchesThatWaitHoldNoGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		release := make(chan struct{})
		var caches []*peercache.Cache[string]
		for i := range 2 { // the owner loads all that waits with few calls
			caches = append(caches, peercache.NewBatch("c", func(_ context.Context, keys []string) (map[string]string, time.Duration, error) {
				<-release
				values := make(map[string]string)
				for _, key := range keys {
					values[key] = "value of " + key
				}
				return values, time.Hour, nil
			}, &peercache.Options{Node: c.Node(i), MaxLoads: 1000, LoadTimeout: time.Minute}))
		}
		keys := otherKeys(c, caches[0], "k", 1000)
		synctest.Wait()
		before := runtime.NumGoroutine()
		var wg sync.WaitGroup
		for _, key := range keys {
			wg.Go(func() { wantValue(t, caches[0], key) })
		}
		synctest.Wait()
		_, calls := peercache.InFlight(caches[1])
		time.Sleep(5 * time.Second) // of heartbeats
		if n := runtime.NumGoroutine() - before - len(keys) - calls; n > 10 {
			t.Errorf("1,000 fetches that wait hold %d goroutines beside their callers' and the loader's", n)
		}
		close(release)
		wg.Wait()
		if s := caches[0].Stats(); s.PeerErrors != 0 {
			t.Errorf("%d fetches without an answer, want none", s.PeerErrors)
		}
	})
}

func TestRefusedUpgradeIsRememberedForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBareNodes(t, 2)
		b.setPeers()
		caches := bareCaches(b, "c", (&origin{}).load, &peercache.Options{HotTTL: -1})
		key := ""
		for i := 0; key == "" || caches[0].Owner(key) != b.nodes[1].Self().URL; i++ {
			key = fmt.Sprint("k", i)
		}
		for minute := range int32(3) {
			for range 10 {
				wantValue(t, caches[0], key)
			}
			if err := caches[0].Remove(t.Context(), key); err != nil {
				t.Errorf("Remove: %v", err)
			}
			if n := b.upgrades.Load(); n < minute+1 || n > 2*(minute+1) { // by one node, or both
				t.Errorf("%d upgrades tried by minute %d, want %d, or twice that", n, minute, minute+1)
			}
			time.Sleep(time.Minute)
		}
		if s := caches[0].Stats(); s.PeerErrors != 0 || s.PeerGets != 30 {
			t.Errorf("%d fetches, %d without an answer, want 30 and none", s.PeerGets, s.PeerErrors)
		}
	})
}
