package lru_test

import (
	"testing"

	"github.com/peercache/peercache/lru"
)

func TestUpdateTakesRoomFromOtherShards(t *testing.T) {
	const maxBytes = 1 << 16
	c := lru.New[int](lru.Options[int]{MaxBytes: maxBytes, Shards: 64})
	fill(t, c, 1000)
	c.Set("k", 0, 1, major(0, never))
	size := maxBytes - charge("k", 0)
	grow := func(by int64) bool {
		return c.Update("k", 0, func(v int, _ lru.Terms) (int, lru.Terms) { return v + 1, major(size+by, never) })
	}
	if grow(1) {
		t.Error("Update to MaxBytes+1 = true, want false")
	}
	if v, _ := c.Peek("k", 0); v != 1 || c.Stats().Evictions > 1000 {
		t.Errorf("a refused Update left %d, want 1", v)
	}
	if !grow(0) {
		t.Error("Update to MaxBytes = false, want true")
	}
	if v, _ := c.Peek("k", 0); v != 2 || c.Len() != 1 || c.Bytes() != maxBytes {
		t.Errorf("v, Len(), Bytes() = %d, %d, %d, want 2, 1, %d", v, c.Len(), c.Bytes(), maxBytes)
	}
	audit(t, c)
}

func TestPanicInUpdateLeavesTheCacheWhole(t *testing.T) {
	for _, size := range []int64{10, 5000} { // the second makes f run twice
		c := lru.New[int](lru.Options[int]{MaxBytes: 8192, Shards: 64})
		fill(t, c, 100)
		c.Set("k", 0, 7, major(100, never))
		runs := 0
		func() {
			defer func() {
				if r := recover(); r != "boom" {
					t.Errorf("recovered %v, want boom", r)
				}
			}()
			c.Update("k", 0, func(v int, t lru.Terms) (int, lru.Terms) {
				if runs++; runs == 2 || size == 10 {
					panic("boom")
				}
				t.Size = size
				return v, t
			})
		}()
		if v, ok := c.Get("k", 0); v != 7 || !ok {
			t.Errorf("Get = %d, %t, want 7", v, ok)
		}
		var sum int64
		for k := range c.All(0) {
			sum += charge(k, 100)
		}
		if c.Bytes() != sum {
			t.Errorf("Bytes() = %d, want %d", c.Bytes(), sum)
		}
		if !c.Set("k", 0, 8, major(size, never)) {
			t.Error("Set = false after the panic, want true")
		}
		audit(t, c)
	}
}

// TestUpdateDoesNotCountAsUse: an entry that is changed again and again is as hot
// as one that is left alone, and less so than one that was read once. Nor does it
// count to be set again.
func TestUpdateDoesNotCountAsUse(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 16, Shards: 1})
	for _, k := range []string{"read", "updated", "set"} {
		c.Set(k, 0, 1, major(0, never))
	}
	c.Get("read", 0)
	for range 10 {
		c.Update("updated", 0, func(v int, t lru.Terms) (int, lru.Terms) { return v + 1, t })
		c.Set("set", 0, 2, major(0, never))
		c.Peek("updated", 0)
		for range c.All(0) {
			continue
		}
	}
	if got := c.Hottest(1, 0); len(got) != 1 || got[0].Key != "read" {
		t.Errorf("Hottest(1) = %+v, want the one that was read", got)
	}
	c.Get("set", 0) // a second one: reads are what counts
	c.Get("set", 0)
	if got := c.Hottest(1, 0); len(got) != 1 || got[0].Key != "set" {
		t.Errorf("Hottest(1) = %+v, want the one that was read twice", got)
	}
	if st := c.Stats(); st.Hits != 3 || st.Misses != 0 {
		t.Errorf("Stats() = %+v, want 3 hits", st)
	}
}

// TestUpdateToAnotherClassBeginsAnew: what an entry was used for in one class does
// not count in the other.
func TestUpdateToAnotherClassBeginsAnew(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 16, Shards: 1})
	for _, k := range []string{"a", "b"} {
		c.Set(k, 0, 1, minor(0, never))
	}
	c.Get("a", 0)
	c.Get("a", 0)
	c.Get("b", 0)
	for _, isMinor := range []bool{false, true} {
		c.Update("a", 0, func(v int, t lru.Terms) (int, lru.Terms) {
			t.Minor = isMinor
			return v, t
		})
	}
	if got := c.Hottest(1, 0); len(got) != 1 || got[0].Key != "b" {
		t.Errorf("Hottest(1) = %+v, want b, for a has begun anew", got)
	}
}

// TestUpdateSeesWhatCameMeanwhile: f runs twice where room has to be collected, and
// another value may have come in between.
func TestUpdateSeesWhatCameMeanwhile(t *testing.T) {
	var c *lru.Cache[int]
	meanwhile := func() {}
	c = lru.New[int](lru.Options[int]{MaxBytes: 1 << 16, Shards: 16, OnDeparture: func(string, int, lru.Cause) {
		do := meanwhile
		meanwhile = func() {}
		do()
	}})
	for _, gone := range []bool{false, true} {
		c.Clear()
		fill(t, c, 1000)
		c.Set("k", 0, 1, major(0, never))
		// The first run evicts a few entries of the shard, in vain.
		meanwhile = func() {
			if gone {
				c.Remove("k")
			} else {
				c.Set("k", 0, 2, major(10, never))
			}
		}
		var seen []int
		ok := c.Update("k", 0, func(v int, _ lru.Terms) (int, lru.Terms) {
			seen = append(seen, v)
			return 10 * v, major(1<<15, never)
		})
		v, found := c.Peek("k", 0)
		if gone && (ok || found || len(seen) != 1) || !gone && (!ok || v != 20 || len(seen) != 2) {
			t.Errorf("gone meanwhile = %t: Update = %t having seen %v, and left %d, %t", gone, ok, seen, v, found)
		}
		audit(t, c)
	}
}

func TestUpdateToAnEntryThatHasExpiredKeepsIt(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 16})
	c.Set("k", 10, 1, major(0, 20))
	if !c.Update("k", 10, func(v int, _ lru.Terms) (int, lru.Terms) { return v, major(0, 5) }) {
		t.Error("Update to an expiry that has passed = false, want true")
	}
	if _, ok := c.Peek("k", 10); ok || c.Len() != 1 || c.Stats() != (lru.Stats{}) {
		t.Errorf("Peek = %t, Len() = %d, Stats() = %+v, want an entry that is there and has expired", ok, c.Len(), c.Stats())
	}
	if c.Update("k", 10, func(v int, t lru.Terms) (int, lru.Terms) { return v, t }) {
		t.Error("Update of an expired entry = true, want false")
	}
	if c.Len() != 0 || c.Stats() != (lru.Stats{Expirations: 1}) {
		t.Errorf("Len() = %d, Stats() = %+v, want one expiration", c.Len(), c.Stats())
	}
}
