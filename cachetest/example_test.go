package cachetest_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/cachetest"
)

// A test with three peers: each asks for the same user, and the origin is asked
// once.
func Example() {
	TestUserIsLoadedOnce := func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var loads atomic.Int32
			load := func(_ context.Context, id string) (string, time.Duration, error) {
				loads.Add(1)
				return "user " + id, time.Minute, nil
			}
			for _, users := range cachetest.Caches(cachetest.NewCluster(t, 3), "users", load, nil) {
				if u, err := users.Get(t.Context(), "42"); err != nil || u != "user 42" {
					t.Errorf("Get(42) = %q, %v", u, err)
				}
			}
			if n := loads.Load(); n != 1 {
				t.Errorf("loaded %d times, want 1", n)
			}
		})
	}
	_ = TestUserIsLoadedOnce // go test calls it
}

// A test that kills the owner of a value and goes on as soon as the others have
// seen it.
func ExampleCluster_Kill() {
	TestOthersTakeOver := func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cluster := cachetest.NewCluster(t, 3)
			load := func(_ context.Context, id string) (string, time.Duration, error) {
				return "user " + id, time.Minute, nil
			}
			users := cachetest.Caches(cluster, "users", load, nil)
			for i := range users {
				if users[i].Owner("42") == cluster.Node(i).Self().URL {
					cluster.Kill(i)
				}
			}
			cluster.Converge()
			for _, cache := range users { // that of the dead node is cut off, and works
				if u, err := cache.Get(t.Context(), "42"); err != nil || u != "user 42" {
					t.Errorf("Get(42) = %q, %v", u, err)
				}
			}
		})
	}
	_ = TestOthersTakeOver // go test calls it
}
