package peercache_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Peers that fail: breakers, and what callers notice of it.

func TestDeadPeerIsAskedOnceAndSilentPeerThrice(t *testing.T) {
	for name, c := range map[string]struct {
		fail  func(*cachetest.Cluster)
		asked int64
	}{
		"refused": {func(c *cachetest.Cluster) { c.Kill(1) }, 1},
		"silent":  {func(c *cachetest.Cluster) { c.Pause(1) }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := cachetest.NewCluster(t, 4)
				o := &origin{}
				caches := cachetest.Caches(cluster, "c", o.load, &peercache.Options{HotTTL: -1})
				time.Sleep(2 * time.Minute) // peeks, which a silent peer delays, are over
				c.fail(cluster)
				for i := range c.asked + 20 {
					wantValue(t, caches[0], ownedBy(t, cluster, caches[0], fmt.Sprint("k", i, "-"), 1))
				}
				s := cluster.Node(0).Stats()
				if s.Failovers != c.asked || s.Skips != 20 || s.Breakers != 1 || s.Tripped != 1 {
					t.Errorf("Stats = %+v, want %d failovers, 20 skips, 1 breaker that opened once", s, c.asked)
				}
				if want := map[string]int64{"silent": 3}[name]; s.Silences != want {
					t.Errorf("%d silences, want %d", s.Silences, want)
				}
				if s := caches[0].Stats(); s.PeerErrors != c.asked {
					t.Errorf("%d peer errors, want %d", s.PeerErrors, c.asked)
				}
			})
		})
	}
}

func TestBreakerLetsOneProbeThroughAndClosesWhenItIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 2)
		c.setPeers()
		caches := bareCaches(c, "c", (&origin{}).load, &peercache.Options{HotTTL: -1})
		n := 0
		get := func() { // of a key of the other node that nobody has asked for
			for n++; caches[0].Owner(fmt.Sprint("key-", n)) != c.nodes[1].Self().URL; n++ {
			}
			wantValue(t, caches[0], fmt.Sprint("key-", n))
		}
		c.broken.Store(true)
		for range 3 {
			get()
		}
		if s := c.nodes[0].Stats(); s.Breakers != 1 || c.requests.Load() != 3 {
			t.Fatalf("Stats = %+v after %d requests, want a breaker opened by 3", s, c.requests.Load())
		}
		// Open for 0.25, 0.5, 1, 2, 4, 8, 10 s, less or more a tenth.
		for range 3000 {
			time.Sleep(10 * time.Millisecond)
			get()
		}
		if probes := c.requests.Load() - 3; probes < 6 || probes > 8 {
			t.Errorf("%d probes in 30 s, want about 7", probes)
		}
		c.broken.Store(false)
		time.Sleep(11 * time.Second)
		before := c.requests.Load()
		for range 10 {
			get()
		}
		if s := c.nodes[0].Stats(); s.Breakers != 0 || c.requests.Load() != before+10 {
			t.Errorf("Stats = %+v after %d requests for 10 Gets, want the breaker closed by the first", s, c.requests.Load()-before)
		}
	})
}

func TestLoaderErrorsAndCancelledCallersOpenNoBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		caches := cachetest.Caches(c, "c", func(_ context.Context, key string) (string, time.Duration, error) {
			time.Sleep(time.Second)
			if key[0] == 'n' {
				return "", 0, peercache.ErrNotFound
			}
			return "", 0, errDown
		}, nil)
		for _, prefix := range []string{"n", "e"} {
			for i := range 10 {
				key := ownedBy(t, c, caches[0], fmt.Sprint(prefix, i, "-"), 1)
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond+time.Duration(i)*100*time.Millisecond)
				if _, err := caches[0].Get(ctx, key); err == nil {
					t.Error("Get: no error")
				}
				cancel()
			}
		}
		if s := c.Node(0).Stats(); s.Tripped != 0 || s.Failovers != 0 {
			t.Errorf("Stats = %+v, want no breaker opened", s)
		}
	})
}

func TestReturnOfAPeerClosesItsBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		c.Pause(1)
		deadline := time.Now().Add(30 * time.Second)
		for i := 0; time.Now().Before(deadline); i++ { // gossip gives it up meanwhile
			wantValue(t, caches[0], fmt.Sprint("key-", i))
			time.Sleep(50 * time.Millisecond)
		}
		c.Resume(1)
		c.Converge()
		if s := c.Node(0).Stats(); s.Breakers != 0 {
			t.Errorf("%d breakers open after the peer's return", s.Breakers)
		}
		before := caches[1].Stats().Served
		wantValue(t, caches[0], ownedBy(t, c, caches[0], "back", 1))
		if caches[1].Stats().Served == before {
			t.Error("the peer that is back is not asked")
		}
	})
}

// F2: a peer that accepts and never answers, for 10 s.
func TestPausedPeerIsHardlyNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		o := &origin{delay: 5 * time.Millisecond}
		caches := cachetest.Caches(c, "c", o.load, nil)
		const keys = 5000
		var mu sync.Mutex
		var took []time.Duration
		run := func(d time.Duration) {
			var wg sync.WaitGroup
			for i := range int(d / time.Millisecond) {
				time.Sleep(time.Millisecond) // open loop
				for _, node := range []int{0, 1, 2, 3} {
					wg.Go(func() {
						start := time.Now()
						wantValue(t, caches[node], fmt.Sprint("key-", zipfish(i*4+node)%keys))
						mu.Lock()
						took = append(took, time.Since(start))
						mu.Unlock()
					})
				}
			}
			wg.Wait()
		}
		run(time.Second)
		took = nil
		c.Pause(4)
		run(10 * time.Second)
		c.Resume(4)
		run(time.Second)
		slices.Sort(took)
		p99, longest := took[len(took)*99/100], took[len(took)-1]
		t.Logf("%d Gets, p99 %v, max %v", len(took), p99, longest)
		if p99 > 20*time.Millisecond || longest > 500*time.Millisecond {
			t.Errorf("p99 %v and max %v, want at most 20ms and 500ms", p99, longest)
		}
	})
}

// zipfish spreads i over numbers of which small ones are frequent.
func zipfish(i int) int {
	h := uint64(i) * 0x9e3779b97f4a7c15
	h ^= h >> 31
	shift := h % 13
	return int(h >> 20 & (1<<shift - 1))
}

func TestBreakerOfAPeerThatIsGoneIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var node *peercache.Node
		var err error
		node, err = peercache.NewNode("http://127.0.0.1:8001", &peercache.NodeOptions{
			Logger: discardLogger(),
			Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				if err := node.SetPeers(node.Self()); err != nil { // it is found dead meanwhile
					t.Error(err)
				}
				return nil, syscall.ECONNREFUSED
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		peer := peercache.Peer{URL: "http://127.0.0.1:8002"}
		if err := node.SetPeers(node.Self(), peer); err != nil {
			t.Fatal(err)
		}
		cache := peercache.New("c", (&origin{}).load, &peercache.Options{Node: node})
		key := "k"
		for cache.Owner(key) != peer.URL {
			key += "k"
		}
		wantValue(t, cache, key)
		if s := node.Stats(); s.Breakers != 0 || s.Peers != 1 {
			t.Errorf("Stats = %+v, want no breaker: there is no peer", s)
		}
	})
}
