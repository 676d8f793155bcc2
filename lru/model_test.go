package lru_test

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peercache/peercache/lru"
)

const never = math.MaxInt64

type value struct {
	N       int
	Size    int64
	Expires int64
	Minor   bool
}

func (v value) terms() lru.Terms {
	return lru.Terms{Size: v.Size, Expires: v.Expires, Minor: v.Minor}
}

// A model is what one shard should be: a map and a slice. Its entries expire
// only for those who ask.
type model struct {
	max       int64
	minorMax  int64
	order     []string // the most recently used first
	values    map[string]value
	evictions int64
}

func charge(key string, size int64) int64 {
	return int64(len(key)) + size + lru.Overhead
}

// bytes returns the sum over the entries, and that over the minor ones.
func (m *model) bytes() (all, minor int64) {
	for k, v := range m.values {
		all += charge(k, v.Size)
		if v.Minor {
			minor += charge(k, v.Size)
		}
	}
	return all, minor
}

// ofClass returns the keys of a class in the order of use.
func (m *model) ofClass(minor bool) []string {
	return slices.DeleteFunc(slices.Clone(m.order), func(k string) bool { return m.values[k].Minor != minor })
}

func (m *model) fresh(key string, now int64) (value, bool) {
	v, ok := m.values[key]
	if !ok || v.Expires <= now {
		return value{}, false
	}
	return v, true
}

func (m *model) remove(key string) bool {
	_, ok := m.values[key]
	delete(m.values, key)
	m.order = slices.DeleteFunc(m.order, func(k string) bool { return k == key })
	return ok
}

func (m *model) touch(key string) {
	m.order = slices.DeleteFunc(m.order, func(k string) bool { return k == key })
	m.order = slices.Insert(m.order, 0, key)
}

// put replaces the value of key and evicts others, the last of a class first,
// until both sums fit: for a minor entry minor ones for their own sum and major
// ones for the other, for a major entry minor ones as long as there are any.
func (m *model) put(key string, v value) bool {
	if bytes := charge(key, v.Size); bytes > m.max || v.Minor && bytes > m.minorMax {
		return false
	}
	if old, ok := m.values[key]; ok && old.Minor != v.Minor {
		m.touch(key)
	}
	m.values[key] = v
	for {
		all, minor := m.bytes()
		switch {
		case minor > m.minorMax:
			m.evict(true, key)
		case all <= m.max:
			return true
		case v.Minor || !m.evict(true, key):
			m.evict(false, key)
		}
	}
}

func (m *model) evict(minor bool, keep string) bool {
	for _, k := range slices.Backward(m.ofClass(minor)) {
		if k != keep {
			m.remove(k)
			m.evictions++
			return true
		}
	}
	return false
}

func (m *model) set(key string, v value) bool {
	m.touch(key)
	if !m.put(key, v) {
		m.remove(key)
		return false
	}
	return true
}

var (
	keys  = rapid.SampledFrom(strings.Split(",a,b,c,dd,eee,ffff,ggggg,hhhhhhhh,i,j,k,l,m,n,o", ","))
	sizes = rapid.OneOf(rapid.Int64Range(0, 200), rapid.Int64Range(0, 2200))

	minors = rapid.Bool()
)

