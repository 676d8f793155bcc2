package peercache_test

import (
	"context"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
)

// A staleness without an end, which people write as the largest number.

// Outside a bubble, where times are positive: within, no sum of a time and a duration
// is too large for an int64.
func TestStaleForWithoutEndStillReplaces(t *testing.T) {
	var calls atomic.Int32
	cache := peercache.New("c", constant(&calls, "v", time.Millisecond), &peercache.Options{StaleFor: math.MaxInt64})
	for start := time.Now(); calls.Load() < 3; runtime.Gosched() {
		if v, err := cache.Get(t.Context(), "key"); err != nil || v != "v" {
			t.Fatalf("Get = %q, %v, want v", v, err)
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("%d loads in 10 s, want one each time that the value is past its life", calls.Load())
		}
	}
	if s := cache.Stats(); s.StaleHits == 0 {
		t.Errorf("Stats = %+v, want stale hits", s)
	}
}

func TestStaleForWithoutEndIsServedStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		cache := peercache.New("c", func(_ context.Context, _ string) (string, time.Duration, error) {
			if calls.Add(1) > 1 {
				return "", 0, context.DeadlineExceeded
			}
			return "v", time.Minute, nil
		}, &peercache.Options{StaleFor: math.MaxInt64})
		for range 3 {
			if v, err := cache.Get(t.Context(), "key"); err != nil || v != "v" {
				t.Errorf("Get = %q, %v, want v", v, err)
			}
			time.Sleep(365 * 24 * time.Hour)
			synctest.Wait()
		}
		if _, ok := cache.Peek("key"); ok {
			t.Error("Peek returns a value past its life")
		}
	})
}
