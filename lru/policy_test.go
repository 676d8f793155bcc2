package lru_test

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/peercache/peercache/lru"
)

// This file holds the policy against loads that are known to break one: what
// is measured is hits, and how they come about is not looked at. Hashes differ
// from run to run, and with them who is taken for whom, so the margins are wide.

const room = 2000 // entries that fit

// newRoom returns a cache of one shard with room for so many entries of load.
func newRoom() *lru.Cache[int] {
	return lru.New[int](lru.Options[int]{MaxBytes: room * charge("k0000000", 100), Shards: 1})
}

// ask gets key number i, sets it if it is not there, and reports whether it was.
func ask(c *lru.Cache[int], i int) bool {
	key := "k" + strconv.Itoa(10_000_000 + i)[1:]
	if _, ok := c.Get(key, 0); ok {
		return true
	}
	c.Set(key, 0, i, major(100, never))
	return false
}

// play asks for n keys and returns the share of hits.
func play(c *lru.Cache[int], n int, next func(i int) int) float64 {
	hits := 0
	for i := range n {
		if ask(c, next(i)) {
			hits++
		}
	}
	return float64(hits) / float64(n)
}

func loop(first, length int) func(i int) int {
	return func(i int) int { return first + i%length }
}

// recent asks for a new key and for one that was new within the last reach, in turn.
func recent(r *rand.Rand, first, reach int) func(i int) int {
	return func(i int) int {
		if i%2 == 0 {
			return first + i/2
		}
		return first + max(i/2-r.IntN(reach), 0)
	}
}

// popular asks for ten times the keys that fit, the k-th of them as often as 1/k says.
func popular(r *rand.Rand, first int) func(i int) int {
	z := rand.NewZipf(r, 1.01, 1, 10*room-1)
	return func(int) int { return first + int(z.Uint64()) }
}

func TestScanDoesNotDisplaceTheHotSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	c := newRoom()
	const hot = room / 2
	play(c, 20*room, func(i int) int { // what is hot, among what is not
		if i%4 == 0 {
			return 1_000_000 + i
		}
		return r.IntN(hot)
	})
	play(c, 10*room, loop(2_000_000, 10*room)) // nobody asks for anything else meanwhile
	left := play(c, hot, loop(0, hot))
	t.Logf("%.3f of the hot set are left", left)
	if left < 0.85 {
		t.Errorf("%.3f of the hot set are left after a scan of ten times the cache, want 0.85", left)
	}
}

func TestLoopLargerThanTheCacheHits(t *testing.T) {
	for _, times := range []float64{1.05, 1.1, 1.2, 1.5, 2, 4} {
		c := newRoom()
		length := int(times * room)
		play(c, 30*length, loop(0, length))
		got := play(c, 10*length, loop(0, length))
		t.Logf("loop of %.2f times the cache: %.3f of %.3f, small queue %.3f", times, got, 1/times, c.SmallShare())
		if got < 0.93/times { // least recent use has none
			t.Errorf("%.3f hits in a loop of %.2f times the cache, want at least 0.93 of %.3f", got, times, 1/times)
		}
	}
}

func TestRecencyGrowsTheSmallQueue(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	c := newRoom()
	next := recent(r, 0, room*7/10)
	play(c, 100*room, next)
	got := play(c, 20*room, func(i int) int { return next(100*room + i) })
	t.Logf("%.3f hits, small queue %.3f", got, c.SmallShare())
	if got < 0.42 {
		t.Errorf("%.3f hits where half are of a key among the last seven tenths of the cache, want 0.42", got)
	}
	if s := c.SmallShare(); s < 0.4 {
		t.Errorf("the small queue has %.3f of the cache, want 0.4 and more", s)
	}
}

func TestPolicyFollowsTheLoad(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 0))
	c := newRoom()
	for round, times := range []float64{2, 1.1, 2} {
		first, length := round*2_000_000, int(times*room)
		play(c, 100*room, recent(r, first, room*7/10))
		large := c.SmallShare()
		play(c, 100*room, loop(first+1_000_000, length))
		got := play(c, 10*length, loop(first+1_000_000, length))
		t.Logf("round %d: %.3f hits in the loop, small queue %.3f, was %.3f", round, got, c.SmallShare(), large)
		if got < 0.85/times {
			t.Errorf("round %d: %.3f hits in a loop of %.1f times the cache after a load of recency, want 0.85 of %.3f", round, got, times, 1/times)
		}
		if large < 0.4 || c.SmallShare() > large/2 {
			t.Errorf("round %d: the small queue had %.3f and has %.3f, want 0.4 and less than half of it", round, large, c.SmallShare())
		}
	}
}

func TestPolicyForgetsWhatHasGoneOutOfUse(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 0))
	c := newRoom()
	alone := play(newRoom(), 60*room, popular(r, 0))
	play(c, 60*room, popular(r, 0))
	play(c, 40*room, popular(r, 1_000_000))
	got := play(c, 20*room, popular(r, 1_000_000))
	t.Logf("%.3f hits, %.3f without another load before", got, alone)
	if got < alone-0.04 {
		t.Errorf("%.3f hits of what is popular now, %.3f where nothing else was before", got, alone)
	}
}

// TestSparedVictimDoesNotGuardForEver: one at the end of the main queue that the
// sketch takes for another, which is asked for all the time, is never the weaker one.
// What is behind it goes out of use unseen.
func TestSparedVictimDoesNotGuardForEver(t *testing.T) {
	c := newRoom()
	play(c, 30*room, loop(0, room*11/10))
	guards := c.Hottest(room, 0)
	next := loop(1_000_000, room*9/10)
	load := func(i int) int {
		if i%room == 0 {
			for g := 0; g < len(guards); g += len(guards) / 40 { // one of them will soon come to the end
				c.Haunt(guards[g].Key, 15)
			}
		}
		return next(i)
	}
	early := play(c, 2*room, load)
	play(c, 60*room, load)
	got := play(c, 10*room, load)
	t.Logf("%.3f hits, %.3f at first", got, early)
	if got < 0.8 {
		t.Errorf("%.3f hits in a loop that fits, behind a victim that is always spared, want 0.8", got)
	}
}
