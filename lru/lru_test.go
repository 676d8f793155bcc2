package lru_test

import (
	"fmt"
	"math"
	"strconv"
	"testing"

	"github.com/peercache/peercache/lru"
)

func major(size, expires int64) lru.Terms { return lru.Terms{Size: size, Expires: expires} }

func minor(size, expires int64) lru.Terms {
	return lru.Terms{Size: size, Expires: expires, Minor: true}
}

// fill sets n entries of size 100 that never expire.
func fill(tb testing.TB, c *lru.Cache[int], n int) {
	tb.Helper()
	for i := range n {
		if !c.Set(strconv.Itoa(i), 0, i, major(100, never)) {
			tb.Fatalf("Set(%d) = false, want true", i)
		}
	}
}

func audit[V any](tb testing.TB, c *lru.Cache[V]) {
	tb.Helper()
	if err := c.Audit(); err != nil {
		tb.Error(err)
	}
}

func TestEntryOfTheWholeBudgetFitsWithAnyShards(t *testing.T) {
	const maxBytes = 1 << 20
	for _, shards := range []int{0, 1, 2, 64, 1024} {
		t.Run(strconv.Itoa(shards), func(t *testing.T) {
			c := lru.New[int](lru.Options[int]{MaxBytes: maxBytes, Shards: shards})
			fill(t, c, 10_000)
			size := maxBytes - charge("large", 0)
			if !c.Set("large", 0, 1, major(size, never)) {
				t.Error("Set of MaxBytes = false, want true")
			}
			if c.Len() != 1 || c.Bytes() != maxBytes {
				t.Errorf("Len(), Bytes() = %d, %d, want 1, %d", c.Len(), c.Bytes(), maxBytes)
			}
			if !c.Set("large", 0, 2, major(size, never)) {
				t.Error("replacing MaxBytes by MaxBytes = false, want true")
			}
			if st := c.Stats(); st.Expirations != 0 || st.Evictions != 10_000 {
				t.Errorf("Stats() = %+v, want 10000 evictions", st)
			}
			if c.Set("large", 0, 3, major(size+1, never)) {
				t.Error("Set of MaxBytes+1 = true, want false")
			}
			if v, ok := c.Peek("large", 0); ok || c.Bytes() != 0 {
				t.Errorf("Peek = %d, %t and Bytes() = %d after a refused Set, want nothing", v, ok, c.Bytes())
			}
			audit(t, c)
		})
	}
}

func TestLargeEntryTakesALittleFromEveryShard(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20, Shards: 16})
	fill(t, c, 10_000)
	before := c.ShardLens()
	if !c.Set("large", 0, 0, major(1<<18, never)) {
		t.Fatal("Set = false, want true")
	}
	for i, n := range c.ShardLens() {
		if n < before[i]/2 {
			t.Errorf("shard %d has %d entries left of %d for a value of a quarter of the budget", i, n, before[i])
		}
	}
}

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

// TestSetGivesUpWhereNoRoomIsToBeFound stands for the storm in which others
// hold the room for as long as a Set looks for it.
func TestSetGivesUpWhereNoRoomIsToBeFound(t *testing.T) {
	const maxBytes = 1 << 16
	c := lru.New[int](lru.Options[int]{MaxBytes: maxBytes, Shards: 4})
	release, ok := c.Hold(maxBytes / 2)
	if !ok {
		t.Fatal("half of an empty cache is not free")
	}
	fill(t, c, 1000)
	if c.Set("k", 0, 0, major(maxBytes/2, never)) {
		t.Error("Set = true with half of the budget held, want false")
	}
	if c.Len() != 0 || c.Bytes() != maxBytes/2 {
		t.Errorf("Len(), Bytes() = %d, %d, want 0, %d", c.Len(), c.Bytes(), maxBytes/2)
	}
	release()
	if !c.Set("k", 0, 0, major(maxBytes/2, never)) || c.Bytes() != charge("k", maxBytes/2) {
		t.Errorf("Bytes() = %d after a Set with room, want %d", c.Bytes(), charge("k", maxBytes/2))
	}
	audit(t, c)
}

func TestUpdateDoesNotCountAsUse(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 2 * charge("a", 0), Shards: 1})
	c.Set("a", 0, 1, major(0, never))
	c.Set("b", 0, 2, major(0, never))
	c.Update("a", 0, func(int, lru.Terms) (int, lru.Terms) { return 3, major(0, never) })
	c.Set("c", 0, 4, major(0, never))
	if _, ok := c.Peek("a", 0); ok {
		t.Error("a is there, want it evicted before b")
	}
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

func TestSweepFindsWhatIsNeverAskedFor(t *testing.T) {
	const n = 1000
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 30, Shards: 1})
	c.Set("last and forever", -20, 0, major(0, never)) // a sweep of the last entries alone would stop here
	for i := range n {
		c.Set(strconv.Itoa(i), -20, i, major(0, -10))
	}
	sets := 0
	for ; c.Len() > 2 && sets < 2*n; sets++ {
		before := c.Len()
		c.Set("k", -5, 0, major(0, never))
		if dropped := before - c.Len(); dropped > 2 {
			t.Fatalf("one Set dropped %d entries, want at most 2", dropped)
		}
	}
	if c.Len() != 2 || sets > n {
		t.Errorf("Len() = %d after %d Sets, want 2 after at most %d", c.Len(), sets, n)
	}
	if got, want := c.Stats(), (lru.Stats{Expirations: n}); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
	audit(t, c)
}

func TestSweepKeepsUpWithInsertions(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 30, Shards: 1})
	const life = 100
	for now := range int64(100_000) {
		c.Set(strconv.FormatInt(now, 10), now, 0, major(0, now+life))
		if c.Len() > 10*life {
			t.Fatalf("Len() = %d at %d, where one entry comes each tick and lives for %d", c.Len(), now, life)
		}
	}
}

