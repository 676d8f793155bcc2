package lru

import "math/bits"

// A sketch estimates how often keys were asked for lately, also of keys that are
// not there any more: a count-min sketch (Cormode and Muthukrishnan, 2005) of four
// rows with 4-bit counters, conservative in what it adds (Estan and Varghese,
// 2002) and halved from time to time, as TinyLFU has it (Einziger, Friedman and
// Manes, 2017). The four counters of a key are in one cache line. It is touched
// by insertions and evictions only, never by a hit.
type sketch struct {
	words  []uint64 // 16 counters each, in blocks of blockWords
	adds   int      // since the last halving, half of those before it included
	window int      // how many adds until the next
}

const (
	blockWords = 8
	rows       = 4
	maxCount   = 15

	// sketchShare is how many entries share a block of 128 counters. With 8, each
	// has 16 of them: 8 bytes an entry, and up to 16 right after the sketch has grown.
	// Half of that costs 0.3 points, twice as much brings 0.1.
	sketchShare = 8

	// sketchWindow is how many insertions and hits for each entry there are between
	// two halvings. The paper has 10; 16 and 24 are 0.1 points better.
	sketchWindow = 16
)

// fit makes the sketch large enough for n entries. Growing keeps what it knows:
// each half of the blocks begins as a copy of the other. A shard of few large
// entries, where there were many small ones, does not keep what they needed.
func (k *sketch) fit(n int) {
	k.window = sketchWindow * max(n, sketchShare)
	size := max(len(k.words), blockWords)
	for size*sketchShare < n*blockWords {
		size *= 2
	}
	for size > blockWords && n*blockWords < size*sketchShare/8 {
		size /= 2
	}
	if size == len(k.words) {
		return
	}
	words := make([]uint64, size) // by append it would have up to half as many again
	for at := copy(words, k.words); at > 0 && at < size; at *= 2 {
		copy(words[at:], words[:at])
	}
	k.words = words
}

// spots returns the words of a key's counters in the first row of its block, and
// how far its counters are shifted in each row, one byte for each.
func (k *sketch) spots(hash uint32) (block []uint64, pick uint64) {
	x := uint64(hash) * 0x9e3779b97f4a7c15 // spreads the bits; Knuth's multiplicative hash
	x ^= x >> 32
	at := int(x>>24) & (len(k.words)/blockWords - 1) * blockWords
	return k.words[at : at+blockWords : at+blockWords], x
}

// spot returns the word of a row and the shift of the counter in it. Each row has
// two words of the block, and takes five bits of x.
func spot(x uint64, row int) (word int, shift uint) {
	five := x >> (5 * row) & 31
	return 2*row + int(five>>4), uint(five&15) * 4
}

// count returns the estimate for a hash, 0 to maxCount.
func (k *sketch) count(hash uint32) int {
	if len(k.words) == 0 {
		return 0
	}
	block, x := k.spots(hash)
	least := uint64(maxCount)
	for row := range rows {
		w, shift := spot(x, row)
		least = min(least, block[w]>>shift&maxCount)
	}
	return int(least)
}

// add counts n more for a hash.
func (k *sketch) add(hash uint32, n int) {
	if len(k.words) == 0 || n <= 0 {
		return
	}
	block, x := k.spots(hash)
	want := uint64(min(k.count(hash)+n, maxCount))
	for row := range rows {
		w, shift := spot(x, row)
		if c := block[w] >> shift & maxCount; c < want {
			block[w] += (want - c) << shift
		}
	}
	if k.adds += n; k.adds >= k.window {
		k.halve()
	}
}

func (k *sketch) halve() {
	for i, w := range k.words {
		k.words[i] = w >> 1 & 0x7777777777777777
	}
	k.adds /= 2
}

// A ghost remembers which entries have left lately, by 12 bits of their hashes and
// the order in which they left, in a table that forgets what another falls upon.
type ghost struct {
	slots []uint32 // mark<<20 | the number of the leaver, modulo 2^20
	left  uint32   // how many have left so far
}

const (
	ghostSeq  = 1<<20 - 1
	minGhosts = 16

	// maxGhosts keeps the numbers of those remembered far from coming round.
	maxGhosts = 1 << 18
)

// fit makes room to remember n leavers, most of them: with four slots for each,
// seven in eight are still there when the last of the n has left. Another size
// forgets them all.
func (g *ghost) fit(n int) {
	size := 1 << bits.Len(uint(4*min(max(n, minGhosts), maxGhosts)-1))
	if size > len(g.slots) || size < len(g.slots)/8 {
		g.slots = make([]uint32, size)
	}
}

func (g *ghost) spot(hash uint32) (i int, mark uint32) {
	x := uint64(hash) * 0xd6e8feb86659fd93
	return int(x>>32) & (len(g.slots) - 1), uint32(x) &^ ghostSeq
}

// add remembers a leaver.
func (g *ghost) add(hash uint32) {
	if len(g.slots) == 0 {
		return
	}
	i, mark := g.spot(hash)
	g.left++
	g.slots[i] = mark | g.left&ghostSeq
}

// take reports whether hash is that of one of the last n leavers, and forgets it.
func (g *ghost) take(hash uint32, n int) bool {
	if len(g.slots) == 0 {
		return false
	}
	i, mark := g.spot(hash)
	slot := g.slots[i]
	if slot == 0 || slot&^ghostSeq != mark || (g.left-slot)&ghostSeq >= uint32(n) {
		return false
	}
	g.slots[i] = 0
	return true
}
