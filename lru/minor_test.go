package lru_test

import (
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/peercache/peercache/lru"
)

// count returns how many major and minor entries c has.
func count(c *lru.Cache[value]) (majors, minors int) {
	for _, v := range c.All(math.MinInt64) {
		if v.Minor {
			minors++
		} else {
			majors++
		}
	}
	return majors, minors
}

// fillBoth fills c, of 1000 entries of size 100 of which 100 may be minor, with
// as many of each as fit, and returns what one of them is charged.
func fillBoth(t *testing.T, shards int) (*lru.Cache[value], int64) {
	t.Helper()
	one := charge("M000", 100)
	c := lru.New[value](lru.Options[value]{MaxBytes: 1000 * one, MinorBytes: 100 * one, Shards: shards})
	for i := range 1000 {
		c.Set("M"+strconv.Itoa(1000 + i)[1:], 0, value{}, major(100, never))
	}
	for i := range 100 {
		c.Set("m"+strconv.Itoa(1000 + i)[1:], 0, value{Minor: true}, minor(100, never))
	}
	return c, one
}

func TestMinorEntriesDisplaceMajorOnesUpToTheirBound(t *testing.T) {
	for _, shards := range []int{1, 2, 64} {
		c, one := fillBoth(t, shards)
		for i := range 50 {
			if majors, minors := count(c); majors != 900 || minors != 100 || c.Bytes() != 1000*one || c.MinorBytes() != 100*one {
				t.Fatalf("%d shards, %d minor entries more: %d major and %d minor ones, want 900 and 100", shards, i, majors, minors)
			}
			if !c.Set("n"+strconv.Itoa(100+i), 0, value{Minor: true}, minor(100, never)) {
				t.Error("Set of a minor entry = false in a full cache, want true")
			}
		}
		audit(t, c)
	}
}

func TestMinorEntriesOfAllShardsGoBeforeAnyMajorOne(t *testing.T) {
	for _, shards := range []int{1, 2, 64} {
		c, _ := fillBoth(t, shards)
		for i := range 120 {
			c.Set("N"+strconv.Itoa(100+i), 0, value{}, major(100, never))
			majors, minors := count(c)
			if want := max(99-i, 0); minors != want || majors != 1000-want {
				t.Fatalf("%d shards, %d major entries more: %d major and %d minor ones, want %d and %d",
					shards, i+1, majors, minors, 1000-want, want)
			}
		}

		c, one := fillBoth(t, shards)
		c.Set("L000", 0, value{}, major(100+98*one, never))
		if majors, minors := count(c); majors != 901 || minors != 1 {
			t.Errorf("%d shards, one entry as large as 99: %d major and %d minor ones, want 901 and 1", shards, majors, minors)
		}
		c.Set("L000", 0, value{}, major(100+149*one, never))
		if majors, minors := count(c); majors != 851 || minors != 0 {
			t.Errorf("%d shards, one entry as large as 150: %d major and %d minor ones, want 851 and 0", shards, majors, minors)
		}
		audit(t, c)
	}
}

func TestUpdateChangesTheClass(t *testing.T) {
	become := func(c *lru.Cache[value], key string, terms lru.Terms) bool {
		return c.Update(key, 0, func(value, lru.Terms) (value, lru.Terms) { return value{Minor: terms.Minor}, terms })
	}
	for _, shards := range []int{1, 2, 64} {
		c, one := fillBoth(t, shards)
		var some string // of the major ones that are left
		for key, v := range c.All(0) {
			if !v.Minor {
				some = key
			}
		}
		if !become(c, some, minor(100, never)) {
			t.Error("Update to minor = false, want true")
		}
		if majors, minors := count(c); majors != 899 || minors != 100 {
			t.Errorf("%d shards, major to minor: %d major and %d minor entries, want 899 and 100", shards, majors, minors)
		}
		if !become(c, some, major(100, never)) || c.MinorBytes() != 99*one || c.Bytes() != 999*one {
			t.Errorf("%d shards, and back: MinorBytes(), Bytes() = %d, %d, want %d, %d",
				shards, c.MinorBytes(), c.Bytes(), 99*one, 999*one)
		}

		// From minor to all there is: the rest of its class goes, then the others.
		if !become(c, "m099", major(100+120*one, never)) {
			t.Error("Update of a minor entry to a large major one = false, want true")
		}
		if majors, minors := count(c); majors != 880 || minors != 0 {
			t.Errorf("%d shards, minor to large: %d major and %d minor entries, want 880 and 0", shards, majors, minors)
		}

		if become(c, "m099", minor(100+120*one, never)) {
			t.Error("Update to a minor entry of more than MinorBytes = true, want false")
		}
		if v, ok := c.Peek("m099", 0); !ok || v.Minor || c.MinorBytes() != 0 || c.Bytes() != 1000*one {
			t.Errorf("%d shards, after a refused Update: %v, %t, want what was there", shards, v, ok)
		}
		if !become(c, "m099", minor(100+99*one, never)) || c.MinorBytes() != 100*one || c.Bytes() != 979*one {
			t.Errorf("%d shards, to all of MinorBytes: MinorBytes(), Bytes() = %d, %d, want %d, %d",
				shards, c.MinorBytes(), c.Bytes(), 100*one, 979*one)
		}
		audit(t, c)
	}
}

