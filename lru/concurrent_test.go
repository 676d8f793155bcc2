package lru_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/peercache/peercache/lru"
)

// A ledger counts for each value how often it went into a cache and how often it
// was reported to have left.
type ledger struct {
	in, out []atomic.Int32
	next    atomic.Int64
}

func newLedger(values int) *ledger {
	return &ledger{in: make([]atomic.Int32, values), out: make([]atomic.Int32, values)}
}

// stormKeys is how many keys there are. The last digits of N say which one it is.
const stormKeys = 500

func (l *ledger) value(key int) value {
	return value{N: int(l.next.Add(1)-1)*stormKeys + key}
}

func (l *ledger) set(c *lru.Cache[value], now int64, v value, terms lru.Terms) {
	if c.Set(strconv.Itoa(v.N%stormKeys), now, v, terms) {
		l.in[v.N/stormKeys].Add(1)
	}
}

// check holds departures against what was set and what c still has.
func (l *ledger) check(t *testing.T, c *lru.Cache[value]) {
	t.Helper()
	there := make([]int32, len(l.in))
	for _, v := range c.All(math.MinInt64) {
		there[v.N/stormKeys]++
	}
	var left int64
	for i := range l.in {
		in, out := l.in[i].Load(), l.out[i].Load()
		if in != out+there[i] || in > 1 {
			t.Errorf("value %d was set %d times, has left %d times and is there %d times", i, in, out, there[i])
		}
		left += int64(out)
	}
	if st := c.Stats(); st.Evictions+st.Expirations+st.Removals+st.Replacements+st.Cleared != left {
		t.Errorf("Stats() = %+v, want %d departures", st, left)
	}
}

// TestBoundHoldsWhileAllInsert runs every call against every other one, also
// from within callbacks. A sampler watches both bounds, and now and then stops the
// cache to count. At the end every value that went in has left once, or is there.
func TestBoundHoldsWhileAllInsert(t *testing.T) {
	for _, shards := range []int{1, 16} {
		for _, calls := range []string{"nothing", "a count", "calls"} {
			t.Run(fmt.Sprintf("%d shards, a departure is %s", shards, calls), func(t *testing.T) {
				const maxBytes, minorBytes, goroutines, each = 1 << 16, 1 << 13, 8, 4000
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				l := newLedger(2 * goroutines * each)
				opts := lru.Options[value]{MaxBytes: maxBytes, MinorBytes: minorBytes, Shards: shards}
				var c *lru.Cache[value]
				switch calls {
				case "a count":
					opts.OnDeparture = func(key string, v value, _ lru.Cause) {
						if key != strconv.Itoa(v.N%stormKeys) {
							t.Errorf("departure of %q with the value of %d", key, v.N%stormKeys)
						}
						l.out[v.N/stormKeys].Add(1)
					}
				case "calls":
					opts.OnDeparture = func(key string, v value, cause lru.Cause) {
						l.out[v.N/stormKeys].Add(1)
						c.Get(key, 0)
						if v.Size == 0 && v.N%3 == 0 { // a child has none: else there would be no end
							child := l.value((v.N + 1) % stormKeys)
							child.Size = 1
							l.set(c, 0, child, major(int64(v.N%2000), never))
						}
						if cause == lru.Evicted && v.N%7 == 0 {
							c.Remove(strconv.Itoa((v.N + 2) % stormKeys))
						}
					}
				}
				c = lru.New[value](opts)

				var work, watch sync.WaitGroup
				var done atomic.Bool
				watch.Go(func() {
					for i := 0; !done.Load(); i++ {
						if n := c.Bytes(); n > maxBytes || n < 0 {
							t.Errorf("Bytes() = %d, want 0 to %d", n, maxBytes)
							return
						}
						if n := c.MinorBytes(); n > minorBytes || n < 0 {
							t.Errorf("MinorBytes() = %d, want 0 to %d", n, minorBytes)
							return
						}
						if i%100 == 0 {
							audit(t, c)
						}
					}
				})
				watch.Go(func() {
					for i := int64(0); !done.Load(); i++ {
						bound := maxBytes / (1 + i%4)
						c.Resize(bound, i)
						for range 100 {
							if n := c.Bytes(); n > bound {
								t.Errorf("Bytes() = %d after Resize to %d", n, bound)
								return
							}
						}
					}
				})
				for g := range goroutines {
					r := rand.New(rand.NewPCG(seed, uint64(g)))
					work.Go(func() {
						for now := range int64(each) {
							storm(c, l, r, now, maxBytes)
						}
					})
				}
				work.Wait()
				done.Store(true)
				watch.Wait()
				audit(t, c)
				if calls != "nothing" {
					l.check(t, c)
				}
				c.RemoveFunc(func(string, value) bool { return true })
				if calls != "nothing" {
					l.check(t, c)
				}
				if calls != "calls" && (c.Bytes() != 0 || c.MinorBytes() != 0 || c.Len() != 0) {
					t.Errorf("Bytes(), MinorBytes(), Len() = %d, %d, %d after all is removed, want zeros", c.Bytes(), c.MinorBytes(), c.Len())
				}
				audit(t, c)
			})
		}
	}
}

