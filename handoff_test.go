package peercache_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// What changes of the cluster cost the origin.

// warm has all keys loaded once, each asked for at one node of many.
func warm(t *testing.T, caches []*peercache.Cache[string], o *origin, n int) (keys []string) {
	t.Helper()
	for i := range n {
		keys = append(keys, fmt.Sprint("key-", i))
		wantValue(t, caches[i%len(caches)], keys[i])
	}
	if loads := o.total(); loads != n {
		t.Fatalf("%d loads of %d keys, want one each", loads, n)
	}
	return keys
}

// reload asks for all keys and returns how many were loaded for it.
func reload(t *testing.T, caches []*peercache.Cache[string], o *origin, keys []string) int {
	t.Helper()
	before := o.total()
	for i, key := range keys {
		wantValue(t, caches[i%len(caches)], key)
	}
	return o.total() - before
}

func TestLeaveCostsNoLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		keys := warm(t, caches, o, 2000)
		start := time.Now()
		if err := c.Node(3).Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 4*time.Second {
			t.Errorf("Leave took %v, want not much more than the 2 s in which it goes on answering", d)
		}
		c.Converge()
		if n := reload(t, caches[:3], o, keys); n != 0 {
			t.Errorf("%d loads after a node has left, want none", n)
		}
		if s := caches[3].Stats(); s.Handed < 400 {
			t.Errorf("%d entries handed over by a fourth of the cluster, want some 500 of 2,000", s.Handed)
		}
	})
}

func TestJoinCostsNoLoads(t *testing.T) {
	for name, wait := range map[string]time.Duration{"at once": 0, "when entries have followed": 2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cachetest.NewCluster(t, 3)
				o := &origin{}
				caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
				keys := warm(t, caches, o, 2000)
				c.Add()
				c.Converge()
				time.Sleep(wait)
				caches = cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
				if n := reload(t, caches, o, keys); n != 0 {
					t.Errorf("%d loads after a node has joined, want none", n)
				}
				s := caches[3].Stats()
				if wait > 0 && s.Entries < 400 {
					t.Errorf("the newcomer holds %d entries, want a fourth of 2,000", s.Entries)
				}
			})
		})
	}
}

func TestRestartsOfAllCostNoLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		keys := warm(t, caches, o, 1000)
		for i := range 3 {
			if err := c.Node(i).Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Add()
			c.Converge()
			time.Sleep(10 * time.Second) // as a rollout does
		}
		caches = cachetest.Caches(c, "c", o.load, nil)
		if n := reload(t, caches[3:], o, keys); n != 0 {
			t.Errorf("%d loads after all nodes were replaced, want none", n)
		}
	})
}

func TestDeathCostsNoLoadsWithReplicas(t *testing.T) {
	for replicas := 1; replicas <= 2; replicas++ {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cachetest.NewCluster(t, 5)
				o := &origin{}
				caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1, Replicas: replicas})
				keys := warm(t, caches, o, 2000)
				time.Sleep(time.Second)
				for dead := range 2 { // by then the copies are complete again
					c.Kill(dead)
					if n := reload(t, caches[2:], o, keys); n != 0 {
						t.Errorf("%d loads right after death %d, want none", n, dead)
					}
					c.Converge()
					time.Sleep(10 * time.Second)
					if n := reload(t, caches[2:], o, keys); n != 0 {
						t.Errorf("%d loads some time after death %d, want none", n, dead)
					}
				}
			})
		})
	}
}

func TestWhatIsSetAndWhatIsNotThereIsReplicatedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1, Replicas: 1})
		for i := range 200 {
			key := fmt.Sprint("set-", i)
			if err := caches[i%4].Set(t.Context(), key, "value of "+key, 0); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		c.Kill(0)
		for i := range 200 {
			wantValue(t, caches[1+i%3], fmt.Sprint("set-", i))
		}
		if n := o.total(); n != 0 {
			t.Errorf("%d loads of what was set, want none", n)
		}
	})
}

func TestNothingThatWasRemovedComesBackByHandoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1, Replicas: 1})
		keys := warm(t, caches, o, 500)
		time.Sleep(time.Second)
		c.Add()
		for i, key := range keys { // while entries move
			if err := caches[i%4].Remove(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		c.Converge()
		time.Sleep(time.Minute)
		if err := c.Node(1).Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Converge()
		for _, i := range []int{0, 2, 3, 4} {
			for key := range cachetest.Caches(c, "c", o.load, nil)[i].Keys() {
				t.Errorf("node %d holds %s, which was removed", i, key)
			}
		}
	})
}

