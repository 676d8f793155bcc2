package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/bench/internal/stores"
)

// A speedJob is a store and what is done with it. All children that are compared
// do the same, in the same order.
type speedJob struct {
	Keys      int // that there are
	Filled    int // of these that are in the store at the beginning
	Capacity  int // in entries
	ValueSize int

	// WritePercent of the operations are Sets of keys drawn evenly. The others
	// are Gets, by a Zipf distribution. Both are among the first Asked keys.
	WritePercent int
	Asked        int

	// Operations is the length of the sequence that is gone through again and
	// again: a power of two, and so many that no processor learns them.
	Operations int

	// Evicting says that there is less room than keys are asked for. A Get that
	// misses is then followed by a Set, unless the store is read-through and
	// has loaded the key by itself. Else nothing may miss.
	Evicting bool
}

// A burst asks a child to run with so many goroutines and processors.
type burst struct {
	Procs int
	Time  time.Duration
}

// A sample is what a burst has measured, for each operation.
type sample struct {
	Nanos  float64 // wall-clock time of all goroutines together: more of them can make it less
	Allocs float64
	Bytes  float64 // allocated
	Misses float64 // what read-through stores load is counted, too
}

// keySize is the length of all keys, in bytes.
const keySize = 20

// newKey returns a key in memory of its own, as those of requests are.
func newKey(i int) string { return fmt.Sprintf("user:%0*d", keySize-len("user:"), i) }

// zipfSkew gives the most popular thousand of 100,000 keys six of ten Gets, which is
// much like the popularity of things on the web. The generator needs more than 1.
const zipfSkew = 1.01

// A script is the operations of a job.
type script struct {
	job   *speedJob
	load  []string // keys as a Set gives them
	ask   []string // the same as a Get does: other memory, so that comparing them takes what it takes
	value string
	ops   []uint32 // twice the key, and 1 for a Set

	next  atomic.Int64 // operation
	loads atomic.Int64 // by read-through stores
}

func newScript(j *speedJob) *script {
	s := &script{
		job:   j,
		load:  make([]string, j.Keys),
		ask:   make([]string, j.Keys),
		value: strings.Repeat("v", j.ValueSize),
		ops:   make([]uint32, j.Operations),
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i, key := range random.Perm(j.Keys) { // popular keys are no neighbors
		s.load[i], s.ask[i] = newKey(key), newKey(key)
	}
	zipf := rand.NewZipf(random, zipfSkew, 1, uint64(j.Asked-1))
	for i := range s.ops {
		if random.IntN(100) < j.WritePercent {
			s.ops[i] = uint32(random.IntN(j.Asked))<<1 | 1
		} else {
			s.ops[i] = uint32(zipf.Uint64()) << 1
		}
	}
	return s
}

// serve answers one burst after the other.
func (j *speedJob) serve(lib stores.Library, requests *json.Decoder, answers *json.Encoder) error {
	s := newScript(j)
	store, err := lib.New(stores.Config{
		Entries: j.Capacity, KeySize: keySize, ValueSize: j.ValueSize, Roomy: !j.Evicting,
		Load: func(string) string {
			s.loads.Add(1)
			return s.value
		},
	})
	if err != nil {
		return err
	}
	defer store.Close()
	for i := range j.Filled {
		store.Set(s.load[i], strings.Clone(s.value))
		if i%256 == 0 {
			store.Flush() // what is set faster than it is kept may be dropped
		}
	}
	store.Flush()
	if j.Evicting {
		s.do(store, 0, len(s.ops)) // until it keeps what it will keep
	} else {
		for i := range j.Filled { // what is decoded when it is first read
			store.Get(s.ask[i])
		}
	}
	for {
		var b burst
		err := requests.Decode(&b)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := answers.Encode(s.run(store, b)); err != nil {
			return err
		}
	}
}

// run is one burst.
func (s *script) run(store stores.Store, b burst) sample {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(b.Procs))
	var count, misses atomic.Int64
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	loads := s.loads.Load()
	begin := time.Now()

	var wg sync.WaitGroup
	for range b.Procs {
		wg.Go(func() {
			const chunk = 1024 // reading the clock takes 70 ns: a fifteenth of one for each operation
			done, missed := 0, 0
			for time.Since(begin) < b.Time {
				missed += s.do(store, int(s.next.Add(chunk)), chunk)
				done += chunk
			}
			count.Add(int64(done))
			misses.Add(int64(missed))
		})
	}
	wg.Wait()

	elapsed := time.Since(begin)
	runtime.ReadMemStats(&after)
	n := float64(max(count.Load(), 1))
	return sample{
		Nanos:  float64(elapsed) / n,
		Allocs: float64(after.Mallocs-before.Mallocs) / n,
		Bytes:  float64(after.TotalAlloc-before.TotalAlloc) / n,
		Misses: float64(misses.Load()+s.loads.Load()-loads) / n,
	}
}

// do runs n operations from the given place on, and returns how many Gets missed.
func (s *script) do(store stores.Store, at, n int) (misses int) {
	for i := range n {
		op := s.ops[(at+i)&(len(s.ops)-1)]
		key := op >> 1
		if op&1 != 0 {
			store.Set(s.load[key], s.value)
			continue
		}
		if _, ok := store.Get(s.ask[key]); !ok {
			misses++
			if s.job.Evicting {
				store.Set(s.load[key], s.value)
			}
		}
	}
	return misses
}
