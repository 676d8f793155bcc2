package peercache_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/cachetest"
)

// Members that died, or were cut off for longer than gossip remembers them.

// forgotten is longer than gossip remembers the dead, and keeps trying them by itself.
const forgotten = 5 * time.Minute

func TestHalvesFindEachOtherWhenTheOnlySeedIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		c.Kill(0) // the seed of all the others
		c.Converge()
		c.Partition([]int{1, 2}, []int{3, 4})
		time.Sleep(forgotten)
		c.Converge()
		c.Heal()
		start := time.Now()
		c.Converge()
		// Four members try two lost ones each, every 10 s in all.
		took := time.Since(start)
		t.Logf("one ring %v after a partition of %v", took, forgotten)
		if took > 30*time.Second {
			t.Errorf("one ring after %v, want it within 30s", took)
		}
	})
}

func TestLoneMembersFindEachOtherAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		c.Kill(0)
		c.Converge()
		c.Partition([]int{1}, []int{2}, []int{3})
		time.Sleep(forgotten)
		c.Heal()
		start := time.Now()
		c.Converge()
		took := time.Since(start)
		t.Logf("one ring %v after each was alone for %v", took, forgotten)
		if took > 5*time.Second {
			t.Errorf("one ring after %v, want it within 5s: who is alone tries every second", took)
		}
	})
}

func TestLostMembersAreForgottenWhenTheyAreBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		lost := func(i int) int64 { return c.Node(i).Stats().Lost }
		c.Partition([]int{0, 1, 2}, []int{3})
		c.Converge()
		for i, want := range []int64{1, 1, 1, 3} {
			if got := lost(i); got != want {
				t.Errorf("node %d counts %d lost members, want %d", i, got, want)
			}
		}
		c.Heal()
		c.Converge()
		for i := range 4 {
			if got := lost(i); got != 0 {
				t.Errorf("node %d counts %d lost members after all are back, want 0", i, got)
			}
		}
		if err := c.Node(3).Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Converge()
		for i := range 3 {
			if got := lost(i); got != 0 {
				t.Errorf("node %d counts %d lost members after one has left, want 0", i, got)
			}
		}
	})
}

// Both sides of a partition of 60 s are one ring again within 15 s, though gossip is
// about to forget the other side by then.
func TestPartitionOfAMinuteHealsWithinFifteenSeconds(t *testing.T) {
	runs := 5
	if *long {
		runs = 50
	}
	var longest time.Duration
	for range runs {
		synctest.Test(t, func(t *testing.T) {
			c := cachetest.NewCluster(t, 5)
			caches := cachetest.Caches(c, "c", (&origin{}).load, nil)
			c.Partition([]int{0, 1}, []int{2, 3, 4})
			for i := range 60 {
				time.Sleep(time.Second)
				for _, cache := range caches {
					wantValue(t, cache, fmt.Sprint("key-", i))
				}
			}
			c.Heal()
			start := time.Now()
			c.Converge()
			longest = max(longest, time.Since(start))
		})
	}
	t.Logf("one ring at most %v after the partition, in %d runs", longest, runs)
	if longest > 15*time.Second {
		t.Errorf("one ring after %v, want it within 15s", longest)
	}
}
