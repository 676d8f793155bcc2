package lru_test

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"strings"

	"github.com/peercache/peercache/lru"
)

// This file holds a cache against a map beside it, which learns from departures who
// is gone. The calls are in machine_calls_test.go, and which of them are played is up
// to pick: see model_test.go. That they all run on one goroutine makes the rules
// strict: a Set that fits is never refused, and nobody leaves but for a reason.

const never = math.MaxInt64

type value struct {
	N       int // another one for each value
	Size    int64
	Expires int64
	Minor   bool
}

func (v value) terms() lru.Terms {
	return lru.Terms{Size: v.Size, Expires: v.Expires, Minor: v.Minor}
}

func charge(key string, size int64) int64 {
	return int64(len(key)) + size + lru.Overhead
}

type departure struct {
	key   string
	v     value
	cause lru.Cause
}

type call struct {
	name string
	key  string
	v    value
}

type sums struct{ all, minor int64 }

// A machine is a cache and the map that it should be.
type machine struct {
	fatal func(format string, args ...any)
	pick  func(n int) int // 0 to n-1
	keys  []string
	seed  maphash.Seed // one for all runs of a test, so that a failure can be made smaller

	c     *lru.Cache[value]
	first int64 // MaxBytes at the beginning
	max   int64 // MaxBytes now
	minor int64 // MinorBytes as Options has it
	now   int64

	held  map[string]value
	taken sums // by what is held
	stats lru.Stats
	n     int // values made
	gone  []departure
	calls []call
}

// start makes the cache that is to be played with.
func (m *machine) start(maxBytes int64, shards int) {
	m.first, m.max, m.held = maxBytes, maxBytes, map[string]value{}
	m.minor = []int64{0, -1, maxBytes / 5, maxBytes / 2, 2 * maxBytes}[m.pick(5)]
	m.now = []int64{-27 * 365 * 24 * 3600 * 1e9, -20, 0, 1e18}[m.pick(4)]
	m.c = lru.New[value](lru.Options[value]{
		MaxBytes: m.max, MinorBytes: m.minor, Shards: shards,
		OnDeparture: func(key string, v value, cause lru.Cause) {
			m.gone = append(m.gone, departure{key, v, cause})
		},
	})
	m.c.Seed(m.seed)
}

func (m *machine) failf(format string, args ...any) {
	var b strings.Builder
	fmt.Fprintf(&b, format, args...)
	fmt.Fprintf(&b, "\nat %d, MaxBytes %d, MinorBytes %d, after", m.now, m.max, m.minor)
	for _, c := range m.calls[max(0, len(m.calls)-30):] {
		fmt.Fprintf(&b, "\n\t%s %q %+v", c.name, c.key, c.v)
	}
	m.fatal("%s", b.String())
}

// step plays one call.
func (m *machine) step() {
	key := m.keys[m.pick(len(m.keys))]
	switch op := m.pick(32); {
	case op < 12:
		m.set(key, m.draw())
	case op < 16:
		m.update(key, m.draw())
	case op < 22:
		m.get(key)
	case op < 24:
		m.peek(key)
	case op < 26:
		m.remove(key)
	case op < 28:
		m.note("tick", "", value{})
		m.now += int64(m.pick(10))
	case op < 29:
		m.removeFunc(m.pick(4), key)
	case op < 30:
		m.hottest(m.pick(len(m.held) + 2))
	case op < 31:
		m.resize(m.first/4 + int64(m.pick(int(m.first))))
	default:
		m.clear()
	}
}

func (m *machine) note(name, key string, v value) {
	m.calls = append(m.calls, call{name, key, v})
	m.gone = m.gone[:0]
}

func (m *machine) draw() value {
	m.n++
	v := value{N: m.n, Minor: m.pick(3) == 0}
	if m.pick(8) == 0 {
		v.Size = int64(m.pick(int(m.first + m.first/8)))
	} else {
		v.Size = int64(m.pick(250))
	}
	v.Expires = []int64{-1, 0, 1, 5, 20, never, never, never}[m.pick(8)]
	if v.Expires < never {
		v.Expires += m.now
	}
	return v
}

func (m *machine) minorMax() int64 {
	if m.minor == 0 {
		return m.max / 8
	}
	return min(max(m.minor, 0), m.max)
}

func (m *machine) admits(key string, v value) bool {
	bytes := charge(key, v.Size)
	return bytes <= m.max && (!v.Minor || bytes <= m.minorMax())
}

func (m *machine) fresh(key string) (value, bool) {
	v, ok := m.held[key]
	if !ok || v.Expires <= m.now {
		return value{}, false
	}
	return v, true
}

func (m *machine) put(key string, v value) {
	m.drop(key)
	m.held[key] = v
	m.taken.all += charge(key, v.Size)
	if v.Minor {
		m.taken.minor += charge(key, v.Size)
	}
}

