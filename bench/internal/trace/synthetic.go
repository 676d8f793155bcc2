package trace

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
)

// A generator appends accesses to a trace. Those that share a trace use keys of
// different spaces, unless they are meant to meet.
type generator func(b *builder, random *rand.Rand, accesses int)

// zipfKeys is the number of keys of a Zipf distribution. They are the first there
// are; those of other parts of a trace begin at multiples of spaceSize.
const (
	zipfKeys  = 100_000
	spaceSize = 1 << 40
)

// Where the keys of each part begin.
const (
	driftKeys   = (iota + 1) * spaceSize
	scanKeys    // of all the runs
	recencyKeys // of all the accesses
	phaseKeys   // of the loop that is a phase
	loopKeys    // of the first loop; the next ones follow
)

// Synthetic returns artificial traces of so many accesses each. They are the same
// at every call.
//
// A Zipf distribution is what popularity looks like on the web (L. Breslau et al.,
// Web Caching and Zipf-like Distributions, INFOCOM 1999) and says nothing about
// time; the others each have what one kind of cache is bad at.
func Synthetic(accesses int) []Trace {
	parts := []struct {
		name string
		gen  generator
	}{
		{"zipf-0.8", zipf(0.8)},
		{"zipf-1.0", zipf(1)},
		{"zipf-1.2", zipf(1.2)},
		{"zipf-drift", drift},
		{"zipf-scans", scans},
		{"loops-zipf", loops},
		{"recency", recency},
		{"phases", phases},
	}
	traces := make([]Trace, len(parts))
	for i, p := range parts {
		b := newBuilder(p.name)
		p.gen(b, rand.New(rand.NewPCG(1, uint64(i))), accesses)
		traces[i] = b.finish()
	}
	return traces
}

// ranks returns a function that draws 0 to zipfKeys-1, k with a probability
// proportional to (k+1)^-s. The one of math/rand needs s > 1.
func ranks(random *rand.Rand, s float64) func() uint64 {
	sums := make([]float64, zipfKeys)
	sum := 0.0
	for k := range sums {
		sum += math.Pow(float64(k+1), -s)
		sums[k] = sum
	}
	return func() uint64 {
		return uint64(min(sort.SearchFloat64s(sums, random.Float64()*sum), zipfKeys-1))
	}
}

// zipf draws each access independently.
func zipf(s float64) generator {
	return func(b *builder, random *rand.Rand, accesses int) {
		rank := ranks(random, s)
		for range accesses {
			b.add(rank(), unsized)
		}
	}
}

// drift has a Zipf distribution over keys that become popular one after the
// other: every 50 accesses a new key is the most popular, and all others are one
// rank further down.
func drift(b *builder, random *rand.Rand, accesses int) {
	const every = 50
	rank := ranks(random, 1)
	for i := range accesses {
		b.add(driftKeys+spaceSize/2+rank()-uint64(i/every), unsized)
	}
}

// scans has a quarter of its accesses in runs of 2,000 to 10,000 keys in order,
// each key seen in one run only, between those of a Zipf distribution.
func scans(b *builder, random *rand.Rand, accesses int) {
	rank := ranks(random, 1)
	scanned := uint64(scanKeys)
	for n := 0; n < accesses; {
		length := 2_000 + random.IntN(8_001)
		for i := 0; i < 4*length && n < accesses; i++ {
			if i < 3*length {
				b.add(rank(), unsized)
			} else {
				b.add(scanned, unsized)
				scanned++
			}
			n++
		}
	}
}

// loops has half of its accesses in four loops of 300 to 20,000 keys, each going
// round at its own pace, and half in a Zipf distribution.
func loops(b *builder, random *rand.Rand, accesses int) {
	lengths := []uint64{300, 1_000, 4_000, 20_000}
	at := make([]uint64, len(lengths))
	rank := ranks(random, 1)
	for range accesses {
		if random.IntN(2) == 0 {
			b.add(rank(), unsized)
			continue
		}
		i := random.IntN(len(lengths))
		b.add(loopKeys+uint64(i)*spaceSize+at[i]%lengths[i], unsized)
		at[i]++
	}
}

// recency asks for what was used not long ago: the distance of an access in a
// list ordered by last use is distributed evenly over the orders of magnitude from
// 1 to 30,000, and one access in ten is to a key never seen before. This is the
// model under which no policy beats the least recently used one (R. L. Mattson et
// al., Evaluation techniques for storage hierarchies, IBM Systems Journal 9,
// 1970).
func recency(b *builder, random *rand.Rand, accesses int) {
	const deepest = 30_000
	var list []uint64 // the last used key last
	fresh := uint64(recencyKeys)
	for range accesses {
		depth := int(math.Exp(random.Float64() * math.Log(deepest)))
		var key uint64
		if random.IntN(10) == 0 || depth > len(list) {
			key = fresh
			fresh++
		} else {
			i := len(list) - depth
			key = list[i]
			list = slices.Delete(list, i, i+1)
		}
		if list = append(list, key); len(list) >= 2*deepest {
			list = slices.Delete(list, 0, deepest) // out of reach
		}
		b.add(key, unsized)
	}
}

// phases changes its nature five times: what a cache has learned in one is wrong in
// the next.
func phases(b *builder, random *rand.Rand, accesses int) {
	loop := func(b *builder, _ *rand.Rand, accesses int) {
		for i := range accesses {
			b.add(phaseKeys+uint64(i%6_000), unsized)
		}
	}
	gens := []generator{zipf(1), loop, recency, scans, loops, zipf(0.8)}
	for i, gen := range gens {
		gen(b, random, accesses*(i+1)/len(gens)-accesses*i/len(gens))
	}
}
