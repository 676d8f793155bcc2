package cachetest_test

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

// counted is a loader that counts its runs.
func counted(loads *atomic.Int32) peercache.Loader[string] {
	return func(_ context.Context, id string) (string, time.Duration, error) {
		loads.Add(1)
		return "user " + id, time.Minute, nil
	}
}

func wantGet(t *testing.T, c *peercache.Cache[string], key, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if got, err := c.Get(ctx, key); err != nil || got != want {
		t.Errorf("Get(%q) = %q, %v, want %q", key, got, err, want)
	}
}

// indexes are those of the nodes that node i sees.
func indexes(c *cachetest.Cluster, i int) []int {
	var seen []int
	for _, p := range c.Node(i).Peers() {
		for j := range c.Len() {
			if c.Node(j).Self().URL == p.URL {
				seen = append(seen, j)
			}
		}
	}
	slices.Sort(seen)
	return seen
}

func wantSees(t *testing.T, c *cachetest.Cluster, i int, want ...int) {
	t.Helper()
	if got := indexes(c, i); !slices.Equal(got, want) {
		t.Errorf("node %d sees %v, want %v", i, got, want)
	}
}

// ownedBy returns a key that node i owns.
func ownedBy(t *testing.T, c *cachetest.Cluster, cache *peercache.Cache[string], i int) string {
	t.Helper()
	for k := range 10_000 {
		if key := fmt.Sprint(k); cache.Owner(key) == c.Node(i).Self().URL {
			return key
		}
	}
	t.Fatalf("node %d owns nothing", i)
	return ""
}

// A recorder is a testing.TB that remembers how it failed.
type recorder struct {
	testing.TB
	mu       sync.Mutex // guards the fields below
	failures []string
	cleanups []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// failures runs a test and its cleanups, and returns how it failed.
func failures(t *testing.T, test func(tb testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	var group sync.WaitGroup
	group.Go(func() { test(r) })
	group.Wait()
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	return strings.Join(r.failures, "\n")
}

func wantFailure(t *testing.T, want string, test func(tb testing.TB)) {
	t.Helper()
	if got := failures(t, test); !strings.Contains(got, want) {
		t.Errorf("failed with %q, want %q in it", got, want)
	}
}

func TestThreePeersLoadOnce(t *testing.T) {
	three := func(t *testing.T) {
		var loads atomic.Int32
		for _, users := range cachetest.Caches(cachetest.NewCluster(t, 3), "users", counted(&loads), nil) {
			wantGet(t, users, "42", "user 42")
		}
		if n := loads.Load(); n != 1 {
			t.Errorf("loaded %d times, want 1", n)
		}
	}
	t.Run("bubble", func(t *testing.T) { synctest.Test(t, three) })
	t.Run("real", three)
}

func TestFiveNodesConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		if c.Len() != 5 {
			t.Errorf("Len = %d, want 5", c.Len())
		}
		for i := range 5 {
			wantSees(t, c, i, 0, 1, 2, 3, 4)
		}
	})
}

func TestClusterOfNoneGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 0)
		c.Converge()
		for want := range 3 {
			if got := c.Add(); got != want {
				t.Errorf("Add = %d, want %d", got, want)
			}
		}
		c.Converge()
		wantSees(t, c, 0, 0, 1, 2)
	})
}

func TestAddedNodeRunsTheSameProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		var loads atomic.Int32
		users := cachetest.Caches(c, "users", counted(&loads), nil)
		i := c.Add()
		c.Converge()
		longer := cachetest.Caches[string](c, "users", nil, nil)
		if len(users) != 2 || len(longer) != 3 {
			t.Fatalf("%d caches, then %d, want 2, then 3", len(users), len(longer))
		}
		if users[0] != longer[0] || users[1] != longer[1] {
			t.Error("the second call gave other caches")
		}
		for _, owner := range []int{0, i} { // in both directions
			key := ownedBy(t, c, longer[i], owner)
			for _, cache := range longer {
				wantGet(t, cache, key, "user "+key)
			}
		}
		if n := loads.Load(); n != 2 {
			t.Errorf("loaded %d times, want 2: two keys", n)
		}
	})
}

func TestOptionsAreCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		alone, err := peercache.NewNode("http://127.1.1.1:80", nil)
		if err != nil {
			t.Fatal(err)
		}
		opts := &peercache.Options{Node: alone, HotTTL: time.Second}
		var loads atomic.Int32
		caches := cachetest.Caches(c, "users", counted(&loads), opts)
		if opts.Node != alone {
			t.Error("the caller's options were changed")
		}
		if a, b := caches[0].Owner("42"), caches[1].Owner("42"); a != b || a == alone.Self().URL {
			t.Errorf("owners %s and %s, want one node of the cluster", a, b)
		}
	})
}

func TestKilledNodeIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		var loads atomic.Int32
		users := cachetest.Caches(c, "users", counted(&loads), nil)
		key := ownedBy(t, c, users[0], 1)
		wantGet(t, users[0], key, "user "+key)
		c.Kill(1)
		c.Kill(1)
		c.Converge()
		for _, i := range []int{0, 2, 3} {
			wantSees(t, c, i, 0, 2, 3)
		}
		if got := users[0].Owner(key); got == c.Node(1).Self().URL {
			t.Error("the dead node still owns its keys")
		}
		for _, cache := range users { // that of the dead one too
			wantGet(t, cache, "new", "user new")
		}
		if n := loads.Load(); n != 3 {
			t.Errorf("loaded %d times, want 3: one key before, another by the cluster and by the node cut off", n)
		}
		if i := c.Add(); i != 4 {
			t.Errorf("Add = %d, want 4: indexes keep their meaning", i)
		}
		c.Converge()
		wantSees(t, c, 0, 0, 2, 3, 4)
	})
}

func TestNodeThatLeftIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		if err := c.Node(0).Leave(t.Context()); err != nil {
			t.Errorf("Leave: %v", err)
		}
		c.Converge()
		wantSees(t, c, 0)
		wantSees(t, c, 1, 1, 2)
		c.Add() // though the first has left
		c.Converge()
		wantSees(t, c, 2, 1, 2, 3)
	})
}

func TestDelayIsThatOfBothNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		var loads atomic.Int32
		users := cachetest.Caches(c, "users", counted(&loads), nil)
		key := ownedBy(t, c, users[0], 1)
		wantGet(t, users[0], key, "user "+key) // connects
		c.Delay(0, 10*time.Millisecond)
		c.Delay(1, 5*time.Millisecond)
		for i, want := range map[int]time.Duration{0: 30 * time.Millisecond, 1: 0} {
			if err := users[i].Remove(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			wantGet(t, users[i], key, "user "+key)
			if got := time.Since(start); got < want || got > want+time.Millisecond {
				t.Errorf("Get at node %d took %v, want %v", i, got, want)
			}
		}
		c.Delay(0, 0)
		c.Delay(1, 0)
		c.Converge()
	})
}

func TestPartitionMakesClustersThatHealJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		var loads atomic.Int32
		users := cachetest.Caches(c, "users", counted(&loads), nil)
		c.Partition([]int{0, 1}, []int{2})
		c.Converge()
		wantSees(t, c, 0, 0, 1)
		wantSees(t, c, 1, 0, 1)
		wantSees(t, c, 2, 2)
		wantSees(t, c, 3, 3, 4)
		wantSees(t, c, 4, 3, 4)
		for _, cache := range users {
			wantGet(t, cache, "42", "user 42")
		}
		if n := loads.Load(); n != 3 {
			t.Errorf("loaded %d times, want once in each of 3 groups", n)
		}
		i := c.Add() // among those not named
		c.Converge()
		wantSees(t, c, i, 3, 4, 5)
		c.Heal()
		c.Converge()
		wantSees(t, c, 2, 0, 1, 2, 3, 4, 5)
	})
}

func TestPausedNodeComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		var loads atomic.Int32
		users := cachetest.Caches(c, "users", counted(&loads), nil)
		key := ownedBy(t, c, users[0], 1)
		c.Pause(1)
		wantGet(t, users[0], key, "user "+key) // by another's load
		c.Converge()
		wantSees(t, c, 0, 0, 2)
		c.Resume(1)
		c.Converge()
		wantSees(t, c, 0, 0, 1, 2)
		wantSees(t, c, 1, 0, 1, 2)
	})
}

func TestShortPauseGoesUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		var loads atomic.Int32
		users := cachetest.Caches(c, "users", counted(&loads), nil)
		key := ownedBy(t, c, users[0], 1)
		c.Pause(1)
		time.AfterFunc(100*time.Millisecond, func() { c.Resume(1) })
		start := time.Now()
		wantGet(t, users[0], key, "user "+key)
		if got := time.Since(start); got < 100*time.Millisecond {
			t.Errorf("answered after %v, while the owner was paused", got)
		}
		c.Converge()
	})
}

func TestConvergeSaysWhoSeesWhom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wantFailure(t, "node 0 sees [0], want [0 1 2]", func(tb testing.TB) {
			c := cachetest.NewCluster(tb, 3)
			c.Delay(0, time.Hour)
			time.Sleep(time.Minute)
			c.Converge()
		})
	})
}

func TestMisuseFailsTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		number := func(context.Context, string) (int, time.Duration, error) { return 0, 0, nil }
		for want, test := range map[string]func(tb testing.TB){
			"no node 2: there are 2": func(tb testing.TB) { cachetest.NewCluster(tb, 2).Kill(2) },
			"no node -1":             func(tb testing.TB) { cachetest.NewCluster(tb, 2).Node(-1) },
			"cluster of -1":          func(tb testing.TB) { cachetest.NewCluster(tb, -1) },
			"delay of -1s":           func(tb testing.TB) { cachetest.NewCluster(tb, 1).Delay(0, -time.Second) },
			"node 0 is in two":       func(tb testing.TB) { cachetest.NewCluster(tb, 1).Partition([]int{0}, []int{0}) },
			`"users" needs a loader`: func(tb testing.TB) {
				cachetest.Caches[string](cachetest.NewCluster(tb, 1), "users", nil, nil)
			},
			"of another type than string": func(tb testing.TB) {
				c := cachetest.NewCluster(tb, 1)
				cachetest.Caches(c, "users", number, nil)
				cachetest.Caches(c, "users", counted(new(atomic.Int32)), nil)
			},
		} {
			wantFailure(t, want, test)
		}
	})
}

func TestCleanupEndsLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := failures(t, func(tb testing.TB) {
			c := cachetest.NewCluster(tb, 2)
			users := cachetest.Caches(c, "users", func(ctx context.Context, _ string) (string, time.Duration, error) {
				<-ctx.Done()
				return "", 0, ctx.Err()
			}, nil)
			ctx, cancel := context.WithTimeout(tb.Context(), time.Millisecond)
			defer cancel()
			if _, err := users[0].Get(ctx, "42"); !errors.Is(err, context.DeadlineExceeded) {
				tb.Errorf("Get: %v, want %v", err, context.DeadlineExceeded)
			}
		})
		if got != "" {
			t.Errorf("failed with %q", got)
		}
	})
}

func TestCleanupNamesLoadsThatGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		wantFailure(t, "loads are still running: users (1)", func(tb testing.TB) {
			c := cachetest.NewCluster(tb, 1)
			users := cachetest.Caches(c, "users", func(context.Context, string) (string, time.Duration, error) {
				<-release // whatever its context says
				return "", 0, nil
			}, nil)
			ctx, cancel := context.WithTimeout(tb.Context(), time.Millisecond)
			defer cancel()
			_, _ = users[0].Get(ctx, "42")
		})
		close(release)
	})
}

// TestMain looks for what these leave behind.
func TestClustersRunInParallel(t *testing.T) {
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			c := cachetest.NewCluster(t, 3)
			var loads atomic.Int32
			users := cachetest.Caches(c, "users", counted(&loads), nil)
			for _, cache := range users {
				wantGet(t, cache, "42", "user 42")
			}
			c.Kill(2)
			wantGet(t, users[0], "43", "user 43")
			if n := loads.Load(); n != 2 {
				t.Errorf("loaded %d times, want 2", n)
			}
		})
	}
}
