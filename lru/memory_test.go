package lru_test

import (
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"unsafe"

	"github.com/peercache/peercache/lru"
)

// A record is what a store is likely to hold: 64 bytes, and what they refer to.
type record struct {
	data []byte
	_    [3]int64
	_    any
}

func newRecord(n int) (record, int64) {
	return record{data: make([]byte, n)}, int64(unsafe.Sizeof(record{})) + int64(n)
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // the first may leave what was being swept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// checkHeap holds the heap's growth since base against what c charges.
func checkHeap[V any](t *testing.T, base int64, c *lru.Cache[V]) {
	t.Helper()
	live, charged := liveHeap()-base, c.Bytes()
	ratio := float64(live) / float64(charged)
	t.Logf("%d entries: %.1f bytes each on the heap, %.1f charged, ratio %.3f",
		c.Len(), float64(live)/float64(c.Len()), float64(charged)/float64(c.Len()), ratio)
	least := 0.85
	if strconv.IntSize == 32 {
		least = 0.80 // a map's slots are half as wide there as what is charged for them
	}
	if ratio < least || ratio > 1.15 {
		t.Errorf("heap is %.3f of what is charged, want %.2f to 1.15", ratio, least)
	}
	runtime.KeepAlive(c)
}

func TestHeapIsWhatIsCharged(t *testing.T) {
	// A map's load, and so its cost, depends on where between two doublings it
	// is: the numbers of entries are spread over one.
	for _, n := range []int{200_000, 240_000, 280_000, 320_000, 360_000} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			base := liveHeap()
			c := lru.New[record](lru.Options[record]{MaxBytes: 1 << 40, Shards: 16})
			for i := range n {
				v, size := newRecord(i % 128)
				c.Set(fmt.Sprintf("user:%012d", i), 0, v, major(size, never))
			}
			checkHeap(t, base, c)
		})
	}
}

func TestHeapIsWhatIsChargedAfterTurnover(t *testing.T) {
	for _, maxBytes := range []int64{26 << 20, 32 << 20, 38 << 20} {
		t.Run(strconv.FormatInt(maxBytes, 10), func(t *testing.T) {
			base := liveHeap()
			c := lru.New[record](lru.Options[record]{MaxBytes: maxBytes, Shards: 16})
			for i := range 400_000 {
				v, size := newRecord(i % 128)
				c.Set(fmt.Sprintf("user:%012d", i), 0, v, major(size, never))
			}
			checkHeap(t, base, c)

			for i := range 10_000 { // few large ones where many small ones were
				v, size := newRecord(16 << 10)
				c.Set(fmt.Sprintf("file:%012d", i), 0, v, major(size, never))
			}
			checkHeap(t, base, c)

			c.Clear()
			if rest := liveHeap() - base; rest > 1<<20 {
				t.Errorf("%d bytes are left on the heap after Clear", rest)
			}
			runtime.KeepAlive(c)
		})
	}
}

func TestHitDoesNotAllocate(t *testing.T) {
	c := lru.New[record](lru.Options[record]{MaxBytes: 1 << 20})
	v, size := newRecord(100)
	for i := range 100 {
		c.Set(strconv.Itoa(i), 0, v, major(size, never))
	}
	update := func(v record, t lru.Terms) (record, lru.Terms) { return v, t }
	for name, f := range map[string]func(){
		"Get":                func() { c.Get("42", 0) },
		"Get of nothing":     func() { c.Get("nothing", 0) },
		"Peek":               func() { c.Peek("42", 0) },
		"Set of a known key": func() { c.Set("42", 0, v, major(size, never)) },
		"Update":             func() { c.Update("42", 0, update) },
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s allocates %v times, want 0", name, n)
		}
	}
}
