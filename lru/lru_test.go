package lru_test

import (
	"fmt"
	"math"
	"runtime"
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

func TestNothingIsKeptWithoutBytes(t *testing.T) {
	for _, maxBytes := range []int64{math.MinInt64, -1, 0, lru.Overhead - 1} {
		c := lru.New[int](lru.Options[int]{MaxBytes: maxBytes})
		if c.Set("", 0, 1, major(0, never)) || c.Set("k", 0, 1, major(-1000, never)) || c.Len() != 0 || c.Bytes() != 0 {
			t.Errorf("MaxBytes %d: Len(), Bytes() = %d, %d, want nothing kept", maxBytes, c.Len(), c.Bytes())
		}
	}
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

func TestAbsurdSizesAreHarmless(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: math.MaxInt64, MinorBytes: math.MaxInt64, Shards: 1})
	c.Set("a", 0, 1, major(math.MinInt64, never))
	if got, want := c.Bytes(), charge("a", 0); got != want {
		t.Errorf("Bytes() = %d after a negative size, want %d", got, want)
	}
	most := math.MaxUint32 - charge("b", 0)
	if !c.Set("b", 0, 1, major(most, never)) || c.Bytes() != math.MaxUint32+charge("a", 0) {
		t.Errorf("Bytes() = %d with an entry of 4 GiB - 1, want %d", c.Bytes(), math.MaxUint32+charge("a", 0))
	}
	for _, size := range []int64{most + 1, math.MaxInt64 - charge("b", 0), math.MaxInt64 - charge("b", 0) + 1, math.MaxInt64} {
		if c.Update("b", 0, func(int, lru.Terms) (int, lru.Terms) { return 2, major(size, never) }) {
			t.Errorf("Update to %d bytes = true, want false", size)
		}
		for _, terms := range []lru.Terms{major(size, never), minor(size, never)} {
			if c.Set("c", 0, 1, terms) || c.Len() != 2 {
				t.Errorf("Set of %+v is kept, want entries of 4 GiB and more refused", terms)
			}
		}
	}
	if !c.Set("d", 0, 1, minor(most, never)) || c.MinorBytes() != math.MaxUint32 {
		t.Errorf("MinorBytes() = %d with a minor entry of 4 GiB - 1, want that", c.MinorBytes())
	}
	audit(t, c)
	c.Clear()
	if c.Bytes() != 0 || c.MinorBytes() != 0 {
		t.Errorf("Bytes(), MinorBytes() = %d, %d after Clear, want 0", c.Bytes(), c.MinorBytes())
	}
}

func TestShardsAreAPowerOfTwo(t *testing.T) {
	for shards, want := range map[int]int{1: 1, 2: 2, 3: 4, 64: 64, 65: 128, 1025: 2048} {
		c := lru.New[int](lru.Options[int]{Shards: shards})
		if got := len(c.ShardLens()); got != want {
			t.Errorf("Shards %d makes %d, want %d", shards, got, want)
		}
	}
	const MiB = 1 << 20
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // 64 shards where there are bytes for them
	for maxBytes, want := range map[int64]int{
		math.MinInt64: 1, -1: 1, 0: 1, MiB - 1: 1, MiB: 1, 2*MiB - 1: 1, 2 * MiB: 2, 3 * MiB: 2, 4 * MiB: 4,
		63 * MiB: 32, 64 * MiB: 64, 256 * MiB: 64, 1024 * MiB: 256, math.MaxInt64: 1024,
	} {
		for _, shards := range []int{0, -1, math.MinInt} {
			if got := len(lru.New[int](lru.Options[int]{MaxBytes: maxBytes, Shards: shards}).ShardLens()); got != want {
				t.Errorf("Shards %d of %d bytes makes %d, want %d", shards, maxBytes, got, want)
			}
		}
	}
	runtime.GOMAXPROCS(100)
	if got := len(lru.New[int](lru.Options[int]{MaxBytes: math.MaxInt64}).ShardLens()); got != 1024 {
		t.Errorf("100 processors make %d shards, want 1024", got)
	}
}

func TestClearLeavesAnEmptyCacheThatWorks(t *testing.T) {
	for _, shards := range []int{1, 16} {
		c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20, Shards: shards})
		for round := range int64(3) {
			fill(t, c, 1000)
			for i := range 100 {
				c.Set("minor "+strconv.Itoa(i), 0, i, minor(0, never))
			}
			if c.Len() != 1100 {
				t.Errorf("Len() = %d, want 1100", c.Len())
			}
			c.Clear()
			if c.Len() != 0 || c.Bytes() != 0 || c.MinorBytes() != 0 {
				t.Errorf("Len(), Bytes(), MinorBytes() = %d, %d, %d, want zeros", c.Len(), c.Bytes(), c.MinorBytes())
			}
			if got, want := c.Stats(), (lru.Stats{Cleared: 1100 * (round + 1)}); got != want {
				t.Errorf("Stats() = %+v, want %+v", got, want)
			}
			if _, ok := c.Peek("1", 0); ok {
				t.Error("Peek finds an entry after Clear")
			}
			audit(t, c)
		}
	}
}
