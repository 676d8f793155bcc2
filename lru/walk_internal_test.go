package lru

import (
	"math"
	"strconv"
	"testing"
)

// TestWalkLocksForAFewPagesAtATime: All, RemoveFunc and Hottest all go through walk,
// which looks at a bounded number of entries before it lets go of the shard.
func TestWalkLocksForAFewPagesAtATime(t *testing.T) {
	const n = 5000
	c := New[int](Options[int]{MaxBytes: 1 << 30, Shards: 1})
	for i := range n {
		c.Set(strconv.Itoa(i), 0, i, Terms{Expires: math.MaxInt64})
	}
	s := &c.shards[0]
	looked, most, met := 0, 0, 0
	c.walk(s, func(ref, *node[int]) bool {
		looked++
		return true
	}, func(found[int]) bool {
		if !s.mu.TryLock() {
			t.Fatal("the shard is locked while the body runs")
		}
		s.mu.Unlock()
		most, looked = max(most, looked), 0
		met++
		return true
	})
	if met != n || most > walkPages*pageNodes {
		t.Errorf("met %d entries of %d, looking at %d at once, want at most %d", met, n, most, walkPages*pageNodes)
	}
}
