package trace_test

import (
	"math/rand/v2"
	"testing"

	"github.com/peercache/peercache/bench/internal/trace"
)

func TestBeladyOnAnExampleByHand(t *testing.T) {
	// With room for two: 0 and 1 miss and stay, 2 misses and is let go, as it is
	// used last of the three; 0 and 1 hit, 3 is never used again, 2 misses.
	example := trace.Trace{Accesses: []uint32{0, 1, 2, 0, 1, 3, 0, 2, 1}, Objects: 4}
	for entries, want := range map[int]int{1: 2, 2: 4, 3: 5, 4: 5} {
		if got := trace.Belady(example, entries); got != want {
			t.Errorf("Belady(%d entries) = %d hits, want %d", entries, got, want)
		}
	}
}

func TestBeladyOnALoopKeepsAsMuchAsFits(t *testing.T) {
	const length, rounds, entries = 10, 50, 4
	loop := trace.Trace{Objects: length}
	for i := range uint32(length * rounds) {
		loop.Accesses = append(loop.Accesses, i%length)
	}
	if got, want := trace.Belady(loop, entries), entries*(rounds-1); got != want {
		t.Errorf("Belady = %d hits, want %d: the same %d objects in each round but the first", got, want, entries)
	}
}

// exhaustive returns the most hits of all ways to run a cache that holds a set of
// objects.
func exhaustive(accesses []uint32, held uint, entries int) int {
	if len(accesses) == 0 {
		return 0
	}
	object := accesses[0]
	if held>>object&1 != 0 {
		return 1 + exhaustive(accesses[1:], held, entries)
	}
	best := exhaustive(accesses[1:], held, entries) // refuse it
	var victims []uint
	n := 0
	for o := range uint(8) {
		if held>>o&1 != 0 {
			n++
			victims = append(victims, 1<<o)
		}
	}
	if n < entries {
		victims = []uint{0}
	}
	for _, victim := range victims {
		best = max(best, exhaustive(accesses[1:], held&^victim|1<<object, entries))
	}
	return best
}

func TestNoCacheBeatsBelady(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		tr := trace.Trace{Objects: 5}
		for range 12 {
			tr.Accesses = append(tr.Accesses, uint32(random.IntN(tr.Objects)))
		}
		for entries := 1; entries <= 3; entries++ {
			got, want := trace.Belady(tr, entries), exhaustive(tr.Accesses, 0, entries)
			if got != want {
				t.Errorf("seed %d: Belady(%v, %d) = %d hits, want %d", seed, tr.Accesses, entries, got, want)
			}
		}
	}
}
