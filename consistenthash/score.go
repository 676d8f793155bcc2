package consistenthash

// This file ranks the nodes of a slot. It knows weights, and nothing of caps,
// zones or slots other than the one it is asked about.

import "math/bits"

const (
	// listed is how many of a slot's best nodes a table keeps. Caps hardly ever
	// look further, zones only for one that few nodes are in; who looks further
	// ranks the rest then.
	listed = 8

	// none stands for no node where an index of a node is expected.
	none = 1<<16 - 1
)

// A list holds the best nodes of a slot, best first: at least the first of the
// ranking, without gaps, and then none.
type list [listed]uint16

// len returns the number of nodes in l.
func (l *list) len() int {
	for i, n := range l {
		if n == none {
			return i
		}
	}
	return listed
}

// A rating is a score in its upper 48 bits, and in the lower 16 whose it is:
// the index of the node where nodes are compared, the slot where slots are.
// The least is the best; of equal scores that of the lower ID, or slot.
type rating uint64

// who returns the node, or slot, that is rated.
func (r rating) who() uint16 { return uint16(r) }

// A scorer scores nodes, which it knows by their index in the order of IDs.
type scorer struct {
	hashes  []uint64 // of the IDs
	weights []uint8
}

// newScorer returns a scorer of nodes.
func newScorer(nodes []Node) scorer {
	s := scorer{hashes: make([]uint64, len(nodes)), weights: make([]uint8, len(nodes))}
	for i, n := range nodes {
		s.hashes[i], s.weights[i] = Hash(nodeSeed, n.ID), uint8(n.Weight)
	}
	return s
}

// rate returns the rating of node in the slot of key.
func (s *scorer) rate(key uint64, node uint16) rating {
	return score(mix(s.hashes[node]^key), s.weights[node]) | rating(node)
}

// rateSlot returns the rating of slot at node.
func (s *scorer) rateSlot(slot, node uint16) rating {
	return score(mix(s.hashes[node]^slotKey(int(slot))), s.weights[node]) | rating(slot)
}

// rank fills l with the best nodes in the slot of key, of those whose rating
// is from or worse.
func (s *scorer) rank(l *list, key uint64, from rating) {
	var best [listed]rating
	for i := range best {
		best[i] = 1<<64 - 1 // of node none
	}
	// A hash not above that of the last in a full list, of a node not heavier,
	// cannot score better, and of equals the one seen first stays. Most nodes
	// end here, before the logarithm: this line is the cost of a large table.
	var lastHash uint64
	var lastWeight uint8
	weights := s.weights[:len(s.hashes)]
	seen := 0
	for i, h := range s.hashes {
		h = mix(h ^ key)
		if h <= lastHash && weights[i] <= lastWeight {
			continue
		}
		r := score(h, weights[i]) | rating(i)
		if r < from || r > best[listed-1] {
			continue
		}
		// An insertion without a branch that a processor could guess wrong.
		seen = min(seen+1, listed)
		for k, b := range best[:seen] {
			best[k], r = min(b, r), max(b, r)
		}
		if seen == listed {
			last := best[listed-1].who()
			lastHash, lastWeight = mix(s.hashes[last]^key), weights[last]
		}
	}
	for i, r := range best {
		l[i] = r.who()
	}
}

// score returns -log2(hash/2^64)/weight as a rating of nobody: in fixed point,
// 41 bits after the point. It never falls when hash falls, nor when weight
// falls: rank relies on that.
func score(hash uint64, weight uint8) rating {
	hi, _ := bits.Mul64(minusLog2(hash), inverses[weight])
	return rating(hi &^ (1<<16 - 1))
}

// minusLog2 returns 64 - log2(hash) in fixed point with 57 bits after the
// point; the last bit of hash is taken for set, since 0 has no logarithm. It is
// linear between 257 values a power of two, which puts it at most 0.000003 off;
// near 0, where slots are won, at most 0.2 % of the result.
func minusLog2(hash uint64) uint64 {
	hash |= 1
	zeros := bits.LeadingZeros64(hash)
	fraction := hash << zeros << 1 // of the mantissa, the point before it
	piece := fraction >> 56
	rise, _ := bits.Mul64(log2s[piece+1]-log2s[piece], fraction<<8)
	return uint64(zeros+1)<<57 - log2s[piece] - rise
}

// log2s[i] is log2(1 + i/256) with 57 bits after the point.
var log2s = func() (t [257]uint64) {
	for i := range t[:256] {
		t[i] = log2(1<<63+uint64(i)<<55) << (57 - 48)
	}
	t[256] = 1 << 57
	return t
}()

// log2 returns the binary logarithm of x/2^63, which is at least 1 and less
// than 2, with 48 bits after the point: squaring doubles the logarithm, so
// that each overflow beyond 2 is its next bit (the digit-by-digit method,
// Knuth, The Art of Computer Programming, volume 1, section 1.2.2). It is here
// for the few values of a table, instead of package math, which may round
// differently on another architecture.
func log2(x uint64) (log uint64) {
	for range 48 {
		x, _ = bits.Mul64(x, x) // now the point is after two bits
		log <<= 1
		if x >= 1<<63 {
			log |= 1
		} else {
			x <<= 1
		}
	}
	return log
}

// inverses[w] is (2^64-1)/w, so that a multiplication divides by a weight.
var inverses = func() (t [maxWeight + 1]uint64) {
	for w := uint64(1); w <= maxWeight; w++ {
		t[w] = (1<<64 - 1) / w
	}
	return t
}()