func (m *machine) drop(key string) {
	v, ok := m.held[key]
	if !ok {
		return
	}
	delete(m.held, key)
	m.taken.all -= charge(key, v.Size)
	if v.Minor {
		m.taken.minor -= charge(key, v.Size)
	}
}

// A toll is what a call cost others.
type toll struct {
	evicted, minorEvicted int
	largest               int64 // of those that were evicted or had expired
}

// settle takes from the map what is said to have departed: each must have been
// there exactly so, have had a cause for it, and may allow it.
func (m *machine) settle(may func(d departure) bool) (t toll) {
	for _, d := range m.gone {
		v, ok := m.held[d.key]
		if !ok || v != d.v {
			m.failf("departure of %q, %+v, %v, want only what is there: %+v, %t", d.key, d.v, d.cause, v, ok)
		}
		expired := d.v.Expires <= m.now
		if d.cause == lru.Expired && !expired || d.cause == lru.Evicted && expired || !may(d) {
			m.failf("departure of %q, %+v for being %v", d.key, d.v, d.cause)
		}
		m.drop(d.key)
		switch d.cause {
		case lru.Evicted:
			m.stats.Evictions++
			if v.Minor {
				t.minorEvicted++
			} else {
				t.evicted++
			}
			t.largest = max(t.largest, charge(d.key, v.Size))
		case lru.Expired:
			m.stats.Expirations++
			t.largest = max(t.largest, charge(d.key, v.Size))
		case lru.Removed:
			m.stats.Removals++
		case lru.Replaced:
			m.stats.Replacements++
		case lru.Cleared:
			m.stats.Cleared++
		default:
			m.failf("departure of %q for being %v", d.key, d.cause)
		}
	}
	return t
}

// others returns what all entries but that of key take.
func (m *machine) others(key string) sums {
	s := m.taken
	if v, ok := m.held[key]; ok {
		s.all -= charge(key, v.Size)
		if v.Minor {
			s.minor -= charge(key, v.Size)
		}
	}
	return s
}

// checkToll holds who was evicted for v against who had to be. A minor entry may
// displace major ones while others of its class are left, but minor ones only for
// the sake of MinorBytes.
func (m *machine) checkToll(key string, v value, others sums, cost toll) {
	bytes := charge(key, v.Size)
	fits := others.all+bytes <= m.max
	minorFits := !v.Minor || others.minor+bytes <= m.minorMax()
	switch {
	case cost.evicted+cost.minorEvicted > 0 && fits && minorFits:
		m.failf("%+v for %q, %+v with %+v taken by others: there was room", cost, key, v, others)
	case cost.evicted > 0 && !v.Minor && m.taken.minor > 0:
		m.failf("%+v for a major entry, and %d minor bytes are left", cost, m.taken.minor)
	case cost.evicted > 0 && v.Minor && fits:
		m.failf("%+v for the sake of MinorBytes", cost)
	case cost.minorEvicted > 0 && v.Minor && minorFits:
		m.failf("%+v for a minor entry with %+v taken by others", cost, others)
	case cost.evicted+cost.minorEvicted > 0 && !v.Minor && m.max-m.taken.all >= cost.largest:
		m.failf("%+v for %q, %+v, and %d bytes are free: one less would have done", cost, key, v, m.max-m.taken.all)
	}
}

// check holds all that can be seen of the cache against the map.
func (m *machine) check() {
	if got := maps.Collect(m.c.All(math.MinInt64)); !maps.Equal(got, m.held) {
		m.failf("All = %+v, want %+v", got, m.held)
	}
	fresh := 0
	for k := range m.c.All(m.now) {
		if _, ok := m.fresh(k); !ok {
			m.failf("All(%d) has %q, which is not fresh", m.now, k)
		}
		fresh++
	}
	for _, k := range m.keys {
		want, ok := m.fresh(k)
		if got, gotOK := m.c.Peek(k, m.now); got != want || gotOK != ok {
			m.failf("Peek(%q) = %+v, %t, want %+v, %t", k, got, gotOK, want, ok)
		}
		if ok {
			fresh--
		}
	}
	if fresh != 0 {
		m.failf("All(%d) has %d entries too many", m.now, fresh)
	}
	if got := (sums{m.c.Bytes(), m.c.MinorBytes()}); got != m.taken || m.c.Len() != len(m.held) {
		m.failf("Bytes and MinorBytes = %+v, Len() = %d, want %+v, %d", got, m.c.Len(), m.taken, len(m.held))
	}
	if m.taken.all > m.max || m.taken.minor > m.minorMax() {
		m.failf("%+v are taken, want at most %d and %d", m.taken, m.max, m.minorMax())
	}
	if got := m.c.Stats(); got != m.stats {
		m.failf("Stats() = %+v, want %+v", got, m.stats)
	}
	if err := m.c.Audit(); err != nil {
		m.failf("%v", err)
	}
}
