package lru_test

import (
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
}

// A model is what one shard should be: a map and a slice. Its entries expire
// only for those who ask.
type model struct {
	max       int64
	order     []string // the most recently used first
	values    map[string]value
	evictions int64
}

func charge(key string, size int64) int64 {
	return int64(len(key)) + size + lru.Overhead
}

func (m *model) bytes() int64 {
	var n int64
	for k, v := range m.values {
		n += charge(k, v.Size)
	}
	return n
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

// put replaces the value of key and evicts others, the last first, until the
// sum fits.
func (m *model) put(key string, v value) bool {
	if charge(key, v.Size) > m.max {
		return false
	}
	m.values[key] = v
	for m.bytes() > m.max {
		victim := m.order[len(m.order)-1]
		if victim == key {
			victim = m.order[len(m.order)-2]
		}
		m.remove(victim)
		m.evictions++
	}
	return true
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
)

// TestOneShardIsAMapWithTheOrderOfUse plays random calls against the model:
// contents, order, bytes and evictions agree after each.
func TestOneShardIsAMapWithTheOrderOfUse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model{max: 2000, values: map[string]value{}}
		c := lru.New[value](lru.Options{MaxBytes: m.max, Shards: 1})
		n := 0
		draw := func(t *rapid.T) (string, value) {
			n++
			return keys.Draw(t, "key"), value{n, sizes.Draw(t, "size"), never}
		}
		t.Repeat(map[string]func(*rapid.T){
			"Set": func(t *rapid.T) {
				k, v := draw(t)
				if got, want := c.Set(k, 0, v, v.Size, never), m.set(k, v); got != want {
					t.Fatalf("Set(%q, size %d) = %t, want %t", k, v.Size, got, want)
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
				got := c.Update(k, 0, func(had value, size, expires int64) (value, int64, int64) {
					if had != old || size != old.Size || expires != never {
						t.Fatalf("Update(%q) shows %v, size %d, expiry %d, want %v", k, had, size, expires, old)
					}
					return v, v.Size, never
				})
				if got != want {
					t.Fatalf("Update(%q, size %d) = %t, want %t", k, v.Size, got, want)
				}
			},
			"": func(t *rapid.T) {
				var order []string
				values := map[string]value{}
				for k, v := range c.All(0) {
					order, values[k] = append(order, k), v
				}
				if !slices.Equal(order, m.order) {
					t.Errorf("order of use = %q, want %q", order, m.order)
				}
				if d := cmp.Diff(m.values, values); d != "" {
					t.Errorf("contents (-want +got):\n%s", d)
				}
				if got, want := c.Bytes(), m.bytes(); got != want {
					t.Errorf("Bytes() = %d, want %d", got, want)
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
		m := model{max: 1 << 20, values: map[string]value{}}
		c := lru.New[value](lru.Options{MaxBytes: m.max, Shards: rapid.SampledFrom([]int{0, 1, 2, 8}).Draw(t, "shards")})
		now := rapid.SampledFrom([]int64{-27 * 365 * 24 * 3600 * 1e9, -20, 0, 1e18}).Draw(t, "start")
		n := 0
		draw := func(t *rapid.T) (string, value) {
			n++
			life := rapid.SampledFrom([]int64{-1, 0, 1, 5, 20, never}).Draw(t, "life")
			if life < never {
				life += now
			}
			return keys.Draw(t, "key"), value{n, sizes.Draw(t, "size"), life}
		}
		t.Repeat(map[string]func(*rapid.T){
			"Tick": func(t *rapid.T) { now += rapid.Int64Range(1, 10).Draw(t, "ticks") },
			"Set": func(t *rapid.T) {
				k, v := draw(t)
				if got, want := c.Set(k, now, v, v.Size, v.Expires), v.Expires > now; got != want {
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
				got := c.Update(k, now, func(value, int64, int64) (value, int64, int64) { return v, v.Size, v.Expires })
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
				fresh, held := map[string]value{}, int64(0)
				for k, v := range m.values {
					if got, ok := c.Peek(k, now); ok != (v.Expires > now) || ok && got != v {
						t.Errorf("Peek(%q, %d) = %v, %t, want %v", k, now, got, ok, v)
					}
					if v.Expires > now {
						fresh[k] = v
					}
				}
				got := map[string]value{}
				for k, v := range c.All(now) {
					got[k] = v
				}
				if d := cmp.Diff(fresh, got); d != "" {
					t.Errorf("All(%d) (-want +got):\n%s", now, d)
				}
				all := 0
				for k, v := range c.All(math.MinInt64) {
					held += charge(k, v.Size)
					all++
				}
				if c.Bytes() != held || c.Len() != all {
					t.Errorf("Bytes(), Len() = %d, %d, want %d, %d", c.Bytes(), c.Len(), held, all)
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
// there is room, and the sum is exact.
func TestManyShardsShareOneBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const maxBytes = 2000
		c := lru.New[value](lru.Options{MaxBytes: maxBytes, Shards: rapid.SampledFrom([]int{2, 8, 64}).Draw(t, "shards")})
		for n := range rapid.IntRange(1, 100).Draw(t, "calls") {
			k, size := keys.Draw(t, "key"), sizes.Draw(t, "size")
			v := value{n, size, never}
			old, had := c.Peek(k, 0)
			growth := charge(k, size)
			if had {
				growth -= charge(k, old.Size)
			}
			want := charge(k, size) <= maxBytes
			fits := growth <= maxBytes-c.Bytes()
			evictions, got := c.Stats().Evictions, false
			update := had && rapid.Bool().Draw(t, "update")
			if update {
				got = c.Update(k, 0, func(value, int64, int64) (value, int64, int64) { return v, size, never })
			} else {
				got = c.Set(k, 0, v, size, never)
			}
			if got != want {
				t.Fatalf("storing %q, size %d = %t, want %t", k, size, got, want)
			}
			now, ok := c.Peek(k, 0)
			switch {
			case want && (!ok || now != v):
				t.Fatalf("Peek(%q) = %v, %t, want what was just stored, %v", k, now, ok, v)
			case !want && update && now != old:
				t.Fatalf("Peek(%q) = %v, %t after a refused Update, want %v", k, now, ok, old)
			case !want && !update && ok:
				t.Fatalf("Peek(%q) = %v after a refused Set, want nothing", k, now)
			}
			if e := c.Stats().Evictions; e != evictions && (fits || !want) {
				t.Fatalf("%d evictions for %d bytes more, with %d free", e-evictions, growth, maxBytes-c.Bytes())
			}
			var sum int64
			for k, v := range c.All(0) {
				sum += charge(k, v.Size)
			}
			if c.Bytes() != sum {
				t.Fatalf("Bytes() = %d, want %d", c.Bytes(), sum)
			}
			if err := c.Audit(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
