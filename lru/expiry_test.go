package lru_test

import (
	"math"
	"strconv"
	"testing"

	"github.com/peercache/peercache/lru"
)

// sweepSteps is how many entries a Set may look at beside its own.
const sweepSteps = 3

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
		if dropped := before - c.Len(); dropped > sweepSteps {
			t.Fatalf("one Set dropped %d entries, want at most %d", dropped, sweepSteps)
		}
	}
	if c.Len() != 2 || sets > n {
		t.Errorf("Len() = %d after %d Sets, want 2 after at most %d", c.Len(), sets, n)
	}
	if got, want := c.Stats(), (lru.Stats{Expirations: n, Replacements: int64(sets) - 1}); got != want {
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

// TestSweepEndsWhereTheStoreHasShrunk: what the sweep drops may be the last of the
// pages at the end, which are given back then, with the sweep in the midst of them.
// A Set looks at three nodes, of which it may be each.
func TestSweepEndsWhereTheStoreHasShrunk(t *testing.T) {
	const n, few = 10_000, 40
	for last := n - 10; last > n-10-sweepSteps; last-- {
		c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 30, Shards: 1})
		for i := range n {
			expires := int64(never)
			if i == last {
				expires = 10
			}
			c.Set(strconv.Itoa(i), 0, i, major(0, expires))
		}
		for i := few; i < n; i++ {
			if i != last {
				c.Remove(strconv.Itoa(i))
			}
		}
		for i := range n {
			c.Set("0", 20, i, major(0, never))
		}
		if c.Len() != few || c.Stats().Expirations != 1 {
			t.Errorf("Len() = %d, Stats() = %+v, want %d left after 1 expiration", c.Len(), c.Stats(), few)
		}
		audit(t, c)
	}
}
