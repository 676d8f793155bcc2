package lru_test

import (
	"math"
	"strconv"
	"testing"

	"github.com/peercache/peercache/lru"
)

func TestResizeHoldsTheNewBound(t *testing.T) {
	for _, shards := range []int{1, 2, 64} {
		one := charge("1000", 100)
		c := lru.New[int](lru.Options[int]{MaxBytes: 1000 * one, Shards: shards})
		set := func(from, to int) {
			for i := from; i < to; i++ {
				if !c.Set(strconv.Itoa(1000+i), 0, i, major(100, never)) {
					t.Fatalf("%d shards: Set = false, want true", shards)
				}
			}
		}
		set(0, 1000)
		for _, want := range []int{1000, 999, 500, 3} {
			c.Resize(int64(want)*one, 0)
			if c.Len() != want || c.Bytes() != int64(want)*one {
				t.Errorf("%d shards: Len(), Bytes() = %d, %d with room for %d, want them", shards, c.Len(), c.Bytes(), want)
			}
			set(1000, 1010)
			if c.Bytes() > int64(want)*one || c.Len() < want {
				t.Errorf("%d shards: Len(), Bytes() = %d, %d after more Sets with room for %d", shards, c.Len(), c.Bytes(), want)
			}
			audit(t, c)
		}
		c.Resize(2000*one, 0)
		set(2000, 3997)
		if c.Len() != 2000 {
			t.Errorf("%d shards: Len() = %d with room for 2000, want all that fit", shards, c.Len())
		}
		for _, maxBytes := range []int64{lru.Overhead - 1, 0, -1, math.MinInt64} {
			c.Resize(maxBytes, 0)
			if c.Len() != 0 || c.Bytes() != 0 || c.Set("k", 0, 1, major(0, never)) {
				t.Errorf("%d shards: Len(), Bytes() = %d, %d with %d bytes, want nothing kept", shards, c.Len(), c.Bytes(), maxBytes)
			}
		}
		c.Resize(math.MaxInt64, 0)
		set(0, 1000)
		if c.Len() != 1000 {
			t.Errorf("%d shards: Len() = %d with room for everything, want 1000", shards, c.Len())
		}
		audit(t, c)
	}
}

// TestResizeTakesMinorEntriesFirst, and no more of them than the new bounds ask for.
func TestResizeTakesMinorEntriesFirst(t *testing.T) {
	for _, shards := range []int{1, 2, 64} {
		c, one := fillBoth(t, shards) // 900 major entries, 100 minor ones of MinorBytes for them
		for _, step := range []struct{ room, majors, minors int }{
			{1000, 900, 100}, {990, 900, 90}, {901, 900, 1}, {900, 900, 0}, {899, 899, 0}, {50, 50, 0},
		} {
			c.Resize(int64(step.room)*one, 0)
			if majors, minors := count(c); majors != step.majors || minors != step.minors {
				t.Errorf("%d shards, room for %d: %d major and %d minor ones, want %d and %d",
					shards, step.room, majors, minors, step.majors, step.minors)
			}
		}
		audit(t, c)
	}
}

// TestResizeKeepsTheShareOfMinorBytes where it is one, and the number where it is not.
func TestResizeKeepsTheShareOfMinorBytes(t *testing.T) {
	for _, test := range []struct{ minorBytes, at1M, at1K int64 }{
		{0, 1 << 17, 1 << 7}, {500, 500, 500}, {1 << 30, 1 << 20, 1 << 10}, {-1, 0, 0},
	} {
		c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 16, MinorBytes: test.minorBytes})
		for _, bound := range []struct{ maxBytes, want int64 }{{1 << 20, test.at1M}, {1 << 10, test.at1K}} {
			c.Resize(bound.maxBytes, 0)
			size := bound.want - charge("k", 0)
			if bound.want > 0 && (!c.Set("k", 0, 1, minor(size, never)) || c.MinorBytes() != bound.want) {
				t.Errorf("MinorBytes %d at %d: MinorBytes() = %d, want %d", test.minorBytes, bound.maxBytes, c.MinorBytes(), bound.want)
			}
			if c.Set("k", 0, 1, minor(max(size, 0)+1, never)) {
				t.Errorf("MinorBytes %d at %d: Set of more than %d minor bytes = true, want false", test.minorBytes, bound.maxBytes, bound.want)
			}
		}
	}
}

// TestResizeToLessMinorBytesLeavesMajorEntries: only one of the bounds is exceeded.
func TestResizeToLessMinorBytesLeavesMajorEntries(t *testing.T) {
	for _, shards := range []int{1, 64} {
		one := charge("M000", 100)
		c := lru.New[value](lru.Options[value]{MaxBytes: 1600 * one, Shards: shards}) // 200 of them minor
		for i := range 200 {
			c.Set("m"+strconv.Itoa(1000 + i)[1:], 0, value{Minor: true}, minor(100, never))
		}
		for i := range 300 {
			c.Set("M"+strconv.Itoa(1000 + i)[1:], 0, value{}, major(100, never))
		}
		c.Resize(800*one, 0)
		if majors, minors := count(c); majors != 300 || minors != 100 {
			t.Errorf("%d shards: %d major and %d minor entries, want 300 and 100", shards, majors, minors)
		}
		audit(t, c)
	}
}
