package peercache_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Random schedules: callers that come and go, loaders that fail in every way,
// owners that pause, are cut off, die and return. What must hold whatever happens
// is checked on each Get and each load.

var (
	long     = flag.Bool("long", false, "run the tests of faults for as long as the promises are stated for")
	seeds    = flag.Int("seeds", 25, "random schedules to run")
	seedFrom = flag.Uint64("seed", 0, "the first schedule's seed; 0 picks one")
)

func TestRandomSchedules(t *testing.T) {
	eachSeed(t, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { newSchedule(t, seed).run() })
	})
}

// eachSeed runs a schedule for each of the seeds.
func eachSeed(t *testing.T, run func(t *testing.T, seed uint64)) {
	t.Helper()
	first := *seedFrom
	if first == 0 {
		first = rand.Uint64()
	}
	n := *seeds
	if testing.Short() {
		n = min(n, 5)
	}
	for i := range n {
		seed := first + uint64(i)
		if !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { run(t, seed) }) {
			t.Fatalf("run it alone with -run %s -seeds 1 -seed %d", t.Name(), seed)
		}
	}
}

const (
	scheduleNodes   = 4
	scheduleKeys    = 12
	scheduleTTL     = 500 * time.Millisecond
	scheduleHotTTL  = 200 * time.Millisecond
	scheduleTimeout = 800 * time.Millisecond // LoadTimeout
	scheduleMaxLoad = 3
)

// A schedule is one random run of a cluster.
type schedule struct {
	t       *testing.T
	rng     *rand.Rand // of the test's own goroutine
	cluster *cachetest.Cluster
	caches  []*peercache.Cache[string]
	stale   time.Duration // StaleFor

	mu      sync.Mutex
	rand    *rand.Rand           // of loaders and callers
	running map[string]int       // loads running now, by node and key
	loaded  map[string]time.Time // when each value's load returned; zero while it runs
	serial  int
}

func newSchedule(t *testing.T, seed uint64) *schedule {
	s := &schedule{
		t:       t,
		rng:     rand.New(rand.NewPCG(seed, 1)),
		rand:    rand.New(rand.NewPCG(seed, 2)),
		running: make(map[string]int),
		loaded:  make(map[string]time.Time),
	}
	s.cluster = cachetest.NewCluster(t, scheduleNodes)
	opts := peercache.Options{
		HotTTL:      scheduleHotTTL,
		LoadTimeout: scheduleTimeout,
		MaxLoads:    scheduleMaxLoad,
	}
	if s.rng.IntN(2) == 0 {
		s.stale = 300 * time.Millisecond
	}
	opts.StaleFor = s.stale
	batch := s.rng.IntN(2) == 0
	for i := range scheduleNodes {
		opts.Node = s.cluster.Node(i)
		var cache *peercache.Cache[string]
		if batch {
			cache = peercache.NewBatch("c", func(ctx context.Context, keys []string) (map[string]string, time.Duration, error) {
				return s.load(ctx, i, keys)
			}, &opts)
		} else {
			cache = peercache.New("c", func(ctx context.Context, key string) (string, time.Duration, error) {
				vs, ttl, err := s.load(ctx, i, []string{key})
				return vs[key], ttl, err
			}, &opts)
		}
		s.caches = append(s.caches, cache)
	}
	return s
}

func (s *schedule) roll(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rand.IntN(n)
}

// load is the loader of all nodes. It checks that a process loads a key once at a
// time; those that heed no context go on after their flight was ended.
func (s *schedule) load(ctx context.Context, node int, keys []string) (map[string]string, time.Duration, error) {
	mode, delay := s.roll(100), time.Duration(s.roll(60))*time.Millisecond
	deadline, _ := ctx.Deadline()
	// At the deadline the flight is over and another may begin at that very moment.
	overdue := time.AfterFunc(time.Until(deadline)-1, func() { s.count(node, keys, -1) })
	s.count(node, keys, 1)
	defer func() {
		if overdue.Stop() {
			s.count(node, keys, -1)
		}
	}()
	if mode < 10 {
		delay = time.Duration(s.roll(1500)) * time.Millisecond // a stall, perhaps beyond LoadTimeout
	}
	values := make(map[string]string, len(keys))
	for _, key := range keys {
		s.mu.Lock()
		s.serial++
		v := fmt.Sprint(key, "#", s.serial, "@", node)
		s.loaded[v] = time.Time{}
		s.mu.Unlock()
		values[key] = v
	}
	if mode%2 == 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	} else {
		time.Sleep(delay)
	}
	switch {
	case mode < 20:
		return nil, 0, errDown
	case mode < 25:
		panic("boom")
	case mode < 28:
		runtime.Goexit()
	case mode < 33:
		return nil, 0, peercache.ErrNotFound
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range values {
		s.loaded[v] = time.Now()
	}
	return values, scheduleTTL, nil
}

