package lru

// This file finds the node of a key: an open-addressed table of one word for each
// entry, its hash and its ref, probed in order. A probe that meets another hash,
// as nearly all that fail do, stays within the table, eight words to a cache line.

const (
	minSlots = 8

	// A table is at most four fifths full, which is where probing begins to get
	// long: 3 words for a hit, 13 for a miss. It grows by a quarter, and by twice
	// while it is small, so that a full one has at least 0.64 of its words in use,
	// where doubling would leave it half empty; 10 to 12.5 bytes an entry.
	fullNum, fullDen = 4, 5
	doubleUntil      = 1024
)

type index struct {
	slots []uint64 // hash<<32 | ref, 0 where there is none
	n     int
}

// home returns where the probe for a hash begins: its share of the table, so that
// the table may have any length.
func (x *index) home(hash uint32) int {
	return int(uint64(hash) * uint64(len(x.slots)) >> 32)
}

func (x *index) next(i int) int {
	if i++; i == len(x.slots) {
		return 0
	}
	return i
}

// add notes that the node at r has this hash. It must not be there yet.
func (x *index) add(hash uint32, r ref) {
	if (x.n+1)*fullDen > len(x.slots)*fullNum {
		size := len(x.slots) + len(x.slots)/4
		if len(x.slots) < doubleUntil {
			size = max(2*len(x.slots), minSlots)
		}
		x.resize(size)
	}
	x.n++
	x.put(uint64(hash)<<32 | uint64(r))
}

func (x *index) put(word uint64) {
	i := x.home(uint32(word >> 32))
	for x.slots[i] != 0 {
		i = x.next(i)
	}
	x.slots[i] = word
}

// drop forgets the node at r, which must be there. Those behind it move up where
// they may, so that no probe ends too early and no grave is left to be passed.
func (x *index) drop(hash uint32, r ref) {
	hole := x.home(hash)
	for word := uint64(hash)<<32 | uint64(r); x.slots[hole] != word; {
		hole = x.next(hole)
	}
	for i := x.next(hole); x.slots[i] != 0; i = x.next(i) {
		home := x.home(uint32(x.slots[i] >> 32))
		stays := hole < home && home <= i
		if i < hole {
			stays = hole < home || home <= i
		}
		if !stays {
			x.slots[hole] = x.slots[i]
			hole = i
		}
	}
	x.slots[hole] = 0
	x.n--
	if len(x.slots) > doubleUntil && x.n < len(x.slots)/4 {
		x.resize(len(x.slots) / 2)
	}
}

func (x *index) resize(size int) {
	old := x.slots
	x.slots = make([]uint64, size)
	for _, word := range old {
		if word != 0 {
			x.put(word)
		}
	}
}