// storm plays one call.
func storm(c *lru.Cache[value], l *ledger, r *rand.Rand, now, maxBytes int64) {
	n := r.IntN(stormKeys)
	key := strconv.Itoa(n)
	size := r.Int64N(500)
	if r.IntN(50) == 0 {
		size = r.Int64N(maxBytes + 100)
	}
	terms := lru.Terms{Size: size, Expires: now + r.Int64N(1000), Minor: r.IntN(3) == 0}
	switch op := r.IntN(1000); {
	case op == 0:
		c.Clear()
	case op < 5:
		c.RemoveFunc(func(_ string, v value) bool { return v.N%10 == 0 })
	case op < 10:
		c.Hottest(r.IntN(100), now)
	case op < 15:
		for k := range c.All(now) {
			if k == key {
				break
			}
		}
	case op < 20:
		c.Len()
		c.Stats()
	case op < 50:
		c.Remove(key)
	case op < 250:
		c.Update(key, now, func(v value, _ lru.Terms) (value, lru.Terms) { return v, terms })
	case op < 500:
		c.Get(key, now)
	case op < 550:
		c.Peek(key, now)
	default:
		l.set(c, now, l.value(n), terms)
	}
}

func TestLargeSetsDoNotStarve(t *testing.T) {
	const maxBytes = 1 << 16
	c := lru.New[int](lru.Options[int]{MaxBytes: maxBytes, Shards: 16})
	var large, small sync.WaitGroup
	var done atomic.Bool
	for g := range 4 {
		small.Go(func() {
			for i := 0; !done.Load(); i++ {
				c.Set(strconv.Itoa(g)+" "+strconv.Itoa(i%100), 0, i, major(0, never))
			}
		})
	}
	for g := range 4 {
		large.Go(func() {
			key := "large " + strconv.Itoa(g)
			for i := range 200 {
				if !c.Set(key, 0, i, major(maxBytes-charge(key, 0), never)) {
					t.Errorf("Set number %d of MaxBytes = false, want true", i)
				}
			}
		})
	}
	large.Wait()
	done.Store(true)
	small.Wait()
	audit(t, c)
}

// TestSetsOfOneLargeKeyAreChargedOnce: A finds no room at once and goes to
// gather it, B does the same, A inserts, B gathers and finds A's entry.
func TestSetsOfOneLargeKeyAreChargedOnce(t *testing.T) {
	const maxBytes = 1 << 20
	c := lru.New[int](lru.Options[int]{MaxBytes: maxBytes, Shards: 16})
	for range 30 {
		fill(t, c, 6000)
		var wg sync.WaitGroup
		start := make(chan struct{})
		for g := range 4 {
			wg.Go(func() {
				<-start
				if !c.Set("k", 0, g, major(maxBytes/4, never)) {
					t.Error("Set = false, want true")
				}
			})
		}
		close(start)
		wg.Wait()
		sum := charge("k", maxBytes/4)
		for k := range c.All(0) {
			if k != "k" {
				sum += charge(k, 100)
			}
		}
		if c.Bytes() != sum {
			t.Fatalf("Bytes() = %d, want %d", c.Bytes(), sum)
		}
		c.Remove("k")
	}
}

func TestUpdatesAreAtomic(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 16, MinorBytes: 1 << 16})
	c.Set("k", 0, 0, major(0, never))
	const goroutines, updates = 8, 2000
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range updates {
				if !c.Update("k", 0, func(v int, t lru.Terms) (int, lru.Terms) {
					t.Size++
					t.Minor = !t.Minor
					return v + 1, t
				}) {
					t.Error("Update = false, want true")
				}
			}
		})
	}
	wg.Wait()
	if v, _ := c.Get("k", 0); v != goroutines*updates || c.Bytes() != charge("k", goroutines*updates) {
		t.Errorf("v, Bytes() = %d, %d after %d updates, want all counted", v, c.Bytes(), goroutines*updates)
	}
}
