package trace_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache/bench/internal/trace"
)

const accesses = 30_000

func TestSyntheticTracesAreTheSameEveryTime(t *testing.T) {
	if !cmp.Equal(trace.Synthetic(accesses), trace.Synthetic(accesses)) {
		t.Error("two calls differ")
	}
}

func TestSyntheticTracesHaveTheAccessesAskedFor(t *testing.T) {
	for _, tr := range trace.Synthetic(accesses) {
		if len(tr.Accesses) != accesses {
			t.Errorf("%s has %d accesses, want %d", tr.Name, len(tr.Accesses), accesses)
		}
	}
}

// hits returns the hit ratio of the least recently used policy, in percent.
func hits(tr trace.Trace, entries int) int {
	last, clock, n := make(map[uint32]int), make([]uint32, 0, len(tr.Accesses)), 0
	for i, object := range tr.Accesses {
		clock = append(clock, object)
		if before, seen := last[object]; seen {
			between := make(map[uint32]bool)
			for _, o := range clock[before+1 : i] {
				between[o] = true
				if len(between) == entries {
					break
				}
			}
			if len(between) < entries {
				n++
			}
		}
		last[object] = i
	}
	return 100 * n / len(tr.Accesses)
}

func TestEachSyntheticTraceHasItsNature(t *testing.T) {
	byName := make(map[string]trace.Trace)
	for _, tr := range trace.Synthetic(accesses) {
		byName[tr.Name] = tr
	}
	for _, c := range []struct{ worse, better string }{
		{"zipf-0.8", "zipf-1.0"}, {"zipf-1.0", "zipf-1.2"}, // skew makes it easier
		{"zipf-scans", "zipf-1.0"}, {"loops-zipf", "zipf-1.0"}, // what is mixed in makes it harder
		{"zipf-1.0", "recency"}, // recency is what the policy is for
	} {
		worse, better := hits(byName[c.worse].Head(10_000), 100), hits(byName[c.better].Head(10_000), 100)
		if worse >= better {
			t.Errorf("LRU has %d %% of %s and %d %% of %s, want less", worse, c.worse, better, c.better)
		}
	}
	for name, moves := range map[string]bool{"zipf-1.0": false, "zipf-drift": true} {
		all := byName[name].Accesses
		first, last := favorite(all[:accesses/10]), favorite(all[accesses-accesses/10:])
		if (first != last) != moves {
			t.Errorf("the favorite of %s is %d first and %d last", name, first, last)
		}
	}
}

// favorite returns the object that is used most.
func favorite(accesses []uint32) uint32 {
	uses := make(map[uint32]int)
	best := accesses[0]
	for _, object := range accesses {
		if uses[object]++; uses[object] > uses[best] {
			best = object
		}
	}
	return best
}
