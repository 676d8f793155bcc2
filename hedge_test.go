package peercache_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Owners that take their time, in caches with replicas.

// replicated returns a cluster of four whose caches keep no copies and one replica, and
// which has answered fetches, so that there is credit for hedges.
func replicated(t *testing.T, o *origin) (*cachetest.Cluster, []*peercache.Cache[string]) {
	t.Helper()
	c := cachetest.NewCluster(t, 4)
	caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1, Replicas: 1})
	for i := range 800 {
		wantValue(t, caches[0], fmt.Sprint("warm-", i))
	}
	time.Sleep(2 * time.Minute) // replicas are there, peeks are over
	return c, caches
}

// unheldKeys returns keys of node 1 that are held there and by a replica that is not node 0.
func unheldKeys(t *testing.T, c *cachetest.Cluster, caches []*peercache.Cache[string], n int) (keys []string) {
	t.Helper()
	for i := 0; len(keys) < n; i++ {
		key := ownedBy(t, c, caches[0], fmt.Sprint("slow-", i, "-"), 1)
		wantValue(t, caches[2], key)
		time.Sleep(10 * time.Millisecond)
		if _, held := caches[0].Peek(key); !held {
			keys = append(keys, key)
		}
	}
	return keys
}

func TestReplicaAnswersWhileTheOwnerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{}
		c, caches := replicated(t, o)
		keys := unheldKeys(t, c, caches, 2)
		loads := o.total()
		c.Pause(1)
		for _, key := range keys { // two, which open no breaker
			start := time.Now()
			wantValue(t, caches[0], key)
			if d := time.Since(start); d < 5*time.Millisecond || d > 15*time.Millisecond {
				t.Errorf("Get(%q) took %v while its owner hangs, want some 5 ms", key, d)
			}
		}
		if s := caches[0].Stats(); s.Hedges != 2 || s.Hedged != 2 {
			t.Errorf("%d hedges, %d of use, want 2 and 2", s.Hedges, s.Hedged)
		}
		if n := o.total() - loads; n != 0 {
			t.Errorf("%d loads, want none: a hedge only looks into memory", n)
		}
	})
}

func TestHedgeOfAKeyThatIsBeingLoadedLoadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{}
		c, caches := replicated(t, o)
		o.delay = 100 * time.Millisecond
		key := ownedBy(t, c, caches[0], "cold-", 1)
		wantValue(t, caches[0], key)
		if s := caches[0].Stats(); s.Hedges != 1 || s.Hedged != 0 {
			t.Errorf("%d hedges, %d of use, want 1 that brings nothing", s.Hedges, s.Hedged)
		}
		if n := o.of(key); n != 1 {
			t.Errorf("loaded %d times, want once", n)
		}
	})
}

func TestNoMoreThanOneFetchInTwentyIsHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{}
		c, caches := replicated(t, o)
		keys := unheldKeys(t, c, caches, 500)
		before := caches[0].Stats()
		c.Delay(1, 20*time.Millisecond)
		for _, key := range keys {
			wantValue(t, caches[0], key)
		}
		s := caches[0].Stats()
		if hedges, most := s.Hedges-before.Hedges, s.PeerGets/20; hedges == 0 || hedges > most {
			t.Errorf("%d hedges, want some, and at most %d", hedges, most)
		}
	})
}

// What is usual in a cluster is no reason to ask twice.
func TestClusterThatIsSlowAllOverIsNotHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{}
		c, caches := replicated(t, o)
		for i := range 4 {
			c.Delay(i, 4*time.Millisecond)
		}
		fetch := func(name string, n int) int64 {
			before := caches[0].Stats().Hedges
			for i := range n {
				wantValue(t, caches[0], ownedBy(t, c, caches[0], fmt.Sprint(name, i, "-"), 1))
			}
			return caches[0].Stats().Hedges - before
		}
		if n := fetch("first-", 300); n == 0 {
			t.Error("no hedges at first, when nothing is known of how long fetches take")
		}
		if n := fetch("later-", 300); n != 0 {
			t.Errorf("%d hedges of 300 fetches that take as long as all, want none", n)
		}
	})
}
