package main

import (
	"math/bits"
	"time"
)

// A histogram counts durations by nanoseconds, in buckets that are as wide as 1/32 of
// what they hold at most: 32 for each power of two, as HdrHistogram
// (http://hdrhistogram.org) divides them. The zero value is empty. It is not safe for
// concurrent use: every caller has its own, and they are merged. As JSON it is a list.
type histogram []int64

const (
	subBits    = 5
	subBuckets = 1 << subBits
)

// bucket returns the index of the bucket that holds n.
func bucket(n uint64) int {
	shift := max(bits.Len64(n)-subBits-1, 0)
	return shift<<subBits + int(n>>shift) // below 64 each number has its own
}

// middle returns the number in the middle of a bucket.
func middle(index int) uint64 {
	shift := max(index>>subBits-1, 0)
	first := uint64(index-shift<<subBits) << shift
	return first + uint64(1)<<shift/2
}

func (h *histogram) add(d time.Duration) {
	i := bucket(uint64(max(d, 0)))
	h.grow(i + 1)
	(*h)[i]++
}

func (h *histogram) merge(from histogram) {
	h.grow(len(from))
	for i, n := range from {
		(*h)[i] += n
	}
}

// grow makes room for n buckets.
func (h *histogram) grow(n int) {
	if n > len(*h) {
		*h = append(*h, make([]int64, n-len(*h))...)
	}
}

// quantile returns what so large a part of the durations is not above, within 1/64 of
// it; 0 if there are none.
func (h histogram) quantile(part float64) time.Duration {
	var all int64
	for _, n := range h {
		all += n
	}
	rank := max(int64(part*float64(all)+0.5), 1)
	for i, n := range h {
		if rank -= n; rank <= 0 {
			return time.Duration(middle(i))
		}
	}
	return 0
}