func TestExpiredVictimIsAnExpiration(t *testing.T) {
	size := charge("0", 0)
	c := lru.New[int](lru.Options[int]{MaxBytes: 8 * size, Shards: 1})
	for i := range 8 {
		c.Set(strconv.Itoa(i), 0, i, major(0, int64(10+i)))
	}
	// The sweep drops two, the other three make room.
	if !c.Set("x", 15, 0, major(4*size, never)) {
		t.Fatal("Set = false, want true")
	}
	if got, want := c.Stats(), (lru.Stats{Expirations: 5}); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func TestEntryExpiresAtItsExpiry(t *testing.T) {
	for _, at := range []int64{math.MinInt64 + 1, -852_076_800_000_000_000, 0, 1, math.MaxInt64 - 1} {
		c := lru.New[int](lru.Options[int]{MaxBytes: 1000})
		if c.Set("k", at, 1, major(0, at)) {
			t.Errorf("Set of an entry that expires now, at %d, = true, want false", at)
		}
		c.Set("k", at-1, 1, major(0, at))
		if _, ok := c.Get("k", at-1); !ok {
			t.Errorf("nothing 1 ns before %d", at)
		}
		if _, ok := c.Peek("k", at); ok || c.Len() != 1 {
			t.Errorf("Peek at %d = %t and Len() = %d, want nothing found and nothing changed", at, ok, c.Len())
		}
		if _, ok := c.Get("k", at); ok || c.Bytes() != 0 || c.Stats().Expirations != 1 {
			t.Errorf("Get at %d = %t, Bytes() = %d, Stats() = %+v, want one expiration", at, ok, c.Bytes(), c.Stats())
		}
		c.Set("k", at, 1, major(0, never))
		if _, ok := c.Get("k", math.MaxInt64-1); !ok {
			t.Error("an entry without end ended")
		}
	}
}

func TestNothingIsKeptWithoutBytes(t *testing.T) {
	for _, maxBytes := range []int64{math.MinInt64, -1, 0, lru.Overhead - 1} {
		c := lru.New[int](lru.Options[int]{MaxBytes: maxBytes})
		if c.Set("", 0, 1, major(0, never)) || c.Set("k", 0, 1, major(-1000, never)) || c.Len() != 0 || c.Bytes() != 0 {
			t.Errorf("MaxBytes %d: Len(), Bytes() = %d, %d, want nothing kept", maxBytes, c.Len(), c.Bytes())
		}
	}
}

func TestAbsurdSizesAreHarmless(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: math.MaxInt64, Shards: 1})
	c.Set("a", 0, 1, major(math.MinInt64, never))
	if got, want := c.Bytes(), charge("a", 0); got != want {
		t.Errorf("Bytes() = %d after a negative size, want %d", got, want)
	}
	if !c.Set("b", 0, 1, major(math.MaxInt64, never)) || c.Bytes() != math.MaxInt64 || c.Len() != 1 {
		t.Errorf("Bytes(), Len() = %d, %d, want %d, 1", c.Bytes(), c.Len(), int64(math.MaxInt64))
	}
	audit(t, c)
}

func TestShardsAreAPowerOfTwo(t *testing.T) {
	for shards, want := range map[int]int{1: 1, 2: 2, 3: 4, 64: 64, 65: 128} {
		c := lru.New[int](lru.Options[int]{Shards: shards})
		if got := len(c.ShardLens()); got != want {
			t.Errorf("Shards %d makes %d, want %d", shards, got, want)
		}
	}
	for _, shards := range []int{0, -1, math.MinInt} {
		if n := len(lru.New[int](lru.Options[int]{Shards: shards}).ShardLens()); n < 4 || n > 256 || n&(n-1) != 0 {
			t.Errorf("Shards %d makes %d, want a power of two from 4 to 256", shards, n)
		}
	}
}

func TestBodyOfAllMayChangeTheCache(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	fill(t, c, 100)
	seen := 0
	for k := range c.All(0) {
		c.Remove(k)
		c.Set("new "+k, 0, 0, major(0, 1)) // may be met when its shard's turn comes
		seen++
		if seen > 1000 {
			t.Fatal("All does not end")
		}
		c.Remove("new " + k)
	}
	if seen != 100 || c.Len() != 0 {
		t.Errorf("met %d entries and left %d, want 100 and 0", seen, c.Len())
	}
	fill(t, c, 100)
	for range c.All(0) {
		seen++
		break
	}
	if seen != 101 {
		t.Errorf("met %d entries after break, want 1", seen-100)
	}
}

func TestClearLeavesAnEmptyCacheThatWorks(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	fill(t, c, 1000)
	c.Clear()
	if c.Len() != 0 || c.Bytes() != 0 || c.Stats() != (lru.Stats{}) {
		t.Errorf("Len(), Bytes(), Stats() = %d, %d, %+v, want zeros", c.Len(), c.Bytes(), c.Stats())
	}
	audit(t, c)
	fill(t, c, 1000)
	if c.Len() != 1000 {
		t.Errorf("Len() = %d, want 1000", c.Len())
	}
	audit(t, c)
}

func TestEmptyKeyIsAKey(t *testing.T) {
	c := lru.New[string](lru.Options[string]{MaxBytes: 1000})
	c.Set("", 0, "v", major(1, never))
	if v, ok := c.Get("", 0); v != "v" || !ok {
		t.Errorf(`Get("") = %q, %t, want v`, v, ok)
	}
	if got, want := fmt.Sprint(c.Remove(""), c.Remove("")), "true false"; got != want {
		t.Errorf("Remove twice = %s, want %s", got, want)
	}
}
