package peercache_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
	"github.com/peercache/peercache/internal/wire"
)

// A wall clock that is wrong: nothing but the fence reads it, and to the fence it only says
// that the machine may have slept.

const (
	wallTTL    = 10 * time.Second
	wallHotTTL = 3 * time.Second
	wallDelay  = 5 * time.Millisecond // of each node, each way
	wallRTT    = 4 * wallDelay
)

// A dated is the origin of values that say when they were loaded, and how often they were.
type dated struct {
	t *testing.T

	mu   sync.Mutex
	last map[string]time.Time // when each key was loaded last
	n    int
}

// load checks that the value before has lived for all of its life but the jitter.
func (d *dated) load(_ context.Context, key string) (time.Time, time.Duration, error) {
	at := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if last, again := d.last[key]; again && at.Sub(last) < wallTTL*95/100 {
		d.t.Errorf("%s is loaded again after %v, want at least 95 %% of %v", key, at.Sub(last), wallTTL)
	}
	d.last[key] = at
	d.n++
	return at, wallTTL, nil
}

// drive has each cache asked for each of the keys every 20 ms, and checks that nothing is
// served past its life.
func (d *dated) drive(caches []*peercache.Cache[time.Time], keys []string, length time.Duration) (gets int64) {
	var wg sync.WaitGroup
	var n atomic.Int64
	end := time.Now().Add(length)
	for node, cache := range caches {
		for _, key := range keys {
			wg.Go(func() {
				for time.Now().Before(end) {
					start := time.Now()
					loaded, err := cache.Get(d.t.Context(), key)
					switch age := start.Sub(loaded); {
					case err != nil:
						d.t.Errorf("node %d: Get(%s): %v", node, key, err)
					case age > wallTTL+wallRTT+100*time.Millisecond:
						d.t.Errorf("node %d: Get(%s) returns what was loaded %v ago, want at most %v", node, key, age, wallTTL)
					}
					if took := time.Since(start); took > 100*time.Millisecond+wallRTT {
						d.t.Errorf("node %d: Get(%s) took %v", node, key, took)
					}
					n.Add(1)
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
	}
	wg.Wait()
	return n.Load()
}

func TestWrongWallClockMovesNoExpiryAndCausesNoLoad(t *testing.T) {
	for name, c := range map[string]struct {
		wall  func(since time.Duration) time.Duration // how far it is off
		jumps int64                                   // how often that changes by much in a minute
	}{
		"right":            {func(time.Duration) time.Duration { return 0 }, 0},
		"5 minutes ahead":  {func(time.Duration) time.Duration { return 5 * time.Minute }, 1},
		"5 minutes behind": {func(time.Duration) time.Duration { return -5 * time.Minute }, 1},
		"jumping": {func(since time.Duration) time.Duration {
			return []time.Duration{0, 5 * time.Minute, -5 * time.Minute, 24 * time.Hour}[min(since, 58*time.Second)/(2*time.Second)%4]
		}, 29},
		"drifting": {func(since time.Duration) time.Duration { return since / 10 }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &dated{t: t, last: make(map[string]time.Time)}
				cluster := cachetest.NewCluster(t, 5)
				caches := cachetest.Caches(cluster, "c", d.load, &peercache.Options{HotTTL: wallHotTTL})
				for i := range caches {
					cluster.Delay(i, wallDelay)
				}
				var keys []string
				for owner := range caches {
					for i := range 3 {
						keys = append(keys, ownedBy(t, cluster, caches[0], fmt.Sprint("k", owner, "-", i, "-"), owner))
					}
				}
				time.Sleep(2 * time.Second) // until the nodes have caught up with nothing
				started := time.Now()
				peercache.SetWall(cluster.Node(1), func() time.Time {
					now := time.Now()
					return now.Add(c.wall(now.Sub(started)))
				})
				gets := d.drive(caches, keys, time.Minute)
				t.Logf("%d Gets, %d loads of %d keys in a minute", gets, d.n, len(keys))
				if want := len(keys) * 7; d.n > want {
					t.Errorf("%d loads, want at most %d", d.n, want)
				}
				for i := range caches {
					want := int64(0)
					if i == 1 {
						want = c.jumps
					}
					if got := cluster.Node(i).Stats().Fences; got != want {
						t.Errorf("node %d: its fence was raised %d times, want %d", i, got, want)
					}
				}
			})
		})
	}
}

// slowSyncs are bare nodes that take their time to tell each other what they have missed.
type slowSyncs struct{ *bareNodes }

func (s slowSyncs) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	if len(body) > 0 { // else it is about an upgrade
		var req wire.Request
		frame, err := wire.NewReader(bytes.NewReader(body)).Next()
		if err == nil {
			err = wire.Unmarshal(frame, &req)
		}
		if err != nil {
			return nil, err
		}
		if req.GetSync() != nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
	return s.bareNodes.RoundTrip(r)
}

func TestPeerOverPlainHTTPWaitsForTheFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBareNodes(t, 1)
		slow, err := peercache.NewNode("http://127.0.0.1:8002", &peercache.NodeOptions{Transport: slowSyncs{b}, Logger: discardLogger()})
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.Handle(slow.Handler())
		b.handlers["127.0.0.1:8002"] = mux
		b.nodes = append(b.nodes, slow)
		defer func() { _ = slow.Leave(t.Context()) }()
		b.setPeers()
		o := &origin{}
		caches := bareCaches(b, "c", o.load, &peercache.Options{HotTTL: -1})
		key := ""
		for i := 0; key == "" || caches[0].Owner(key) != slow.Self().URL; i++ {
			key = fmt.Sprint("k", i)
		}
		time.Sleep(2 * time.Second)
		wantValue(t, caches[0], key)
		peercache.SetWall(slow, func() time.Time { return time.Now().Add(time.Hour) })
		for slow.Stats().Fences == 0 {
			time.Sleep(time.Millisecond)
		}
		start := time.Now()
		wantValue(t, caches[0], key)
		if took := time.Since(start); took < 40*time.Millisecond {
			t.Errorf("Get took %v, want it to wait for the rest of the 50ms of the sync", took)
		}
		if n := o.of(key); n != 1 {
			t.Errorf("%d loads, want 1", n)
		}
	})
}
