package lru_test

import (
	"strconv"
	"testing"

	"github.com/peercache/peercache/lru"
)

func TestHitDoesNotAllocate(t *testing.T) {
	for name, onDeparture := range map[string]func(string, record, lru.Cause){
		"": nil, ", watched": func(string, record, lru.Cause) {},
	} {
		c := lru.New[record](lru.Options[record]{MaxBytes: 1 << 20, OnDeparture: onDeparture})
		v, size := newRecord(100)
		for i := range 100 {
			c.Set(strconv.Itoa(i), 0, v, major(size, never))
		}
		update := func(v record, t lru.Terms) (record, lru.Terms) { return v, t }
		calls := map[string]func(){
			"Get":             func() { c.Get("42", 0) },
			"GetTerms":        func() { c.GetTerms("42", 0) },
			"Get of nothing":  func() { c.Get("nothing", 0) },
			"Peek":            func() { c.Peek("42", 0) },
			"Peek of nothing": func() { c.Peek("nothing", 0) },
			"Update":          func() { c.Update("42", 0, update) },
			"Len":             func() { c.Len() },
			"Stats":           func() { c.Stats() },
		}
		if onDeparture == nil {
			calls["Set of a known key"] = func() { c.Set("42", 0, v, major(size, never)) }
			calls["Set that is refused"] = func() { c.Set("large", 0, v, major(1<<20, never)) }
		}
		for call, f := range calls {
			if n := testing.AllocsPerRun(1000, f); n != 0 {
				t.Errorf("%s%s allocates %v times, want 0", call, name, n)
			}
		}
	}
}

// TestReplacingLikeByLikeDoesNotAllocate: an entry that evicts one of its size takes
// its place. What is left is tables that grow or shrink.
func TestReplacingLikeByLikeDoesNotAllocate(t *testing.T) {
	const n = 1000
	c := lru.New[record](lru.Options[record]{MaxBytes: n * charge("key:1000000", 132), Shards: 1})
	v, size := newRecord(100)
	keys := make([]string, 20*n)
	for i := range keys {
		keys[i] = "key:" + strconv.Itoa(1_000_000+i)
	}
	i := 0
	next := func() {
		c.Set(keys[i%len(keys)], 0, v, major(size, never))
		i++
	}
	for range 3 * n {
		next()
	}
	before := c.Stats().Evictions
	// AllocsPerRun rounds down to a whole number: ten Sets each.
	if got := testing.AllocsPerRun(n, func() {
		for range 10 {
			next()
		}
	}); got >= 1 {
		t.Errorf("ten Sets allocate %v times, want less than once", got)
	}
	if got := c.Stats().Evictions - before; got != 10*(n+1) {
		t.Errorf("%d evictions in %d Sets, want one each", got, 10*(n+1))
	}
}
