package consistenthash_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/peercache/peercache/consistenthash"
)

func TestLogarithmIsAccurate(t *testing.T) {
	// Hashes of every magnitude, and those near 2^64, which win slots.
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		x := rnd.Uint64() >> rnd.IntN(64)
		want := 64 - math.Log2(float64(x|1))
		got := math.Ldexp(float64(consistenthash.MinusLog2(x)), -57)
		if math.Abs(got-want) > 3e-6 {
			t.Fatalf("-log2(%#x) = %v, want %v", x, got, want)
		}
		gap := rnd.Uint64()>>(1+rnd.IntN(40)) + 1<<20 // else the last bit of the result matters
		want = -math.Log1p(-math.Ldexp(float64(gap), -64)) / math.Ln2
		got = math.Ldexp(float64(consistenthash.MinusLog2(-gap)), -57)
		if math.Abs(got-want) > 0.002*want {
			t.Fatalf("-log2(1 - %d/2^64) = %v, want %v", gap, got, want)
		}
	}
}

func TestLogarithmNeverRisesWithTheHash(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	check := func(a, b uint64) {
		la, lb := consistenthash.MinusLog2(min(a, b)), consistenthash.MinusLog2(max(a, b))
		if la < lb {
			t.Fatalf("-log2(%#x) = %d, below %d for %#x", min(a, b), la, lb, max(a, b))
		}
	}
	for i := range 64 { // where a piece of the line ends and the next begins
		for j := range uint64(256) {
			edge := (1<<63 + j<<55) >> i
			check(edge, edge-1)
			check(edge, edge+1)
		}
	}
	for range 100_000 {
		x := rnd.Uint64() >> rnd.IntN(64)
		check(x, x+1)
		check(x, x+rnd.Uint64()>>(rnd.IntN(63)+1))
	}
	check(0, 1)
	check(math.MaxUint64, math.MaxUint64-1)
}

func TestScoreIsDividedByTheWeight(t *testing.T) {
	for slot := range 1000 {
		one := consistenthash.Score(consistenthash.Node{ID: "a", Weight: 1}, slot)
		for w := 2; w <= 100; w++ {
			got := consistenthash.Score(consistenthash.Node{ID: "a", Weight: w}, slot)
			want := one / uint64(w)
			// The lower 16 bits are not the score's, and the last one above them may round down.
			if got > want+1<<16 || got+2<<16 < want {
				t.Fatalf("slot %d: score for weight %d = %d, want %d", slot, w, got, want)
			}
		}
	}
}
