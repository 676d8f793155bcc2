package peercache_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Keys that are asked of their owner all the time, in caches that keep no copies.

// burden has the first node ask for a key so often a second, for some seconds.
func burden(t *testing.T, cache *peercache.Cache[string], key string, rate, seconds int) {
	t.Helper()
	for range rate * seconds {
		wantValue(t, cache, key)
		time.Sleep(time.Second / time.Duration(rate))
	}
}

func TestHotKeyIsReadFromItsReplicasToo(t *testing.T) {
	for _, replicas := range []int{1, 2} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cachetest.NewCluster(t, 5)
				o := &origin{}
				caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1, Replicas: replicas})
				var key string
				for i := 0; key == "" || holds(caches[0], key); i++ {
					key = ownedBy(t, c, caches[0], fmt.Sprint("hot-", i, "-"), 1)
					wantValue(t, caches[1], key)
					time.Sleep(time.Second)
				}
				before := make([]int64, len(caches))
				for i, cache := range caches {
					before[i] = cache.Stats().Served
				}
				const rate, seconds = 4000, 5
				burden(t, caches[0], key, rate, seconds)
				shared := 0
				for i, cache := range caches {
					served := cache.Stats().Served - before[i]
					if served == 0 {
						continue
					}
					shared++
					if even := rate * seconds / int64(1+replicas); served < even*7/10 || served > even*13/10 {
						t.Errorf("node %d served %d of %d requests, want about %d", i, served, rate*seconds, even)
					}
				}
				if shared != 1+replicas {
					t.Errorf("%d nodes served it, want %d", shared, 1+replicas)
				}
				if s := caches[0].Stats(); s.PeerErrors != 0 {
					t.Errorf("%d peers asked in vain, want none", s.PeerErrors)
				}
				if n := o.of(key); n > 2 { // one that was to be removed again, and this
					t.Errorf("loaded %d times, want once", n)
				}
			})
		})
	}
}

func holds(cache *peercache.Cache[string], key string) bool {
	_, held := cache.Peek(key)
	return held
}

func TestKeyThatIsNotHotIsReadFromItsOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		caches := cachetest.Caches(c, "c", (&origin{}).load, &peercache.Options{HotTTL: -1, Replicas: 1})
		for i := 0; ; i++ {
			key := ownedBy(t, c, caches[0], fmt.Sprint("warm-", i, "-"), 1)
			wantValue(t, caches[1], key)
			time.Sleep(time.Second)
			if holds(caches[0], key) {
				continue
			}
			burden(t, caches[0], key, 500, 3)
			break
		}
		if s := caches[2].Stats(); s.Served != 0 {
			t.Errorf("the replica served %d requests, want none", s.Served)
		}
	})
}

// A replica may have had to make room, or be dead: who asked it then asks the owner, and
// nothing is loaded.
func TestHotKeyThatItsReplicaHasNotComesFromItsOwner(t *testing.T) {
	for name, lose := range map[string]func(*cachetest.Cluster, []*peercache.Cache[string]){
		"evicted":      func(_ *cachetest.Cluster, caches []*peercache.Cache[string]) { caches[2].Resize(1) },
		"closed there": func(_ *cachetest.Cluster, caches []*peercache.Cache[string]) { caches[2].Close() },
		"dead":         func(c *cachetest.Cluster, _ []*peercache.Cache[string]) { c.Kill(2) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cachetest.NewCluster(t, 3)
				o := &origin{}
				caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1, Replicas: 1})
				var key string
				for i := 0; key == "" || holds(caches[0], key); i++ {
					key = ownedBy(t, c, caches[0], fmt.Sprint("hot-", i, "-"), 1)
					wantValue(t, caches[1], key)
					time.Sleep(time.Second)
				}
				burden(t, caches[0], key, 4000, 2)
				if caches[2].Stats().Served == 0 {
					t.Fatal("the replica was not asked")
				}
				loads := o.total()
				lose(c, caches)
				burden(t, caches[0], key, 4000, 1)
				if n := o.total() - loads; n != 0 {
					t.Errorf("%d loads, want none", n)
				}
			})
		})
	}
}
