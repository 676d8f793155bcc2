package lru_test

import (
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache/lru"
)

// TestDepartureSaysWhy takes one entry through each way to leave.
func TestDepartureSaysWhy(t *testing.T) {
	type gone struct {
		Key   string
		V     int
		Cause string
	}
	set := func(c *lru.Cache[int], key string, v int, terms lru.Terms) { c.Set(key, 0, v, terms) }
	for name, test := range map[string]struct {
		do   func(c *lru.Cache[int])
		want []gone
	}{
		"Set that replaces":   {func(c *lru.Cache[int]) { set(c, "k", 2, major(0, never)) }, []gone{{"k", 1, "replaced"}}},
		"Set that is refused": {func(c *lru.Cache[int]) { set(c, "k", 2, major(5000, never)) }, []gone{{"k", 1, "replaced"}}},
		"Set of the expired":  {func(c *lru.Cache[int]) { set(c, "k", 2, major(0, 0)) }, []gone{{"k", 1, "replaced"}}},
		"Set of another":      {func(c *lru.Cache[int]) { set(c, "l", 2, major(0, never)) }, nil},
		"Set of all there is": {func(c *lru.Cache[int]) { set(c, "l", 2, major(4096-charge("l", 0), never)) }, []gone{{"k", 1, "evicted"}}},
		"Get":                 {func(c *lru.Cache[int]) { c.Get("k", 99) }, nil},
		"Get of the expired":  {func(c *lru.Cache[int]) { c.Get("k", 100) }, []gone{{"k", 1, "expired"}}},
		"Peek of the expired": {func(c *lru.Cache[int]) { c.Peek("k", 100) }, nil},
		"Set after expiry":    {func(c *lru.Cache[int]) { c.Set("l", 100, 2, major(0, never)) }, []gone{{"k", 1, "expired"}}},
		"Update": {func(c *lru.Cache[int]) {
			c.Update("k", 0, func(int, lru.Terms) (int, lru.Terms) { return 2, major(0, 1) })
		}, nil},
		"Update of the expired": {func(c *lru.Cache[int]) {
			c.Update("k", 100, func(int, lru.Terms) (int, lru.Terms) { return 2, major(0, never) })
		}, []gone{{"k", 1, "expired"}}},
		"Remove":                      {func(c *lru.Cache[int]) { c.Remove("k") }, []gone{{"k", 1, "removed"}}},
		"Remove of nothing":           {func(c *lru.Cache[int]) { c.Remove("l") }, nil},
		"RemoveFunc":                  {func(c *lru.Cache[int]) { c.RemoveFunc(func(string, int) bool { return true }) }, []gone{{"k", 1, "removed"}}},
		"RemoveFunc that wants none":  {func(c *lru.Cache[int]) { c.RemoveFunc(func(string, int) bool { return false }) }, nil},
		"Resize":                      {func(c *lru.Cache[int]) { c.Resize(10, 0) }, []gone{{"k", 1, "evicted"}}},
		"Resize after expiry":         {func(c *lru.Cache[int]) { c.Resize(10, 100) }, []gone{{"k", 1, "expired"}}},
		"Resize to what is still all": {func(c *lru.Cache[int]) { c.Resize(charge("k", 0), 100) }, nil},
		"Clear":                       {func(c *lru.Cache[int]) { c.Clear() }, []gone{{"k", 1, "cleared"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []gone
			c := lru.New[int](lru.Options[int]{MaxBytes: 4096, Shards: 1, OnDeparture: func(key string, v int, cause lru.Cause) {
				got = append(got, gone{key, v, cause.String()})
			}})
			set(c, "k", 1, major(0, 100))
			test.do(c)
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("departures (-want +got):\n%s", d)
			}
		})
	}
}