// TestUpdateThatFindsNoRoomChangesNothing stands for the storm in which others
// hold the minor bytes for as long as an Update looks for them.
func TestUpdateThatFindsNoRoomChangesNothing(t *testing.T) {
	for _, shards := range []int{1, 64} {
		c, one := fillBoth(t, shards)
		for i := range 100 {
			c.Remove("m" + strconv.Itoa(1000 + i)[1:])
		}
		release, ok := c.HoldMinor(100 * one)
		if !ok {
			t.Fatal("MinorBytes are not free without minor entries")
		}
		for _, size := range []int64{0, 100, 200} {
			if c.Update("M500", 0, func(value, lru.Terms) (value, lru.Terms) { return value{Minor: true}, minor(size, never) }) {
				t.Error("Update to minor = true with MinorBytes held, want false")
			}
		}
		if v, ok := c.Peek("M500", 0); !ok || v.Minor || c.Bytes() != 900*one || c.MinorBytes() != 100*one {
			t.Errorf("%v, %t and Bytes(), MinorBytes() = %d, %d, want what was there", v, ok, c.Bytes(), c.MinorBytes())
		}
		if c.Set("M500", 0, value{Minor: true}, minor(0, never)) || c.Bytes() != 899*one || c.MinorBytes() != 100*one {
			t.Errorf("Bytes(), MinorBytes() = %d, %d after a Set that found no room, want %d, %d",
				c.Bytes(), c.MinorBytes(), 899*one, 100*one)
		}
		// Bytes that no entry has yet do not keep a major entry from making room.
		if !c.Set("large", 0, value{}, major(1000*one-charge("large", 0), never)) || c.Len() != 1 {
			t.Errorf("Len() = %d after a Set of MaxBytes with MinorBytes held, want 1", c.Len())
		}
		release()
		audit(t, c)
	}
}

func TestMinorBytesHasADefault(t *testing.T) {
	for minorBytes, want := range map[int64]int64{0: 1 << 17, 1 << 16: 1 << 16, 1 << 40: 1 << 20, -1: 0, math.MinInt64: 0} {
		c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20, MinorBytes: minorBytes})
		size := want - charge("k", 0)
		if got := c.Set("k", 0, 1, minor(size, never)); got != (want > 0) || c.MinorBytes() != want {
			t.Errorf("MinorBytes %d: Set of %d minor bytes = %t, want %t", minorBytes, want, got, want > 0)
		}
		if c.Set("k", 0, 1, minor(size+1, never)) || c.Len() != 0 {
			t.Errorf("MinorBytes %d: Set of %d minor bytes = true, want false and nothing left", minorBytes, want+1)
		}
		if !c.Set("k", 0, 1, major(1<<20-charge("k", 0), never)) {
			t.Errorf("MinorBytes %d: Set of MaxBytes = false, want true", minorBytes)
		}
	}
}

func TestSweepFindsBothClasses(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 30, Shards: 1})
	for i := range 1000 {
		c.Set("major "+strconv.Itoa(i), 0, i, major(0, 10))
		c.Set("minor "+strconv.Itoa(i), 0, i, minor(0, 10))
	}
	for range 1000 { // of either class, the sweep is for both
		c.Set("k", 20, 0, minor(0, never))
	}
	if got, want := c.Stats(), (lru.Stats{Expirations: 2000, Replacements: 999}); got != want || c.Len() != 1 {
		t.Errorf("Len(), Stats() = %d, %+v, want 1, %+v", c.Len(), got, want)
	}
	audit(t, c)
}

// TestMajorEntriesSurviveWhileMinorOnesAreLeft holds the order of
// eviction under concurrency: as many minor bytes as there are room for all the
// major entries that come, so no major one may go.
func TestMajorEntriesSurviveWhileMinorOnesAreLeft(t *testing.T) {
	const shards, each = 16, 100
	for range 10 {
		one := charge("1000", 100)
		c := lru.New[value](lru.Options[value]{MaxBytes: 1000 * one, MinorBytes: 500 * one, Shards: shards})
		for i := range 500 {
			c.Set(strconv.Itoa(1000+i), 0, value{}, major(100, never))
		}
		for i := range 500 {
			c.Set(strconv.Itoa(2000+i), 0, value{Minor: true}, minor(100, never))
		}
		var wg sync.WaitGroup
		var kept atomic.Int64
		for g := range 4 {
			wg.Go(func() {
				for i := range each {
					if c.Set(strconv.Itoa(3000+g*each+i), 0, value{}, major(100, never)) {
						kept.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if majors, minors := count(c); kept.Load() != 4*each || majors != 500+4*each || minors > 100 || minors == 0 {
			t.Fatalf("%d major and %d minor entries after %d major ones came, want %d and about 100",
				majors, minors, kept.Load(), 500+4*each)
		}
		audit(t, c)
	}
}

func TestMinorSetsDoNotStarve(t *testing.T) {
	const maxBytes, minorBytes = 1 << 16, 1 << 13
	c := lru.New[int](lru.Options[int]{MaxBytes: maxBytes, MinorBytes: minorBytes, Shards: 16})
	var large, small sync.WaitGroup
	var done atomic.Bool
	for g := range 4 {
		small.Go(func() {
			for i := 0; !done.Load(); i++ {
				terms := major(0, never)
				terms.Minor = i%2 == 0
				c.Set(strconv.Itoa(g)+" "+strconv.Itoa(i%1000), 0, i, terms)
			}
		})
	}
	for g := range 4 {
		large.Go(func() {
			key := "large " + strconv.Itoa(g)
			for i := range 200 {
				if !c.Set(key, 0, i, minor(minorBytes-charge(key, 0), never)) {
					t.Errorf("Set number %d of MinorBytes = false, want true", i)
				}
			}
		})
	}
	large.Wait()
	done.Store(true)
	small.Wait()
	audit(t, c)
}
