package main

import (
	"math"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/peercache/peercache/bench/internal/stores"
)

// A boundJob puts Times as many bytes into a store as it may hold, in values of all
// sizes, from several goroutines.
type boundJob struct {
	Bytes   int64 // that the store may hold
	Times   int
	Writers int
}

// A boundPeak is the most that was seen, as a part of what the store may hold.
type boundPeak struct {
	Charged float64 // by its own count, after every Set; 0 if it has none
	Heap    float64 // live, at several moments
	End     float64 // live at the end
}

const (
	// The sizes of values are spread evenly over the orders of magnitude between
	// these, so that most are small and most bytes are in large ones.
	smallestValue, largestValue = 16, 64 << 10

	// checks is how often the live heap is looked at; arbitrary.
	checks = 16
)

func (j *boundJob) measure(lib stores.Library) (boundPeak, error) {
	blob := strings.Repeat("v", largestValue)
	before := liveHeap().bytes
	store, err := lib.New(stores.Config{
		Bytes: j.Bytes, Whole: true, KeySize: keySize,
		Load: func(key string) string { return strings.Clone(blob[:sizeOf(key)]) },
	})
	if err != nil {
		return boundPeak{}, err
	}
	defer store.Close()
	accountant, counts := store.(stores.Accountant)

	peak := boundPeak{}
	keys := make([]int, j.Writers) // how many each has made
	share := j.Bytes * int64(j.Times) / int64(checks*j.Writers)
	for range checks {
		charged := make([]int64, j.Writers)
		var wg sync.WaitGroup
		for w := range j.Writers {
			wg.Go(func() {
				for set := int64(0); set < share; {
					key := newKey(keys[w]*j.Writers + w)
					keys[w]++
					size := sizeOf(key)
					store.Set(key, strings.Clone(blob[:size]))
					set += int64(len(key) + size)
					if counts {
						charged[w] = max(charged[w], accountant.Bytes())
					}
				}
			})
		}
		wg.Wait()
		for _, n := range charged {
			peak.Charged = max(peak.Charged, float64(n)/float64(j.Bytes))
		}
		peak.End = float64(liveHeap().bytes-before) / float64(j.Bytes)
		peak.Heap = max(peak.Heap, peak.End)
	}
	return peak, nil
}

// sizeOf is the size of the value of a key: random, and always the same.
func sizeOf(key string) int {
	var seed [32]byte
	copy(seed[:], key)
	u := rand.New(rand.NewChaCha8(seed)).Float64()
	return int(smallestValue * math.Pow(float64(largestValue)/smallestValue, u))
}