// TestDeparturesMayCallTheCache does in each callback what would wait for ever if a
// lock were held: calls for the same shard and others, and Sets that collect room
// from all of them.
func TestDeparturesMayCallTheCache(t *testing.T) {
	for _, shards := range []int{1, 2, 64} {
		var c *lru.Cache[int]
		depth, calls := 0, 0
		c = lru.New[int](lru.Options[int]{MaxBytes: 1 << 16, Shards: shards, OnDeparture: func(key string, v int, _ lru.Cause) {
			calls++
			if depth > 0 { // what the calls below drop
				return
			}
			depth++
			defer func() { depth-- }()
			c.Get(key, 0)
			c.Set(key, 0, v, major(0, never))
			c.Update(key, 0, func(v int, t lru.Terms) (int, lru.Terms) { return v, t })
			c.Remove(key)
			c.Set("large", 0, v, major(1<<15, never))
			c.Remove("large")
			switch calls % 64 {
			case 0:
				c.Resize(1<<16, 0)
				c.Hottest(10, 0)
			case 1:
				c.RemoveFunc(func(k string, _ int) bool { return k == "0" })
			case 2:
				c.Len()
				c.Stats()
				audit(t, c)
			}
		}})
		grow := func(key string, to int64) bool {
			return c.Update(key, 0, func(v int, t lru.Terms) (int, lru.Terms) {
				t.Size = to
				return v, t
			})
		}
		fill(t, c, 2000)
		c.Set("k", 0, 0, major(0, never))
		if !c.Set("k", 0, 0, major(1<<14, never)) || !grow("k", 1<<15) || !c.Set("k", 0, 0, major(0, 1)) {
			t.Errorf("%d shards: storing k = false, want true", shards)
		}
		c.Get("k", 1)
		fill(t, c, 100)
		c.RemoveFunc(func(k string, _ int) bool { return len(k) == 1 })
		c.Resize(1<<12, 0)
		c.Clear()
		if calls < 2000 {
			t.Errorf("%d shards: %d departures, want more than 2000", shards, calls)
		}
		audit(t, c)
	}
}

// TestUpdateHoldsNoLockWhileItReports: f may want more at its second run than room was
// collected for. What is evicted then is reported after the gathering is over, as is
// everything else.
func TestUpdateHoldsNoLockWhileItReports(t *testing.T) {
	var c *lru.Cache[int]
	runs, inside := 0, 0
	c = lru.New[int](lru.Options[int]{MaxBytes: 1 << 16, Shards: 2, OnDeparture: func(string, int, lru.Cause) {
		if runs == 2 {
			runs = 0 // once
			inside++
			c.Set("large", 0, 0, major(1<<15, never)) // gathers, too
		}
	}})
	fill(t, c, 1000)
	c.Set("k", 0, 0, major(0, never))
	c.Update("k", 0, func(v int, _ lru.Terms) (int, lru.Terms) {
		runs++
		return v, major(int64(20_000+1000*runs), never)
	})
	if inside != 1 {
		t.Errorf("%d departures after f ran twice, want one to count", inside)
	}
	audit(t, c)
}

// TestReportedKeysAreTheCallers: what lives in the place of an entry that has gone
// does not change the key that was reported.
func TestReportedKeysAreTheCallers(t *testing.T) {
	var gone []string
	c := lru.New[int](lru.Options[int]{MaxBytes: 3 * charge("0000", 0), Shards: 1, OnDeparture: func(key string, v int, _ lru.Cause) {
		if strconv.Itoa(1000+v) != key {
			t.Errorf("departure of %q with %d", key, v)
		}
		gone = append(gone, key)
	}})
	for i := range 100 {
		c.Set(strconv.Itoa(1000+i), 0, i, major(0, never))
	}
	seen := map[string]bool{}
	for _, k := range gone {
		seen[k] = true
	}
	if len(gone) != 97 || len(seen) != 97 {
		t.Errorf("%d departures of %d keys, want 97 of as many", len(gone), len(seen))
	}
}

func TestCausesHaveNames(t *testing.T) {
	for cause, want := range map[lru.Cause]string{
		lru.Evicted: "evicted", lru.Expired: "expired", lru.Removed: "removed", lru.Replaced: "replaced", lru.Cleared: "cleared", lru.Cleared + 1: "unknown", 255: "unknown",
	} {
		if got := cause.String(); got != want {
			t.Errorf("Cause(%d).String() = %q, want %q", cause, got, want)
		}
	}
}