func (s *schedule) count(node int, keys []string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		at := fmt.Sprint(key, " at node ", node)
		if s.running[at] += by; s.running[at] > 1 {
			s.t.Errorf("%d loads of %s at once", s.running[at], at)
		}
	}
}

func (s *schedule) run() {
	var wg sync.WaitGroup
	end := time.Now().Add(4 * time.Second)
	faults := rand.New(rand.NewPCG(s.rng.Uint64(), 3))
	wg.Go(func() { s.disturb(faults, end) })
	for time.Now().Before(end) {
		time.Sleep(time.Duration(s.rng.IntN(20)) * time.Millisecond)
		node, keys := s.rng.IntN(scheduleNodes), make([]string, 1+s.rng.IntN(4)/3*s.rng.IntN(6))
		for i := range keys {
			keys[i] = fmt.Sprint("key-", s.rng.IntN(scheduleKeys))
		}
		timeout := time.Duration(1+s.rng.IntN(1000)) * time.Millisecond
		for range 1 + s.rng.IntN(4) {
			wg.Go(func() { s.get(node, keys, timeout) })
		}
	}
	wg.Wait()
	time.Sleep(10 * time.Second) // the last loads and requests
	for i, cache := range s.caches {
		if flights, calls := peercache.InFlight(cache); flights != 0 || calls != 0 {
			s.t.Errorf("node %d: %d flights and %d calls are left behind", i, flights, calls)
		}
		cache.Close()
	}
}

// get asks a node for keys and checks what it says, and when.
func (s *schedule) get(node int, keys []string, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(s.t.Context(), timeout)
	defer cancel()
	if s.roll(10) == 0 {
		go func() {
			time.Sleep(timeout / 2)
			cancel()
		}()
	}
	start := time.Now()
	var got map[string]string
	var err error
	if len(keys) == 1 {
		var v string
		if v, err = s.caches[node].Get(ctx, keys[0]); err == nil {
			got = map[string]string{keys[0]: v}
		}
	} else {
		got, err = s.caches[node].GetMany(ctx, keys)
	}
	if took := time.Since(start); took > timeout+50*time.Millisecond {
		s.t.Errorf("Get of %q took %v, its deadline was %v", keys, took, timeout)
	}
	for key, v := range got {
		s.check(key, v, start)
	}
	if err != nil {
		s.explain(err)
	}
}

// check checks that a value was loaded for its key, and not too long ago. The life
// of a copy begins when it arrives: a transit later.
func (s *schedule) check(key, v string, start time.Time) {
	s.mu.Lock()
	at, known := s.loaded[v]
	s.mu.Unlock()
	if !known || at.IsZero() || !strings.HasPrefix(v, key+"#") {
		s.t.Errorf("Get(%s) = %q, which no load of the key has returned", key, v)
		return
	}
	const transit = 400 * time.Millisecond // delays of this test and a silence
	if age := start.Sub(at); age > scheduleTTL+s.stale+scheduleHotTTL+transit {
		s.t.Errorf("Get(%s) = %q, loaded %v ago", key, v, age)
	}
}

// explain checks that an error is one that the test has caused.
func (s *schedule) explain(err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			s.explain(err)
		}
		return
	}
	_, panicked := errors.AsType[*peercache.PanicError](err)
	switch {
	case panicked, errors.Is(err, peercache.ErrNotFound), errors.Is(err, peercache.ErrOverloaded),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
	case strings.Contains(err.Error(), errDown.Error()):
	default:
		s.t.Errorf("Get: %v, which nothing in this test explains", err)
	}
}

// disturb makes faults, of which at most one node at a time suffers.
func (s *schedule) disturb(rng *rand.Rand, end time.Time) {
	for killed := false; time.Now().Before(end); {
		time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
		i := 1 + rng.IntN(scheduleNodes-1)
		pause := time.Duration(rng.IntN(1500)) * time.Millisecond
		switch rng.IntN(6) {
		case 0, 1:
			s.cluster.Pause(i)
			time.Sleep(pause)
			s.cluster.Resume(i)
		case 2:
			s.cluster.Partition([]int{i})
			time.Sleep(pause)
			s.cluster.Heal()
		case 3, 4:
			s.cluster.Delay(i, time.Duration(rng.IntN(50))*time.Millisecond)
			time.Sleep(pause)
			s.cluster.Delay(i, 0)
		case 5:
			if !killed {
				killed = true
				s.cluster.Kill(i)
			}
		}
	}
}