// Each key of a node that leaves is asked for once, all the time while it does.
func TestKeysOfALeavingNodeAreNotLoadedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		var keys []string
		for i := range 300 {
			keys = append(keys, ownedBy(t, c, caches[0], fmt.Sprint("key-", i, "-"), 0))
			wantValue(t, caches[0], keys[i])
		}
		left := make(chan error)
		start := time.Now()
		go func() { left <- c.Node(0).Leave(t.Context()) }()
		for i, key := range keys {
			before := o.total()
			wantValue(t, caches[1+i%2], key)
			if o.total() > before {
				t.Errorf("%s was loaded %v after the Leave began", key, time.Since(start))
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := <-left; err != nil {
			t.Error(err)
		}
		if s := caches[0].Stats(); s.Handed != int64(len(keys)) {
			t.Errorf("%d entries handed over, want %d", s.Handed, len(keys))
		}
	})
}

// Others may have a newcomer in their ring, and ask it, before it has built its own.
func TestNewcomerThatIsAskedAtOnceAsksWhoOwnedTheKeys(t *testing.T) {
	for after := 15 * time.Millisecond; after <= 25*time.Millisecond; after += time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			c := cachetest.NewCluster(t, 4)
			o := &origin{}
			caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
			keys := warm(t, caches, o, 400)
			added := make(chan int)
			go func() { added <- c.Add() }()
			time.Sleep(after)
			var wg sync.WaitGroup
			for i, key := range keys {
				wg.Go(func() { wantValue(t, caches[i%4], key) })
			}
			wg.Wait()
			<-added
			if n := o.total() - len(keys); n != 0 {
				t.Errorf("%d keys loaded again, asked for %v after a node began to join, want none", n, after)
			}
		})
	}
}

func TestCodecThatEndsItsGoroutineKeepsNoAnswerWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 1)
		load := func(context.Context, string) (int, time.Duration, error) { return 1, 0, nil }
		before := peercache.New("c", load, &peercache.Options{Node: c.Node(0)})
		var keys []string
		for i := range 8000 { // of which half move, in more than one request
			keys = append(keys, fmt.Sprint(i))
		}
		if _, err := before.GetMany(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
		c.Add()
		after := peercache.New("c", load, &peercache.Options{Node: c.Node(1), Codec: peercache.Codec{
			Marshal:   peercache.JSON.Marshal,
			Unmarshal: func([]byte, any) error { runtime.Goexit(); return nil },
		}})
		c.Converge()
		moved := slices.DeleteFunc(keys, func(key string) bool { return after.Owner(key) != c.Node(1).Self().URL })
		if len(moved) < 3000 {
			t.Fatalf("%d keys moved: the test shows nothing", len(moved))
		}
		go func() { // which the codec may end too, of an entry that has been handed over
			_, _ = after.GetMany(t.Context(), moved)
		}()
		time.Sleep(time.Second)
		if err := c.Node(1).Leave(t.Context()); err != nil {
			t.Errorf("Leave: %v", err)
		}
	})
}

// A leave may come before what a node holds has followed the last change of the ring.
func TestLeaveRightAfterAJoinCostsNoLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		keys := warm(t, caches, o, 2000)
		c.Add()
		c.Converge()
		if err := c.Node(0).Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Converge()
		time.Sleep(2 * time.Minute)
		caches = cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		if n := reload(t, caches[1:], o, keys); n != 0 {
			t.Errorf("%d loads after a join and a leave right behind it, want none", n)
		}
	})
}

// Where a platform tells the nodes their peers, the others go on taking a node that leaves
// for the owner until they are told.
func TestLeaveHandsOverWithoutGossip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 3)
		c.setPeers()
		o := &origin{}
		caches := bareCaches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		keys := warm(t, caches, o, 300)
		time.Sleep(2 * time.Minute) // peeks are over
		if err := c.nodes[0].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes[1:] {
			if err := n.SetPeers(c.nodes[1].Self(), c.nodes[2].Self()); err != nil {
				t.Fatal(err)
			}
		}
		if n := reload(t, caches[1:], o, keys); n != 0 {
			t.Errorf("%d loads after a node has left, want none", n)
		}
		for _, n := range c.nodes[1:] {
			if err := n.Leave(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}