// TestOneShardIsAMapWithTheOrderOfUse plays random calls against the model:
// contents, order, bytes and evictions agree after each.
func TestOneShardIsAMapWithTheOrderOfUse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model{max: 2000, values: map[string]value{}}
		minorBytes := rapid.SampledFrom([]int64{0, -1, 600, 1500, 3000}).Draw(t, "MinorBytes")
		m.minorMax = map[int64]int64{0: 250, -1: 0, 600: 600, 1500: 1500, 3000: 2000}[minorBytes]
		c := lru.New[value](lru.Options[value]{MaxBytes: m.max, MinorBytes: minorBytes, Shards: 1})
		n := 0
		draw := func(t *rapid.T) (string, value) {
			n++
			return keys.Draw(t, "key"), value{n, sizes.Draw(t, "size"), never, minors.Draw(t, "minor")}
		}
		t.Repeat(map[string]func(*rapid.T){
			"Set": func(t *rapid.T) {
				k, v := draw(t)
				if got, want := c.Set(k, 0, v, v.terms()), m.set(k, v); got != want {
					t.Fatalf("Set(%q, %+v) = %t, want %t", k, v, got, want)
				}
			},
			"Get": func(t *rapid.T) {
				k := keys.Draw(t, "key")
				got, ok := c.Get(k, 0)
				want, wantOK := m.fresh(k, 0)
				if got != want || ok != wantOK {
					t.Fatalf("Get(%q) = %v, %t, want %v, %t", k, got, ok, want, wantOK)
				}
				if ok {
					m.touch(k)
				}
			},
			"Peek": func(t *rapid.T) {
				k := keys.Draw(t, "key")
				got, ok := c.Peek(k, 0)
				if want, wantOK := m.fresh(k, 0); got != want || ok != wantOK {
					t.Fatalf("Peek(%q) = %v, %t, want %v, %t", k, got, ok, want, wantOK)
				}
			},
			"Remove": func(t *rapid.T) {
				k := keys.Draw(t, "key")
				if got, want := c.Remove(k), m.remove(k); got != want {
					t.Fatalf("Remove(%q) = %t, want %t", k, got, want)
				}
			},
			"Update": func(t *rapid.T) {
				k, v := draw(t)
				old, want := m.fresh(k, 0)
				want = want && m.put(k, v)
				got := c.Update(k, 0, func(had value, on lru.Terms) (value, lru.Terms) {
					if had != old || on != old.terms() {
						t.Fatalf("Update(%q) shows %v on %+v, want %v", k, had, on, old)
					}
					return v, v.terms()
				})
				if got != want {
					t.Fatalf("Update(%q, %+v) = %t, want %t", k, v, got, want)
				}
			},
			"": func(t *rapid.T) {
				var order []string
				values := map[string]value{}
				for k, v := range c.All(0) {
					order, values[k] = append(order, k), v
				}
				if want := slices.Concat(m.ofClass(false), m.ofClass(true)); !slices.Equal(order, want) {
					t.Errorf("order of use = %q, want %q", order, want)
				}
				if d := cmp.Diff(m.values, values); d != "" {
					t.Errorf("contents (-want +got):\n%s", d)
				}
				if all, minor := m.bytes(); c.Bytes() != all || c.MinorBytes() != minor {
					t.Errorf("Bytes(), MinorBytes() = %d, %d, want %d, %d", c.Bytes(), c.MinorBytes(), all, minor)
				}
				if got, want := c.Stats(), (lru.Stats{Evictions: m.evictions}); got != want {
					t.Errorf("Stats() = %+v, want %+v", got, want)
				}
				if err := c.Audit(); err != nil {
					t.Error(err)
				}
			},
		})
	})
}

// TestEntriesExpireOnTime plays random calls and a moving clock against the
// model where there is room for everything: what is fresh is there, what has
// expired is not, and what is held is what is charged.
func TestEntriesExpireOnTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model{max: 1 << 20, minorMax: 1 << 19, values: map[string]value{}}
		c := lru.New[value](lru.Options[value]{MaxBytes: m.max, MinorBytes: m.minorMax, Shards: rapid.SampledFrom([]int{0, 1, 2, 8}).Draw(t, "shards")})
		now := rapid.SampledFrom([]int64{-27 * 365 * 24 * 3600 * 1e9, -20, 0, 1e18}).Draw(t, "start")
		n := 0
		draw := func(t *rapid.T) (string, value) {
			n++
			life := rapid.SampledFrom([]int64{-1, 0, 1, 5, 20, never}).Draw(t, "life")
			if life < never {
				life += now
			}
			return keys.Draw(t, "key"), value{n, sizes.Draw(t, "size"), life, minors.Draw(t, "minor")}
		}
		t.Repeat(map[string]func(*rapid.T){
			"Tick": func(t *rapid.T) { now += rapid.Int64Range(1, 10).Draw(t, "ticks") },
			"Set": func(t *rapid.T) {
				k, v := draw(t)
				if got, want := c.Set(k, now, v, v.terms()), v.Expires > now; got != want {
					t.Fatalf("Set(%q, now %d, expires %d) = %t, want %t", k, now, v.Expires, got, want)
				}
				m.set(k, v)
			},
			"Get": func(t *rapid.T) {
				k := keys.Draw(t, "key")
				got, ok := c.Get(k, now)
				if want, wantOK := m.fresh(k, now); got != want || ok != wantOK {
					t.Fatalf("Get(%q, %d) = %v, %t, want %v, %t", k, now, got, ok, want, wantOK)
				}
			},
			"Update": func(t *rapid.T) {
				k, v := draw(t)
				_, want := m.fresh(k, now)
				if want {
					m.put(k, v)
				}
				got := c.Update(k, now, func(value, lru.Terms) (value, lru.Terms) { return v, v.terms() })
				if got != want {
					t.Fatalf("Update(%q, %d) = %t, want %t", k, now, got, want)
				}
			},
			"Remove": func(t *rapid.T) {
				k := keys.Draw(t, "key")
				_, want := m.fresh(k, now)
				m.remove(k)
				if got := c.Remove(k); want && !got { // an expired entry may be there or not
					t.Fatalf("Remove(%q) = %t, want %t", k, got, want)
				}
			},
			"Clear": func(*rapid.T) {
				c.Clear()
				clear(m.values)
				m.order = nil
			},
			"": func(t *rapid.T) {
				fresh, held, minorHeld := map[string]value{}, int64(0), int64(0)
				for k, v := range m.values {
					if got, ok := c.Peek(k, now); ok != (v.Expires > now) || ok && got != v {
						t.Errorf("Peek(%q, %d) = %v, %t, want %v", k, now, got, ok, v)
					}
					if v.Expires > now {
						fresh[k] = v
					}
				}
				if d := cmp.Diff(fresh, maps.Collect(c.All(now))); d != "" {
					t.Errorf("All(%d) (-want +got):\n%s", now, d)
				}
				all := 0
				for k, v := range c.All(math.MinInt64) {
					held += charge(k, v.Size)
					if v.Minor {
						minorHeld += charge(k, v.Size)
					}
					all++
				}
				if c.Bytes() != held || c.MinorBytes() != minorHeld || c.Len() != all {
					t.Errorf("Bytes(), MinorBytes(), Len() = %d, %d, %d, want %d, %d, %d",
						c.Bytes(), c.MinorBytes(), c.Len(), held, minorHeld, all)
				}
				if st := c.Stats(); st.Evictions != 0 {
					t.Errorf("Evictions = %d with room for all", st.Evictions)
				}
				if err := c.Audit(); err != nil {
					t.Error(err)
				}
			},
		})
	})
}

