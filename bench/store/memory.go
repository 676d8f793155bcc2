package main

import (
	"math"
	"runtime"
	"runtime/metrics"
	"strings"

	"github.com/peercache/peercache/bench/internal/stores"
)

// A memoryJob fills a store with entries whose keys and values are allocations of
// their own, as those of a service are.
type memoryJob struct{ Entries, ValueSize int }

// A memoryUse is what the entries cost.
type memoryUse struct {
	Held    float64 // of the entries, the part that is there
	Bytes   float64 // of live heap, for each entry held
	Objects float64 // of these that the collector knows, for each entry held
	Charged float64 // bytes by the store's own count, for each entry held; 0 if it has none
	MarkMs  float64 // CPU time of marking the heap once, in milliseconds
}

// collections is how many forced collections the least is of; arbitrary.
const collections = 9

func (j *memoryJob) measure(lib stores.Library) (memoryUse, error) {
	before := liveHeap()
	blob := strings.Repeat("v", j.ValueSize)
	loads := 0
	store, err := lib.New(stores.Config{
		Entries: j.Entries, KeySize: keySize, ValueSize: j.ValueSize, Roomy: true,
		Load: func(string) string {
			loads++
			return strings.Clone(blob)
		},
	})
	if err != nil {
		return memoryUse{}, err
	}
	defer store.Close()
	for i := range j.Entries {
		store.Set(newKey(i), strings.Clone(blob))
		if i%256 == 0 {
			store.Flush() // what is set faster than it is kept may be dropped
		}
	}
	store.Flush()
	held, charged := 0, int64(0)
	loads = 0
	for i := range j.Entries { // what is decoded when it is first read should be
		if _, ok := store.Get(newKey(i)); ok {
			held++
		}
	}
	held -= loads // by read-through stores, for what was not there
	store.Flush()
	if a, ok := store.(stores.Accountant); ok {
		charged = a.Bytes()
	}
	after := liveHeap()
	n := float64(max(held, 1))
	use := memoryUse{
		Held:    float64(held) / float64(j.Entries),
		Bytes:   float64(after.bytes-before.bytes) / n,
		Objects: float64(after.objects-before.objects) / n,
		Charged: float64(charged) / n,
	}
	use.MarkMs = math.Inf(1)
	for range collections {
		// The runtime counts time on the clock, also while the operating system
		// runs something else. That only ever adds, so the least is the best.
		begin := markSeconds()
		runtime.GC()
		use.MarkMs = min(use.MarkMs, 1e3*(markSeconds()-begin))
	}
	runtime.KeepAlive(store)
	return use, nil
}

// A heap is what is alive.
type heap struct{ bytes, objects int64 }

// liveHeap collects garbage twice: the second time is for what finalizers and
// pools kept the first time.
func liveHeap() heap {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return heap{int64(stats.HeapAlloc), int64(stats.HeapObjects)}
}

// markSeconds returns the CPU time that all collections so far have spent marking,
// on processors set aside for it, idle ones, and by goroutines that allocate.
func markSeconds() float64 {
	samples := []metrics.Sample{
		{Name: "/cpu/classes/gc/mark/assist:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/dedicated:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
	}
	metrics.Read(samples)
	sum := 0.0
	for _, s := range samples {
		sum += s.Value.Float64()
	}
	return sum
}
