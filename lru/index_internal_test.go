package lru

import (
	"maps"
	"math/rand/v2"
	"testing"
)

// lookup returns all refs that a probe for hash meets.
func (x *index) lookup(hash uint32) map[ref]bool {
	met := map[ref]bool{}
	if len(x.slots) == 0 {
		return met
	}
	for i := x.home(hash); x.slots[i] != 0; i = x.next(i) {
		if uint32(x.slots[i]>>32) == hash {
			met[ref(x.slots[i])] = true
		}
	}
	return met
}

// TestIndexIsAMapOfHashes adds and drops with hashes that spread, that are few, so
// that many are the same, of which one in ten begins at the end of the table, so that
// probes wrap around, and that are the least and the most there are.
func TestIndexIsAMapOfHashes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for name, hash := range map[string]func(r *rand.Rand) uint32{
		"spread": (*rand.Rand).Uint32,
		"few":    func(r *rand.Rand) uint32 { return r.Uint32N(40) * 0x06543210 },
		"at the end": func(r *rand.Rand) uint32 {
			if r.IntN(10) > 0 {
				return r.Uint32()
			}
			return ^uint32(0) - r.Uint32N(1<<16)
		},
		"extremes": func(r *rand.Rand) uint32 { return -(r.Uint32() & 1) },
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			var x index
			held := map[uint32]map[ref]bool{}
			type entry struct {
				hash uint32
				r    ref
			}
			var all []entry
			limit, steps := 4000, 20_000
			if name == "extremes" || name == "few" {
				limit, steps = 300, 3000 // probes are as long as there are entries of a hash
			}
			grown, shrunk := false, false
			for i := range steps {
				slots := len(x.slots)
				if rising := i < steps/2; len(all) == 0 || len(all) < limit && r.IntN(10) < 2 == !rising {
					e := entry{hash(r), ref(i + 1)}
					x.add(e.hash, e.r)
					all = append(all, e)
					if held[e.hash] == nil {
						held[e.hash] = map[ref]bool{}
					}
					held[e.hash][e.r] = true
				} else {
					at := r.IntN(len(all))
					e := all[at]
					x.drop(e.hash, e.r)
					delete(held[e.hash], e.r)
					all[at] = all[len(all)-1]
					all = all[:len(all)-1]
				}
				grown, shrunk = grown || len(x.slots) > slots, shrunk || len(x.slots) < slots
				if x.n != len(all) {
					t.Fatalf("%d entries are counted, want %d", x.n, len(all))
				}
				if i%500 != 0 && i != steps-1 {
					continue
				}
				if err := x.audit(); err != nil {
					t.Fatal(err)
				}
				for h, refs := range held {
					if got := x.lookup(h); !maps.Equal(got, refs) {
						t.Fatalf("a probe for %x meets %v, want %v", h, got, refs)
					}
				}
			}
			if !grown || shrunk != (limit > 1000) {
				t.Errorf("grown = %t, shrunk = %t, want the table to have followed %d entries both ways", grown, shrunk, limit)
			}
		})
	}
}

func TestIndexDoesNotSwing(t *testing.T) {
	var x index
	n := 0
	for ; len(x.slots) < 4*doubleUntil || (n+1)*fullDen <= len(x.slots)*fullNum; n++ {
		x.add(uint32(n)*0x9e3779b9, ref(n+1))
	}
	for _, at := range []int{n, len(x.slots)/4 + 1} { // where it grows, and where it shrinks
		for ; n > at; n-- {
			x.drop(uint32(n-1)*0x9e3779b9, ref(n))
		}
		resized := 0
		for range 100 {
			slots := len(x.slots)
			x.add(uint32(n)*0x9e3779b9, ref(n+1))
			x.add(uint32(n+1)*0x9e3779b9, ref(n+2))
			for _, i := range []int{n, n + 1, n - 1, n - 2} {
				x.drop(uint32(i)*0x9e3779b9, ref(i+1))
				if len(x.slots) != slots {
					resized, slots = resized+1, len(x.slots)
				}
			}
			x.add(uint32(n-2)*0x9e3779b9, ref(n-1))
			x.add(uint32(n-1)*0x9e3779b9, ref(n))
		}
		if resized > 2 {
			t.Errorf("the table changed its length %d times around %d entries, want at most twice", resized, n)
		}
	}
}
