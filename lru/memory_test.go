package lru_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
	"unsafe"

	"github.com/peercache/peercache/lru"
)

// A record is what a store is likely to hold: 32 bytes, one of them a pointer to
// the rest.
type record struct {
	data *byte
	_    [3]int64
}

func newRecord(n int) (record, int64) {
	return record{data: unsafe.SliceData(make([]byte, n))}, int64(unsafe.Sizeof(record{})) + int64(n)
}

type heap struct{ bytes, objects int64 }

func liveHeap() heap {
	runtime.GC()
	runtime.GC() // the first may leave what was being swept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return heap{int64(m.HeapAlloc), int64(m.HeapObjects)}
}

// checkHeap holds the heap's growth since base against what c charges, and the
// objects that the collector has to mark against the entries: the value's own, and
// next to nothing of the cache.
func checkHeap(t *testing.T, base heap, c *lru.Cache[record], least, most, mostObjects float64) {
	t.Helper()
	now := liveHeap()
	n, live, charged := float64(c.Len()), float64(now.bytes-base.bytes), float64(c.Bytes())
	objects := float64(now.objects-base.objects) / n
	t.Logf("%.0f entries: %.1f bytes each on the heap, %.1f charged, ratio %.3f, %.3f objects each", n, live/n, charged/n, live/charged, objects)
	if strconv.IntSize == 32 {
		least -= 0.05 // pointers are half as wide there as they are charged for
	}
	if ratio := live / charged; ratio < least || ratio > most {
		t.Errorf("heap is %.3f of what is charged, want %.2f to %.2f", ratio, least, most)
	}
	if objects > mostObjects {
		t.Errorf("%.3f objects an entry, want at most %.2f", objects, mostObjects)
	}
	runtime.KeepAlive(c)
}

func set(c *lru.Cache[record], key string, bytes int) {
	v, size := newRecord(bytes)
	c.Set(key, 0, v, major(size, never))
}

// underRace reports whether this binary was built with the race detector.
func underRace() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// TestHeapIsWhatIsCharged fills a cache to its first eviction, and on to where it
// has seen twice as many entries as it holds.
func TestHeapIsWhatIsCharged(t *testing.T) {
	if testing.Short() || underRace() {
		t.Skip("SKIPPED with -short or -race: two million entries take half a minute there. The others hold smaller caches to the same")
	}
	const n = 1_000_000
	base := liveHeap()
	_, size := newRecord(100)
	c := lru.New[record](lru.Options[record]{MaxBytes: n * charge("key:0000000000000000", size), Shards: 16})
	for i := range n {
		set(c, fmt.Sprintf("key:%016d", i), 100)
	}
	checkHeap(t, base, c, 0.90, 1.10, 1.1)
	for i := range n {
		set(c, fmt.Sprintf("key:%016d", n+i), 100)
	}
	checkHeap(t, base, c, 0.90, 1.10, 1.1)
}

// TestHeapIsWhatIsChargedAtAnyNumber has numbers of entries from one growth of the
// tables to the next but one, for what a table costs depends on where between two it
// is, and keys and values of many lengths.
func TestHeapIsWhatIsChargedAtAnyNumber(t *testing.T) {
	for _, n := range []int{50_000, 60_000, 70_000, 80_000, 90_000} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			base := liveHeap()
			r := rand.New(rand.NewPCG(uint64(n), 0))
			c := lru.New[record](lru.Options[record]{MaxBytes: 1 << 40, Shards: 4})
			for i := range n {
				set(c, fmt.Sprintf("user:%0*d", 8+r.IntN(32), i), 16+r.IntN(256))
			}
			checkHeap(t, base, c, 0.90, 1.10, 1.1)
		})
	}
}

// TestHeapIsWhatIsChargedAfterTurnover puts few large entries where many small ones
// were. A page that has one of them is as large as one that is full: the heap is more
// than what is charged then, but not without bound.
func TestHeapIsWhatIsChargedAfterTurnover(t *testing.T) {
	for _, maxBytes := range []int64{13 << 20, 16 << 20, 19 << 20} {
		t.Run(strconv.FormatInt(maxBytes, 10), func(t *testing.T) {
			base := liveHeap()
			c := lru.New[record](lru.Options[record]{MaxBytes: maxBytes, Shards: 4})
			for i := range 200_000 {
				set(c, fmt.Sprintf("user:%012d", i), i%128)
			}
			checkHeap(t, base, c, 0.85, 1.15, 1.1)

			for i := range 10_000 {
				key := fmt.Sprintf("file:%012d", i)
				set(c, key, 16<<10)
				for range 3 { // or the small ones, of which each is worth as much, would stay
					c.Get(key, 0)
				}
			}
			if large := maxBytes / (16 << 10); int64(c.Len()) > 2*large {
				t.Errorf("Len() = %d, want few more than the %d that fit", c.Len(), large)
			}
			checkHeap(t, base, c, 0.85, 1.20, 3)

			c.Clear()
			if rest := liveHeap().bytes - base.bytes; rest > 1<<16 {
				t.Errorf("%d bytes are left on the heap after Clear", rest)
			}
			runtime.KeepAlive(c)
		})
	}
}

// TestNothingIsLeftOfWhatIsRemoved: entries that go one by one leave no more than the
// tables of a quarter of them, and the values leave at once.
func TestNothingIsLeftOfWhatIsRemoved(t *testing.T) {
	const n = 50_000
	base := liveHeap()
	c := lru.New[record](lru.Options[record]{MaxBytes: 1 << 30, Shards: 1})
	for i := range n {
		set(c, fmt.Sprintf("key:%016d", i), 100)
	}
	full := liveHeap().bytes - base.bytes
	for i := range n - 100 {
		c.Remove(fmt.Sprintf("key:%016d", i))
	}
	if rest := liveHeap().bytes - base.bytes; rest > full/50 {
		t.Errorf("%d bytes of %d are left on the heap with 100 entries of %d", rest, full, n)
	}
	audit(t, c)
}
