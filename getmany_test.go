package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Many keys in one call.

func TestGetManySendsOneRequestToEachOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 3)
		c.setPeers()
		o := &origin{delay: 10 * time.Millisecond}
		caches := bareCaches(c, "c", o.load, nil)
		var keys []string
		want := make(map[string]string)
		for i := range 900 {
			key := fmt.Sprint("key-", i)
			keys = append(keys, key)
			want[key] = "value of " + key
		}
		start := time.Now()
		got, err := caches[0].GetMany(t.Context(), keys)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("GetMany: %d values, %v, want %d", len(got), err, len(want))
		}
		if d := time.Since(start); d > 50*time.Millisecond {
			t.Errorf("GetMany took %v, want the loads to run beside each other", d)
		}
		if n := c.requests.Load(); n != 2 {
			t.Errorf("%d requests, want one to each of the two other owners", n)
		}
		for _, key := range keys {
			if n := o.of(key); n != 1 {
				t.Errorf("%d loads of %s, want 1", n, key)
			}
		}
	})
}

func TestGetManySplitsWhatAFrameCannotHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 2)
		c.setPeers()
		caches := bareCaches(c, "c", (&origin{}).load, nil)
		keys := make([]string, 6000)
		for i := range keys {
			keys[i] = fmt.Sprint("key-", i)
		}
		got, err := caches[0].GetMany(t.Context(), keys)
		if err != nil || len(got) != len(keys) {
			t.Errorf("GetMany: %d values, %v, want %d", len(got), err, len(keys))
		}
		if n := c.requests.Load(); n != 3 {
			t.Errorf("%d requests for some 3,000 keys, want 3", n)
		}
	})
}

func TestGetManySharesFlightsWithGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{delay: 100 * time.Millisecond}
		caches := cachetest.Caches(c, "c", o.load, &peercache.Options{HotTTL: -1})
		keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		var wg sync.WaitGroup
		for _, cache := range caches {
			for range 5 {
				wg.Go(func() {
					if got, err := cache.GetMany(t.Context(), keys); err != nil || len(got) != len(keys) {
						t.Errorf("GetMany: %d values, %v, want %d", len(got), err, len(keys))
					}
				})
				for _, key := range keys {
					wg.Go(func() { wantValue(t, cache, key) })
				}
			}
		}
		wg.Wait()
		for _, key := range keys {
			if n := o.of(key); n != 1 {
				t.Errorf("%d loads of %s, want 1", n, key)
			}
		}
	})
}

func TestGetManyGoesOnWhenAnOwnerIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		o := &origin{}
		caches := cachetest.Caches(c, "c", o.load, nil)
		c.Kill(2)
		keys := make([]string, 400)
		for i := range keys {
			keys[i] = fmt.Sprint("key-", i)
		}
		for i, cache := range caches {
			if i == 2 {
				continue
			}
			got, err := cache.GetMany(t.Context(), keys)
			if err != nil || len(got) != len(keys) {
				t.Errorf("GetMany: %d values, %v, want %d", len(got), err, len(keys))
			}
		}
		for _, key := range keys {
			if n := o.of(key); n != 1 {
				t.Errorf("%d loads of %s, want 1", n, key)
			}
		}
	})
}

func TestGetManyNamesKeyAndPeerOfWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		o := &origin{fail: errors.New("no")}
		caches := cachetest.Caches(c, "c", o.load, nil)
		keys := []string{"a", "b", "c", "d", "e", "f"}
		got, err := caches[0].GetMany(t.Context(), keys)
		if len(got) != 0 {
			t.Errorf("GetMany = %v, want nothing", got)
		}
		failed := make(map[string]string)
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			e := err.(*peercache.PeerError)
			failed[e.Key] = e.Peer
		}
		want := make(map[string]string)
		for _, key := range keys {
			want[key] = caches[0].Owner(key)
		}
		if diff := cmp.Diff(want, failed); diff != "" {
			t.Errorf("peers of failed keys (-want +got):\n%s", diff)
		}
	})
}

func TestBadKeyFailsAloneInGetMany(t *testing.T) {
	var calls atomic.Int32
	cache := peercache.New("c", constant(&calls, "v", time.Minute), nil)
	got, err := cache.GetMany(t.Context(), []string{"a", "", "b", "a"})
	if diff := cmp.Diff(map[string]string{"a": "v", "b": "v"}, got); diff != "" {
		t.Errorf("GetMany (-want +got):\n%s", diff)
	}
	failed, ok := errors.AsType[*peercache.PeerError](err)
	if !ok || failed.Key != "" || failed.Peer != "" {
		t.Errorf("GetMany: %v, want a *PeerError for the empty key, without a peer", err)
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("%d loads, want 2", n)
	}
}

func TestGetManyReturnsWhatItCould(t *testing.T) {
	failure := errors.New("broken")
	cache := peercache.New("c", func(_ context.Context, key string) (string, time.Duration, error) {
		switch key[0] {
		case 'm':
			return "", 0, peercache.ErrNotFound
		case 'f':
			return "", 0, failure
		}
		return "value of " + key, time.Minute, nil
	}, nil)
	keys := []string{"a1", "m1", "f1", "a2", "f2"}
	for range 2 { // the second time a1 and a2 are in memory
		got, err := cache.GetMany(t.Context(), keys)
		want := map[string]string{"a1": "value of a1", "a2": "value of a2"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("GetMany (-want +got):\n%s", diff)
		}
		if !errors.Is(err, failure) || errors.Is(err, peercache.ErrNotFound) {
			t.Errorf("GetMany: %v, want the failure and no not-found", err)
		}
		var failed []string
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			failed = append(failed, err.(*peercache.PeerError).Key)
		}
		slices.Sort(failed)
		if diff := cmp.Diff([]string{"f1", "f2"}, failed); diff != "" {
			t.Errorf("failed keys (-want +got):\n%s", diff)
		}
	}
	if got, err := cache.GetMany(t.Context(), nil); err != nil || got == nil || len(got) != 0 {
		t.Errorf("GetMany of nothing = %v, %v, want an empty map", got, err)
	}
}
