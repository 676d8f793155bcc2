package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Fetches and loads that meet: what each key's road may cost it, and what is kept.

// slowKeys is a loader that takes delay for keys that begin with "slow".
func slowKeys(delay time.Duration) peercache.Loader[string] {
	return func(_ context.Context, key string) (string, time.Duration, error) {
		if strings.HasPrefix(key, "slow") {
			time.Sleep(delay)
		}
		return "value of " + key, time.Hour, nil
	}
}

func TestDeadOwnersKeysDoNotWaitForASlowOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		caches := cachetest.Caches(c, "c", slowKeys(5*time.Second), nil)
		slow := ownedBy(t, c, caches[0], "slow", 1)
		fast := ownedBy(t, c, caches[0], "fast", 2)
		c.Kill(2)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		go func() { _, _ = caches[0].GetMany(context.WithoutCancel(ctx), []string{slow, fast}) }()
		synctest.Wait()
		if v, err := caches[0].Get(ctx, fast); err != nil || v != "value of "+fast {
			t.Errorf("Get of a key whose owner is dead = %q, %v after %v, want its value", v, err, time.Since(start))
		}
	})
}

func TestFastLoadDoesNotWaitForASlowOneWhereNoOwnerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		caches := cachetest.Caches(c, "c", slowKeys(5*time.Second), nil)
		keyWithoutSelf := func(prefix string) string {
			for i := 0; ; i++ {
				key := fmt.Sprint(prefix, i)
				owners := peercache.OwnersOf(caches[0], key, 2)
				if owners[0] == c.Node(1).Self().URL && owners[1] == c.Node(2).Self().URL {
					return key
				}
			}
		}
		slow, fast := keyWithoutSelf("slow"), keyWithoutSelf("fast")
		c.Kill(1)
		c.Kill(2)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		got, err := caches[0].GetMany(ctx, []string{slow, fast})
		if got[fast] != "value of "+fast || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("GetMany = %v, %v, want the value of the fast key and a deadline for the slow one", got, err)
		}
	})
}

func TestEachFrameOfALongGetManyHasItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", slowKeys(6*time.Second), &peercache.Options{MaxLoads: -1})
		var keys []string
		for i := 0; len(keys) < 2100; i++ {
			if key := fmt.Sprint("slow", i); caches[0].Owner(key) == c.Node(1).Self().URL {
				keys = append(keys, key)
			}
		}
		start := time.Now()
		got, err := caches[0].GetMany(t.Context(), keys)
		if err != nil || len(got) != len(keys) {
			t.Errorf("GetMany: %d of %d values after %v, %.200v", len(got), len(keys), time.Since(start), err)
		}
	})
}

func TestNextOwnerHasTheWholeTimeToLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		caches := cachetest.Caches(c, "c", slowKeys(8*time.Second), nil)
		key := ownedBy(t, c, caches[0], "slow", 1)
		go func() {
			time.Sleep(7 * time.Second)
			c.Kill(1)
		}()
		start := time.Now()
		if v, err := caches[0].Get(t.Context(), key); err != nil || v != "value of "+key {
			t.Errorf("Get with an owner that died while it loaded = %q, %v after %v, want the value", v, err, time.Since(start))
		}
	})
}

func TestFetchThatLeaveInterruptsIsKeptOnlyAsACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", slowKeys(time.Second), nil)
		key := ownedBy(t, c, caches[0], "slow", 1)
		got := make(chan error, 1)
		go func() {
			_, err := caches[0].Get(t.Context(), key)
			got <- err
		}()
		time.Sleep(100 * time.Millisecond) // the owner is loading
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_ = c.Node(0).Leave(ended)
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if _, ok := caches[0].Peek(key); ok {
			t.Error("held for longer than HotTTL after Leave")
		}
	})
}

func TestEntryThatIsHitInTheGraceWindowBecomesACopyAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, caches, keys := joinedByFive(t)
		for _, key := range keys {
			wantValue(t, caches[0], key) // node 0 may still act for all of them
		}
		time.Sleep(2 * time.Minute)
		for _, key := range keys {
			wantValue(t, caches[0], key)
		}
		time.Sleep(10 * time.Second)
		for _, key := range keys {
			if _, ok := caches[0].Peek(key); ok && !slices.Contains(peercache.OwnersOf(caches[0], key, 3), c.Node(0).Self().URL) {
				t.Fatalf("%s is held for longer than HotTTL by a node that may not act for it", key)
			}
		}
	})
}

func TestHugeLoadTimeoutIsNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{LoadTimeout: math.MaxInt64})
		wantValue(t, caches[0], ownedBy(t, c, caches[0], "k", 0))
		wantValue(t, caches[0], ownedBy(t, c, caches[0], "k", 1))
	})
}

func TestMaxTTLCapsCopiesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBareNodes(t, 2)
		b.setPeers()
		o := &origin{}
		owner := peercache.New("c", o.load, &peercache.Options{Node: b.nodes[1]})
		short := peercache.New("c", o.load, &peercache.Options{Node: b.nodes[0], MaxTTL: time.Second})
		key := ""
		for i := 0; key == "" || owner.Owner(key) != b.nodes[1].Self().URL; i++ {
			key = fmt.Sprint("k", i)
		}
		wantValue(t, short, key)
		time.Sleep(time.Second)
		if _, ok := short.Peek(key); ok {
			t.Error("a copy is held for longer than this process's MaxTTL")
		}
	})
}

func TestPanicWithNotFoundIsStillAPanicOnEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", func(context.Context, string) (string, time.Duration, error) {
			panic(fmt.Errorf("bug: %w", peercache.ErrNotFound))
		}, nil)
		for i, cache := range caches {
			key := ownedBy(t, c, cache, "k", 1)
			if _, err := cache.GetMany(t.Context(), []string{key}); err == nil {
				t.Errorf("node %d: GetMany hides a loader's panic", i)
			}
			_, err := cache.Get(t.Context(), key)
			if _, ok := errors.AsType[*peercache.PanicError](err); !ok {
				t.Errorf("node %d: Get: %v, want a PanicError", i, err)
			}
		}
	})
}

func TestCodecThatEndsItsGoroutineWedgesNoKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		codec := peercache.Codec{
			Marshal:   peercache.JSON.Marshal,
			Unmarshal: func([]byte, any) error { runtime.Goexit(); return nil },
		}
		caches := cachetest.Caches(c, "c", func(context.Context, string) (int, time.Duration, error) { return 1, 0, nil }, &peercache.Options{Codec: codec})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := caches[0].Get(ctx, ownedBy(t, c, caches[0], "k", 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get: %v, want the error of the codec at once", err)
		}
	})
}

func TestSlowKeyDoesNotHoldUpTheNextRequestOfALongGetMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", slowKeys(8*time.Second), nil)
		keys := []string{ownedBy(t, c, caches[0], "slow", 1)}
		for i := 0; len(keys) < 1500; i++ {
			if key := fmt.Sprint("fast", i); caches[0].Owner(key) == c.Node(1).Self().URL {
				keys = append(keys, key)
			}
		}
		go func() { _, _ = caches[0].GetMany(t.Context(), keys) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, key := range keys[1:] {
			if v, err := caches[0].Get(ctx, key); err != nil || v != "value of "+key {
				t.Fatalf("Get of a fast key = %q, %v, want its value", v, err)
			}
		}
		time.Sleep(10 * time.Second)
	})
}

func TestRequestsThatWaitTakeNoGoroutineForEachKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		release := make(chan struct{})
		var caches []*peercache.Cache[string]
		for i := range 2 {
			caches = append(caches, peercache.NewBatch("c", func(context.Context, []string) (map[string]string, time.Duration, error) {
				<-release
				return nil, 0, nil
			}, &peercache.Options{Node: c.Node(i)}))
		}
		var wg sync.WaitGroup
		before := runtime.NumGoroutine()
		for g := range 10 {
			keys := make([]string, 0, 1000)
			for i := 0; len(keys) < cap(keys); i++ {
				if key := fmt.Sprint(g, "-", i); caches[0].Owner(key) == c.Node(1).Self().URL {
					keys = append(keys, key)
				}
			}
			wg.Go(func() { _, _ = caches[0].GetMany(t.Context(), keys) })
		}
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; n > 200 {
			t.Errorf("10 requests of 1,000 keys that wait hold %d goroutines", n)
		}
		close(release)
		wg.Wait()
	})
}

// A node that was alone until lately may act for every key by its older table.
func TestValueThatIsSetInTheGraceWindowBecomesACopyAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBareNodes(t, 6)
		var six []peercache.Peer
		for _, n := range b.nodes {
			six = append(six, n.Self())
		}
		if err := b.nodes[0].SetPeers(six...); err != nil {
			t.Fatal(err)
		}
		heavy := b.nodes[0].Self()
		heavy.Weight = 100 // node 1 takes node 0 for the owner of nearly all keys
		if err := b.nodes[1].SetPeers(heavy, b.nodes[1].Self()); err != nil {
			t.Fatal(err)
		}
		caches := bareCaches(b, "c", (&origin{}).load, nil)
		key := ""
		for i := 0; key == ""; i++ {
			k := fmt.Sprint("k", i)
			if caches[1].Owner(k) == heavy.URL && !slices.Contains(peercache.OwnersOf(caches[0], k, 3), heavy.URL) {
				key = k
			}
		}
		if err := caches[1].Set(t.Context(), key, "set", time.Hour); err != nil {
			t.Fatal(err)
		}
		if v, ok := caches[0].Peek(key); !ok || v != "set" {
			t.Fatalf("Peek = %q, %v, want what was set", v, ok)
		}
		time.Sleep(time.Minute + time.Millisecond) // the window; who looks next makes a copy of it
		_, _ = caches[0].Peek(key)
		time.Sleep(10 * time.Second) // HotTTL
		if v, ok := caches[0].Peek(key); ok {
			t.Errorf("Peek = %q after the window at a node that may not act for the key, want nothing", v)
		}
	})
}
