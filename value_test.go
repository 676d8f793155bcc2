package peercache_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Typed values and their codecs.

func TestTypedValuesAreDecodedOncePerProcessAndAlikeEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 3)
		var marshals, unmarshals atomic.Int32
		caches := cachetest.Caches(c, "c", func(_ context.Context, key string) (*user, time.Duration, error) {
			return &user{Name: key, Tags: []string{"x"}, lost: 7}, time.Hour, nil
		}, &peercache.Options{Codec: countingJSON(&marshals, &unmarshals), HotTTL: time.Hour})
		key := ownedBy(t, c, caches[0], "k", 2)
		for i, cache := range caches { // the owner is the last to read
			first, err := cache.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if first.Name != key || first.lost != 0 {
				t.Errorf("node %d: Get = %+v, want what the codec keeps of it", i, first)
			}
			for range 3 {
				if again, err := cache.Get(t.Context(), key); err != nil || again != first {
					t.Errorf("node %d: Get = %p, %v, want the shared %p", i, again, err, first)
				}
			}
			if u := unmarshals.Load(); u != int32(i)+1 {
				t.Errorf("decoded %d times in %d processes, want once in each", u, i+1)
			}
			if held := cache.Stats().Bytes; held < int64(2*len(`{"Name":"k0","Tags":["x"]}`)) {
				t.Errorf("node %d holds %d bytes, want the decoded value charged too", i, held)
			}
		}
		if m := marshals.Load(); m != 1 {
			t.Errorf("encoded %d times, want 1", m)
		}
	})
}

func TestBytesThatCannotBeDecodedMakeTheOwnerUnusable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBareNodes(t, 2)
		c.setPeers()
		load := func(context.Context, string) (user, time.Duration, error) {
			return user{Name: "gopher"}, time.Hour, nil
		}
		xml := peercache.Codec{
			Marshal:   func(any) ([]byte, error) { return []byte("<user>"), nil },
			Unmarshal: func(data []byte, _ any) error { panic("no xml here: " + string(data)) },
		}
		a := peercache.New("c", load, &peercache.Options{Node: c.nodes[0]})
		peercache.New("c", load, &peercache.Options{Node: c.nodes[1], Codec: xml})
		var key string
		for i := 0; key == "" || a.Owner(key) != c.nodes[1].Self().URL; i++ {
			key = fmt.Sprint("k", i)
		}
		if u, err := a.Get(t.Context(), key); err != nil || u.Name != "gopher" {
			t.Errorf("Get = %+v, %v, want a load of its own", u, err)
		}
		if s := a.Stats(); s.Loads != 1 || s.PeerErrors != 1 {
			t.Errorf("Stats = %+v, want 1 load and 1 peer that failed", s)
		}
	})
}

type user struct {
	Name string
	Tags []string
	lost int
}

func TestTypedValueWithoutANodeIsTheLoadersOwn(t *testing.T) {
	var marshals, unmarshals atomic.Int32
	own := &user{Name: "gopher", lost: 1}
	cache := peercache.New("c", func(context.Context, string) (*user, time.Duration, error) {
		return own, time.Minute, nil
	}, &peercache.Options{Codec: countingJSON(&marshals, &unmarshals)})
	for range 3 {
		if u, err := cache.Get(t.Context(), "k"); err != nil || u != own {
			t.Errorf("Get = %p, %v, want the loader's %p", u, err, own)
		}
	}
	if m, u := marshals.Load(), unmarshals.Load(); m != 1 || u != 0 {
		t.Errorf("encoded %d times and decoded %d times, want 1 and 0", m, u)
	}
}

// countingJSON is JSON that counts.
func countingJSON(marshals, unmarshals *atomic.Int32) peercache.Codec {
	return peercache.Codec{
		Marshal: func(v any) ([]byte, error) {
			marshals.Add(1)
			return json.Marshal(v)
		},
		Unmarshal: func(data []byte, v any) error {
			unmarshals.Add(1)
			return json.Unmarshal(data, v)
		},
	}
}

func TestValueThatCannotBeEncodedIsAnErrorOfTheLoad(t *testing.T) {
	cache := peercache.New("c", func(context.Context, string) (func(), time.Duration, error) {
		return func() {}, time.Minute, nil
	}, nil)
	if _, err := cache.Get(t.Context(), "k"); err == nil {
		t.Error("Get of a func: no error")
	}
	if s := cache.Stats(); s.LoadErrors != 1 || s.Entries != 0 {
		t.Errorf("Stats = %+v, want one failed load and no entry", s)
	}
	if err := cache.Set(t.Context(), "k", func() {}, 0); err == nil {
		t.Error("Set of a func: no error")
	}
}

func TestByteSlicesAreCopiedInAndOut(t *testing.T) {
	origin := []byte("value")
	cache := peercache.New("c", func(context.Context, string) ([]byte, time.Duration, error) {
		return origin, time.Minute, nil
	}, nil)
	b, err := cache.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	b[0], origin[1] = 'X', 'X'
	if b, err := cache.Get(t.Context(), "k"); err != nil || string(b) != "value" {
		t.Errorf("Get = %q, %v, want value", b, err)
	}
}
