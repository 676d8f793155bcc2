package lru

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

// What cannot be seen from outside: layout, and what the parts promise each other.

func TestHitWritesOneCacheLine(t *testing.T) {
	if strconv.IntSize != 64 {
		t.Skip("the padding is for 64 bits")
	}
	const line = 64
	var s shard[string]
	if size := unsafe.Sizeof(s); size%line != 0 {
		t.Errorf("a shard has %d bytes, want whole lines of %d", size, line)
	}
	for _, base := range []uintptr{0, 8} { // behind a line's begin
		on := func(offset uintptr) uintptr { return (base + offset) / line }
		if first, last := on(unsafe.Offsetof(s.mu)), on(unsafe.Offsetof(s.misses)+7); first != last {
			t.Errorf("a hit writes to lines %d to %d of a shard at %d, want one", first, last, base)
		}
		if first, last := on(unsafe.Offsetof(s.index)), on(unsafe.Offsetof(s.slab)+unsafe.Sizeof(s.slab.pages)-1); first != last {
			t.Errorf("a hit reads lines %d to %d of a shard at %d, want one", first, last, base)
		}
		if last, next := on(unsafe.Offsetof(s.watched)), on(unsafe.Sizeof(s)); last == next {
			t.Errorf("shards at %d share a line with the next", base)
		}
	}
}

func TestSketchTakesNoMoreThanItNeeds(t *testing.T) {
	var k sketch
	for _, n := range []int{1, 10, 100, 1000, 3000, 20_000, 200_000, 150_000, 2000, 100, 1} {
		counts := make(map[uint32]int)
		for range 5 { // far from being halved
			hash := rand.Uint32()
			k.add(hash, 1+rand.IntN(5))
			counts[hash] = k.count(hash)
		}
		was := len(k.words)
		k.fit(n)
		if size := len(k.words); size != cap(k.words) || size&(size-1) != 0 || size < n || size > max(8*n, blockWords) {
			t.Errorf("for %d entries it has %d words in the room of %d", n, size, cap(k.words))
		}
		for hash, want := range counts {
			if got := k.count(hash); len(k.words) >= was && got != want {
				t.Errorf("of %d entries it says that a key was seen %d times, before it grew for them %d", n, got, want)
			}
		}
	}
}

// The longest and the shortest of each class of keys, with the smallest of values, so
// that nothing hides what a key costs.
func TestKeysOfAllLengthsAreChargedForWhatTheyTake(t *testing.T) {
	inUse := func() int64 {
		runtime.GC()
		runtime.GC() // the first may leave what was being swept
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	type value struct{ _ [4]int64 }
	const n = 20_000
	for _, length := range []int{8, 9, 16, 17, 32, 33, 64, 65, 80, 81, 96, 97, 128, 129, 144, 145, 192, 257} {
		before := inUse()
		c := New(Options[value]{MaxBytes: n * int64(length+Overhead+32) * 2 / 3, Shards: 4})
		pad := strings.Repeat("x", length-8)
		for i := range n {
			c.Set(fmt.Sprintf("%08d", i)+pad, 0, value{}, Terms{Size: 32, Expires: math.MaxInt64})
		}
		ratio := float64(inUse()-before) / float64(c.Bytes())
		if ratio > 1.25 || ratio < 0.75 {
			t.Errorf("the heap has %.2f of what is charged for keys of %d bytes, want 0.75 to 1.25", ratio, length)
		}
		runtime.KeepAlive(c)
	}
}

func TestDefaultShardsHaveAMiBEach(t *testing.T) {
	for procs := range 9 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		for _, maxBytes := range []int64{-1, 0, 1, 3 << 20, 50 << 20, 100 << 20, 1 << 40, math.MaxInt64} {
			got := int64(len(New(Options[int]{MaxBytes: maxBytes}).shards))
			if got&(got-1) != 0 || got > max(maxBytes>>20, 1) || 2*got <= min(maxBytes>>20, 16*int64(runtime.GOMAXPROCS(0))) {
				t.Errorf("%d shards for %d bytes and %d processors", got, maxBytes, runtime.GOMAXPROCS(0))
			}
		}
	}
}

// A Set that waits for its turn to gather room, while a Resize makes the whole bound
// less than that, must not evict everything in vain.
func TestGatherForMoreThanThereIsEvictsNothing(t *testing.T) {
	c := New(Options[int]{MaxBytes: 100 * (Overhead + 1), MinorBytes: 50 * (Overhead + 1), Shards: 4})
	for i := range 100 {
		c.Set(string(rune(i)), 0, i, Terms{Expires: math.MaxInt64, Minor: i < 50})
	}
	for _, need := range []room{{all: 101 * (Overhead + 1)}, roomOf(51*(Overhead+1), true)} {
		was := c.Len()
		if ok, _ := c.gather(need, 0, 0, 0); ok || c.Len() != was {
			t.Errorf("gather(%v) = %t and %d of %d entries left, want false and all of them", need, ok, c.Len(), was)
		}
	}
}

// One entry that lives for long keeps the end of the directory of pages in place. The
// sweep must not walk through all that was given back before it.
func TestSweepPassesPagesThatAreNotInUse(t *testing.T) {
	const pages = 1000
	c := New(Options[int]{MaxBytes: 1 << 30, Shards: 1})
	for i := range pages * pageNodes {
		c.Set(strconv.Itoa(i), 0, i, Terms{Expires: 100})
	}
	last := strconv.Itoa(pages*pageNodes - 1)
	c.RemoveFunc(func(key string, _ int) bool { return key != last })
	if got := len(c.shards[0].slab.pages); got < pages {
		t.Fatalf("%d pages, want the directory of %d that the last entry keeps", got, pages)
	}
	const sets = pages/sweepSteps + 2*pageNodes
	for range sets {
		c.Set("other", 200, 0, Terms{Expires: math.MaxInt64})
	}
	if st := c.Stats(); st.Expirations != 1 {
		t.Errorf("%d entries found expired by %d Sets, want the one there is", st.Expirations, sets)
	}
}
