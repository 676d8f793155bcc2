package lru_test

import (
	"maps"

	"github.com/peercache/peercache/lru"
)

// This file is the calls of a machine: each does to the map what the cache should
// do, and says who may depart on the way.

func (m *machine) set(key string, v value) {
	m.note("Set", key, v)
	old, had := m.held[key]
	others := m.others(key)
	want := m.admits(key, v) && v.Expires > m.now
	if got := m.c.Set(key, m.now, v, v.terms()); got != want {
		m.failf("Set(%q, %+v) = %t, want %t", key, v, got, want)
	}
	cost := m.settle(func(d departure) bool {
		if d.key == key {
			return d.cause == lru.Replaced || want && d.cause == lru.Expired
		}
		return want && (d.cause == lru.Evicted || d.cause == lru.Expired)
	})
	if _, ok := m.held[key]; ok {
		m.failf("Set(%q) replaced %+v, %t, but does not say so", key, old, had)
	}
	if want {
		m.put(key, v)
		m.checkToll(key, v, others, cost)
	}
}

func (m *machine) update(key string, v value) {
	m.note("Update", key, v)
	old, fresh := m.fresh(key)
	others := m.others(key)
	want := fresh && m.admits(key, v)
	got := m.c.Update(key, m.now, func(had value, on lru.Terms) (value, lru.Terms) {
		if had != old || on != old.terms() {
			m.failf("Update(%q) shows %+v on %+v, want %+v", key, had, on, old)
		}
		return v, v.terms()
	})
	if got != want {
		m.failf("Update(%q, %+v) = %t, want %t", key, v, got, want)
	}
	cost := m.settle(func(d departure) bool {
		if d.key == key {
			return !fresh && d.cause == lru.Expired
		}
		return want && (d.cause == lru.Evicted || d.cause == lru.Expired)
	})
	if _, held := m.held[key]; held != fresh {
		m.failf("%q is there = %t after an Update that found it = %t", key, held, fresh)
	}
	if want {
		m.put(key, v)
		m.checkToll(key, v, others, cost)
	}
}

func (m *machine) get(key string) {
	m.note("Get", key, value{})
	want, fresh := m.fresh(key)
	got, expires, ok := m.c.GetTerms(key, m.now)
	if got != want || ok != fresh || expires != want.Expires {
		m.failf("GetTerms(%q) = %+v, %d, %t, want %+v, %t", key, got, expires, ok, want, fresh)
	}
	switch {
	case !ok:
		m.stats.Misses++
	case want.Minor:
		m.stats.MinorHits++
		fallthrough
	default:
		m.stats.Hits++
	}
	m.settle(func(d departure) bool { return d.key == key && d.cause == lru.Expired })
	if _, held := m.held[key]; held != fresh {
		m.failf("%q is there = %t after a Get that found it = %t", key, held, fresh)
	}
}

func (m *machine) peek(key string) {
	m.note("Peek", key, value{})
	want, fresh := m.fresh(key)
	got, expires, ok := m.c.PeekTerms(key, m.now)
	if got != want || ok != fresh || expires != want.Expires {
		m.failf("PeekTerms(%q) = %+v, %d, %t, want %+v, %t", key, got, expires, ok, want, fresh)
	}
	m.settle(func(departure) bool { return false })
}

func (m *machine) remove(key string) {
	m.note("Remove", key, value{})
	_, want := m.held[key]
	if got := m.c.Remove(key); got != want {
		m.failf("Remove(%q) = %t, want %t", key, got, want)
	}
	m.settle(func(d departure) bool { return d.key == key && d.cause == lru.Removed })
	if _, held := m.held[key]; held {
		m.failf("the map still has %q after Remove", key)
	}
}

// removeFunc drops minor entries, those with another N modulo 3 than the others,
// one key, or all.
func (m *machine) removeFunc(which int, key string) {
	m.note("RemoveFunc", key, value{N: which})
	goes := func(k string, v value) bool {
		return []bool{v.Minor, v.N%3 == 0, k == key, true}[which]
	}
	seen := map[string]value{}
	got := m.c.RemoveFunc(func(k string, v value) bool {
		if _, again := seen[k]; again {
			m.failf("RemoveFunc shows %q twice", k)
		}
		seen[k] = v
		return goes(k, v)
	})
	if !maps.Equal(seen, m.held) {
		m.failf("RemoveFunc shows %+v, want %+v", seen, m.held)
	}
	want := 0
	for k, v := range seen {
		if goes(k, v) {
			want++
		}
	}
	if got != want || len(m.gone) != want {
		m.failf("RemoveFunc = %d with %d departures, want %d", got, len(m.gone), want)
	}
	m.settle(func(d departure) bool { return goes(d.key, d.v) && d.cause == lru.Removed })
}

func (m *machine) hottest(n int) {
	m.note("Hottest", "", value{N: n})
	list := m.c.Hottest(n, m.now)
	fresh := 0
	for k := range m.held {
		if _, ok := m.fresh(k); ok {
			fresh++
		}
	}
	if len(list) != min(n, fresh) {
		m.failf("Hottest(%d) has %d entries of %d fresh ones", n, len(list), fresh)
	}
	seen := map[string]bool{}
	for i, e := range list {
		if v, ok := m.fresh(e.Key); !ok || v != e.Value || e.Terms != v.terms() || seen[e.Key] {
			m.failf("Hottest(%d) has %+v, want what is there, %+v, once", n, e, v)
		}
		if i > 0 && list[i-1].Terms.Minor && !e.Terms.Minor {
			m.failf("Hottest(%d) has the major %q after the minor %q", n, e.Key, list[i-1].Key)
		}
		seen[e.Key] = true
	}
	m.settle(func(departure) bool { return false })
}

func (m *machine) resize(maxBytes int64) {
	m.note("Resize", "", value{Size: maxBytes})
	m.c.Resize(maxBytes, m.now)
	before := m.taken
	m.max = maxBytes
	cost := m.settle(func(d departure) bool { return d.cause == lru.Evicted || d.cause == lru.Expired })
	switch {
	case len(m.gone) > 0 && before.all <= m.max && before.minor <= m.minorMax():
		m.failf("%+v, and all was within the bounds", cost)
	case cost.evicted > 0 && m.taken.minor > 0:
		m.failf("%+v, and %d minor bytes are left", cost, m.taken.minor)
	case m.max-m.taken.all >= cost.largest && m.minorMax()-m.taken.minor >= cost.largest && cost.largest > 0:
		m.failf("%+v, and %d bytes are free: one less would have done", cost, m.max-m.taken.all)
	}
}

func (m *machine) clear() {
	m.note("Clear", "", value{})
	m.c.Clear()
	m.settle(func(d departure) bool { return d.cause == lru.Cleared })
	if len(m.held) != 0 {
		m.failf("Clear did not report %+v", m.held)
	}
}