// TestManyShardsShareOneBudget plays random calls against several shards that
// have too little room: what was set last is there, nothing is evicted while
// there is room, minor entries go before major ones, and the sums are exact.
func TestManyShardsShareOneBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const maxBytes, minorBytes = 3000, 1000
		shards := rapid.SampledFrom([]int{2, 8, 64}).Draw(t, "shards")
		c := lru.New[value](lru.Options[value]{MaxBytes: maxBytes, MinorBytes: minorBytes, Shards: shards})
		before := maps.Collect(c.All(0))
		for n := range rapid.IntRange(1, 100).Draw(t, "calls") {
			k, v := keys.Draw(t, "key"), value{n, sizes.Draw(t, "size"), never, minors.Draw(t, "minor")}
			bytes := charge(k, v.Size)
			want := bytes <= maxBytes && (!v.Minor || bytes <= minorBytes)
			old, had := before[k]
			was, minorWas := c.Bytes(), c.MinorBytes()
			if had {
				was -= charge(k, old.Size)
			}
			if had && old.Minor {
				minorWas -= charge(k, old.Size)
			}
			evictions, got := c.Stats().Evictions, false
			update := had && rapid.Bool().Draw(t, "update")
			if update {
				got = c.Update(k, 0, func(value, lru.Terms) (value, lru.Terms) { return v, v.terms() })
			} else {
				got = c.Set(k, 0, v, v.terms())
			}
			if got != want {
				t.Fatalf("storing %q, %+v = %t, want %t", k, v, got, want)
			}
			after := maps.Collect(c.All(0))
			now, ok := after[k]
			switch {
			case want && (!ok || now != v):
				t.Fatalf("%q is %v, %t, want what was just stored, %v", k, now, ok, v)
			case !want && update && now != old:
				t.Fatalf("%q is %v, %t after a refused Update, want %v", k, now, ok, old)
			case !want && !update && ok:
				t.Fatalf("%q is %v after a refused Set, want nothing", k, now)
			}

			var held, minorHeld int64
			for k, v := range after {
				held += charge(k, v.Size)
				if v.Minor {
					minorHeld += charge(k, v.Size)
				}
			}
			if c.Bytes() != held || c.MinorBytes() != minorHeld {
				t.Fatalf("Bytes(), MinorBytes() = %d, %d, want %d, %d", c.Bytes(), c.MinorBytes(), held, minorHeld)
			}
			var lost, minorLost int64
			delete(before, k)
			for k, v := range before {
				if _, ok := after[k]; !ok && v.Minor {
					minorLost++
				} else if !ok {
					lost++
				}
			}
			if e := c.Stats().Evictions - evictions; e != lost+minorLost {
				t.Fatalf("%d evictions counted, %d entries are gone", e, lost+minorLost)
			}
			// A minor entry may displace major ones while others of its class are
			// left, but minor ones only for the sake of MinorBytes.
			minorFits := !v.Minor || minorWas+bytes <= minorBytes
			switch {
			case lost+minorLost > 0 && (!want || was+bytes <= maxBytes && minorFits):
				t.Fatalf("%d evictions with %d and %d bytes taken by others, for %q, %+v", lost+minorLost, was, minorWas, k, v)
			case lost > 0 && !v.Minor && minorHeld > 0:
				t.Fatalf("%d major entries made room for a major one and %d minor bytes are left", lost, minorHeld)
			case minorLost > 0 && v.Minor && minorFits:
				t.Fatalf("%d minor entries made room, with %d minor bytes taken by others, for %q, %+v", minorLost, minorWas, k, v)
			}
			if err := c.Audit(); err != nil {
				t.Fatal(err)
			}
			before = after
		}
	})
}
