package lru

import (
	"math/rand/v2"
	"testing"
)

func hashes(r *rand.Rand, n int) []uint32 {
	list := make([]uint32, n)
	for i := range list {
		list[i] = r.Uint32()
	}
	return list
}

func TestSketchDoesNotUnderestimate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	for _, n := range []int{1, 8, 100, 1000} {
		var k sketch
		k.fit(n)
		keys := hashes(r, n)
		want := map[uint32]int{}
		for adds := 0; ; {
			hash, more := keys[r.IntN(n)], 1+r.IntN(3)
			if adds += more; adds >= k.window {
				break // the next halves
			}
			k.add(hash, more)
			want[hash] = min(want[hash]+more, maxCount)
			if got := k.count(hash); got < want[hash] || got > maxCount {
				t.Fatalf("count = %d of %d entries, want %d to %d", got, n, want[hash], maxCount)
			}
		}
		exact := 0
		for hash, w := range want {
			if got := k.count(hash); got < w {
				t.Fatalf("count = %d of %d entries, want at least %d", got, n, w)
			} else if got <= w+1 {
				exact++
			}
		}
		if exact < len(want)*8/10 {
			t.Errorf("%d of %d counts are right by one, want eight in ten", exact, len(want))
		}
	}
}

func TestSketchTellsTheFrequentFromTheRest(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	for _, n := range []int{100, 1000, 100_000} {
		var k sketch
		k.fit(n)
		frequent, others := hashes(r, n/10), hashes(r, 5*n)
		for range 10 {
			for _, h := range frequent {
				k.add(h, 1)
			}
		}
		for _, h := range others {
			k.add(h, 1)
		}
		wrong := 0
		for i, h := range others {
			if k.count(h) >= k.count(frequent[i%len(frequent)]) {
				wrong++
			}
		}
		if wrong > len(others)/50 {
			t.Errorf("%d of %d keys that were seen once are taken for ones that were seen ten times, want one in fifty", wrong, len(others))
		}
	}
}

func TestSketchHalves(t *testing.T) {
	var k sketch
	k.fit(8)
	for count, want := range map[int]int{15: 7, 8: 4, 1: 0, 0: 0} {
		clear(k.words)
		k.adds = 0
		k.add(42, count)
		if got := k.count(42); got != count {
			t.Fatalf("count = %d, want %d", got, count)
		}
		k.halve()
		if got := k.count(42); got != want {
			t.Errorf("count = %d when %d was halved, want %d", got, count, want)
		}
		if k.adds != count/2 {
			t.Errorf("%d adds count after halving, want %d", k.adds, count/2)
		}
	}
	clear(k.words)
	k.adds = 0
	for range 8*sketchWindow - 1 {
		k.add(1, 1)
	}
	if got := k.count(1); got != maxCount {
		t.Errorf("count = %d before the window is over, want %d", got, maxCount)
	}
	k.add(1, 1)
	if got := k.count(1); got != maxCount/2 {
		t.Errorf("count = %d after it, want %d", got, maxCount/2)
	}
}

func TestSketchKeepsItsCountsWhenItGrows(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 0))
	var k sketch
	k.fit(100)
	keys := hashes(r, 100)
	for i, h := range keys {
		k.add(h, 1+i%3)
	}
	before := map[uint32]int{}
	for _, h := range keys {
		before[h] = k.count(h)
	}
	words := len(k.words)
	k.fit(1500)
	if len(k.words) < 1500 || len(k.words)&(len(k.words)-1) != 0 || len(k.words) <= words {
		t.Fatalf("%d words for 1500 entries, were %d, want a power of two, one for each", len(k.words), words)
	}
	for h, want := range before {
		if got := k.count(h); got != want {
			t.Errorf("count = %d after growing, was %d", got, want)
		}
	}
	k.fit(100)
	if got := len(k.words); got < 100 || got > 800 {
		t.Errorf("%d words for 100 entries, want at most eight for each", got)
	}
	k.fit(101)
	for h, want := range before {
		if got := k.count(h); got < want {
			t.Errorf("count = %d after shrinking, was %d", got, want)
		}
	}
	k.fit(1)
	if len(k.words) != blockWords {
		t.Errorf("%d words for one entry, want %d", len(k.words), blockWords)
	}
}

func TestSketchWithoutWordsKnowsNothing(t *testing.T) {
	var k sketch
	k.add(1, 1)
	if got := k.count(1); got != 0 {
		t.Errorf("count = %d, want 0", got)
	}
	var g ghost
	g.add(1)
	if g.take(1, 1) {
		t.Error("a ghost without slots remembers")
	}
}

func TestGhostRemembersTheLastAndForgetsTheRest(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 0))
	for _, n := range []int{16, 100, 5000} {
		var g ghost
		g.fit(n)
		left := hashes(r, 10*n)
		for _, h := range left {
			g.add(h)
		}
		last, before := left[9*n:], left[:9*n]
		wrong := 0
		for _, h := range before {
			if g.take(h, n) {
				wrong++
			}
		}
		if wrong > 0 {
			t.Errorf("%d of the %d that left before the last %d are remembered, want none", wrong, len(before), n)
		}
		right := 0
		for _, h := range last {
			if g.take(h, n) {
				right++
			}
		}
		if right < n*3/4 {
			t.Errorf("%d of the last %d are remembered, want seven in eight", right, n)
		}
		for _, h := range last {
			if g.take(h, n) {
				t.Error("one that was taken is still remembered")
			}
		}
		for _, h := range hashes(r, n) {
			if g.take(h, n) {
				wrong++
			}
		}
		if wrong > max(n/100, 1) {
			t.Errorf("%d of %d that never left are remembered", wrong, n)
		}
	}
}

// TestGhostCountsOn: the numbers of those who left come round after 2^20, and those
// who left just before are remembered all the same.
func TestGhostCountsOn(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 0))
	var g ghost
	g.fit(100)
	g.left = 1<<20 - 50
	left := hashes(r, 100)
	for _, h := range left {
		g.add(h)
	}
	right := 0
	for _, h := range left {
		if g.take(h, 100) {
			right++
		}
	}
	if right < 75 {
		t.Errorf("%d of 100 are remembered where the numbers come round, want seven in eight", right)
	}
}

func TestGhostFits(t *testing.T) {
	var g ghost
	g.fit(100)
	size := len(g.slots)
	g.add(7)
	g.fit(60)
	if len(g.slots) != size || !g.take(7, 1) {
		t.Error("a little less to remember forgets all")
	}
	g.fit(1000)
	if len(g.slots) != 4096 {
		t.Errorf("%d slots for 1000, want 4096", len(g.slots))
	}
	g.fit(1)
	if want := 4 * minGhosts; len(g.slots) != want {
		t.Errorf("%d slots for 1, want %d", len(g.slots), want)
	}
	var p policy
	if n := p.memory(1<<30, 1<<29); n > maxGhosts {
		t.Errorf("%d of a thousand million entries are to be remembered, want at most %d, which there are slots for", n, maxGhosts)
	}
}
