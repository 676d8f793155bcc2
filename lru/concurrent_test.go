package lru_test

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/peercache/peercache/lru"
)

// TestBoundHoldsWhileAllInsert runs every call against every other one. A
// sampler watches both bounds, and now and then stops the cache to count.
func TestBoundHoldsWhileAllInsert(t *testing.T) {
	for _, shards := range []int{1, 16} {
		t.Run(strconv.Itoa(shards), func(t *testing.T) {
			const maxBytes, minorBytes = 1 << 16, 1 << 13
			c := lru.New[int](lru.Options[int]{MaxBytes: maxBytes, MinorBytes: minorBytes, Shards: shards})
			seed := rand.Uint64()
			t.Logf("seed %d", seed)

			var work, sampler sync.WaitGroup
			var done atomic.Bool
			sampler.Go(func() {
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
			for g := range 8 {
				r := rand.New(rand.NewPCG(seed, uint64(g)))
				work.Go(func() {
					for now := range int64(10_000) {
						key := strconv.Itoa(r.IntN(500))
						size := r.Int64N(500)
						if r.IntN(50) == 0 {
							size = r.Int64N(maxBytes + 100)
						}
						terms := lru.Terms{Size: size, Expires: now + r.Int64N(1000), Minor: r.IntN(3) == 0}
						switch op := r.IntN(1000); {
						case op == 0:
							c.Clear()
						case op < 50:
							c.Remove(key)
						case op < 250:
							c.Update(key, now, func(v int, _ lru.Terms) (int, lru.Terms) { return v, terms })
						case op < 500:
							c.Get(key, now)
						default:
							c.Set(key, now, g, terms)
						}
					}
				})
			}
			work.Wait()
			done.Store(true)
			sampler.Wait()
			audit(t, c)
			for k := range c.All(0) {
				c.Remove(k)
			}
			if c.Bytes() != 0 || c.MinorBytes() != 0 || c.Len() != 0 {
				t.Errorf("Bytes(), MinorBytes(), Len() = %d, %d, %d after all is removed, want zeros", c.Bytes(), c.MinorBytes(), c.Len())
			}
		})
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
