package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// Random schedules of readers, writers and faults, whose history promises_test.go
// checks. TestRandomSchedules is about how Gets end; this is about how old what they
// return may be.

func TestPromisesHoldInRandomSchedules(t *testing.T) {
	eachSeed(t, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { newTrial(t, seed).run() })
	})
}

// A climate is what faults a trial has, and for how long it runs. Cut off for more
// than a few seconds a node is declared dead, and for more than a minute what it
// missed need not be remembered by key any more.
type climate struct {
	name   string
	faults []string
	length time.Duration
}

var climates = []climate{
	{"calm", nil, 20 * time.Second},
	{"delays", []string{"delay", "slow"}, 25 * time.Second},
	{"stalls", []string{"stall", "stall", "delay"}, 25 * time.Second},
	{"stops", []string{"stop", "stall"}, 40 * time.Second},
	{"splits", []string{"blip", "blip", "split"}, 40 * time.Second},
	{"long splits", []string{"long split"}, 100 * time.Second},
	{"churn", []string{"add", "add", "leave", "kill", "delay"}, 30 * time.Second},
	{"everything", []string{"delay", "slow", "stall", "stop", "blip", "split", "add", "leave", "kill"}, 50 * time.Second},
	{"everything, long splits", []string{"long split", "delay", "stall", "stop", "add", "leave", "kill"}, 100 * time.Second},
}

// A trial is one schedule.
type trial struct {
	t       *testing.T
	rng     *rand.Rand // of the test's own goroutine
	climate climate
	cluster *cachetest.Cluster
	history *history
	keys    []string
	pace    time.Duration // the longest wait between two calls of one reader
	transit time.Duration // the delay of each node that has no other
	adds    int           // nodes added so far
	options peercache.Options
	watches sync.WaitGroup // the one of the history
	calls   sync.WaitGroup // readers, writers and Leaves

	mu      sync.Mutex // guards the fields below
	rand    *rand.Rand // of the loader
	caches  []*peercache.Cache[string]
	gone    []bool          // nodes that were killed or leave
	rush    time.Time       // until when readers and writers hurry
	setting map[string]bool // keys that a Set is under way for
	stopped bool            // readers and writers are to end
}

func newTrial(t *testing.T, seed uint64) *trial {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := &trial{
		t:       t,
		rng:     rng,
		rand:    rand.New(rand.NewPCG(seed, 2)),
		climate: climates[rng.IntN(len(climates))],
		cluster: cachetest.NewCluster(t, 3+rng.IntN(3)),
		setting: make(map[string]bool),
	}
	s.history = newHistory(s.cluster)
	s.pace = s.climate.length / 300
	for i := range 3 + rng.IntN(18) {
		s.keys = append(s.keys, fmt.Sprint("k", i))
	}
	s.options.HotTTL = []time.Duration{0, 200 * time.Millisecond, time.Hour}[rng.IntN(3)]
	s.options.Replicas = rng.IntN(3)
	if rng.IntN(3) == 0 {
		s.options.NotFoundTTL = time.Hour
	}
	if rng.IntN(4) == 0 {
		s.options.MaxTTL = 2 * time.Second
		s.options.StaleFor = time.Minute
	}
	if rng.IntN(2) == 0 {
		s.transit = time.Duration(1+rng.IntN(8)) * time.Millisecond
	}
	s.grow()
	return s
}

// grow gives nodes that are new a cache, readers and a writer.
func (s *trial) grow() {
	caches := cachetest.Caches(s.cluster, "c", s.load, &s.options)
	s.mu.Lock()
	from := len(s.caches)
	s.caches = caches
	s.gone = append(s.gone, make([]bool, len(caches)-from)...)
	s.mu.Unlock()
	for node := from; node < len(caches); node++ {
		s.cluster.Delay(node, s.transit)
		for range 3 {
			s.attend(node, s.pace, s.get)
		}
		s.attend(node, 8*s.pace, s.change)
	}
}

// attend has a goroutine call f at a node now and then, until the node is gone.
func (s *trial) attend(node int, pace time.Duration, f func(rng *rand.Rand, node int)) {
	rng := rand.New(rand.NewPCG(s.rng.Uint64(), 3))
	s.calls.Go(func() {
		for {
			time.Sleep(time.Duration(rng.Int64N(int64(pace / s.haste()))))
			if s.ended(node) {
				return
			}
			f(rng, node)
		}
	})
}

// haste is by how much readers and writers hurry: views and what is remembered change
// right after the faults.
func (s *trial) haste() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.rush) {
		return 8 // arbitrary
	}
	return 1
}

// fault tells the history of a fault.
func (s *trial) fault(text string, change func(of func(i int) *plight)) {
	s.mu.Lock()
	s.rush = time.Now().Add(300 * time.Millisecond)
	s.mu.Unlock()
	s.history.fault(text, change)
}

func (s *trial) ended(node int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped || s.gone[node]
}

func (s *trial) cache(node int) *peercache.Cache[string] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.caches[node]
}

// load is the loader of all nodes. It reads the version at some point of its run.
func (s *trial) load(_ context.Context, key string) (string, time.Duration, error) {
	s.mu.Lock()
	mode := s.rand.IntN(100)
	before, after := time.Duration(s.rand.IntN(20))*time.Millisecond, time.Duration(s.rand.IntN(20))*time.Millisecond
	s.mu.Unlock()
	switch {
	case mode < 40:
		before, after = 0, 0
	case mode < 45: // a Remove has time to overtake it
		after *= 50
	case mode < 48:
		before *= 50
	}
	time.Sleep(before)
	version := s.history.version(key)
	time.Sleep(after)
	switch {
	case mode >= 97:
		return "", 0, errDown
	case absentVersion(version):
		return "", 0, peercache.ErrNotFound
	}
	return s.history.value(key, version, nil), 0, nil
}

// pick returns a key; the first are picked most.
func (s *trial) pick(rng *rand.Rand) string {
	return s.keys[min(rng.IntN(len(s.keys)), rng.IntN(len(s.keys)))]
}

// get has a node read some keys.
func (s *trial) get(rng *rand.Rand, node int) {
	keys := []string{s.pick(rng)}
	if rng.IntN(5) == 0 {
		for range rng.IntN(5) {
			keys = append(keys, s.pick(rng))
		}
	}
	s.read(node, keys)
}

// read has a node read keys: by Get if it is one. What it returns within the loader's
// means is recorded, all else is an error of the test.
func (s *trial) read(node int, keys []string) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	start := s.history.now()
	values, failed := make(map[string]string), make(map[string]error)
	if len(keys) == 1 {
		v, err := s.cache(node).Get(ctx, keys[0])
		switch {
		case err == nil:
			values[keys[0]] = v
		case !errors.Is(err, peercache.ErrNotFound):
			failed[keys[0]] = err
		}
	} else {
		slices.Sort(keys)
		keys = slices.Compact(keys)
		var err error
		values, err = s.cache(node).GetMany(ctx, keys)
		failed = failures(err)
		if err != nil && len(failed) == 0 {
			s.t.Errorf("node %d: GetMany(%q): %v, which names no key", node, keys, err)
			return
		}
	}
	for _, key := range keys {
		if err := failed[key]; err != nil {
			if !strings.Contains(err.Error(), errDown.Error()) {
				s.t.Errorf("node %d: Get(%s): %v, which nothing in this test explains", node, key, err)
			}
			continue
		}
		v, found := values[key]
		if err := s.history.read(node, key, start, v, found); err != nil {
			s.t.Error(err)
		}
	}
}

// failures returns the errors of a GetMany by key.
func failures(err error) map[string]error {
	byKey := make(map[string]error)
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			if failure, ok := errors.AsType[*peercache.PeerError](err); ok {
				byKey[failure.Key] = err
			}
		}
	}
	return byKey
}

// change has a node change one key or many.
func (s *trial) change(rng *rand.Rand, node int) {
	ctx, impatient := s.t.Context(), false
	if s.climate.faults != nil && rng.IntN(10) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(300))*time.Millisecond)
		defer cancel()
		impatient = true
	}
	switch n := rng.IntN(40); {
	case n == 0:
		for _, key := range s.keys {
			if rng.IntN(2) == 0 {
				s.history.commit(key)
			}
		}
		s.call(ctx, impatient, s.history.begin("Clear", node, s.keys), func() error { return s.cache(node).Clear(ctx) })
	case n < 15:
		if key := s.pick(rng); s.lock(key) {
			defer s.unlock(key)
			s.set(ctx, impatient, node, key)
		}
	default:
		keys := []string{s.pick(rng)}
		for range rng.IntN(4) / 3 * rng.IntN(4) {
			keys = append(keys, s.pick(rng))
		}
		for _, key := range keys {
			s.history.commit(key)
		}
		s.call(ctx, impatient, s.history.begin("Remove", node, keys), func() error { return s.cache(node).Remove(ctx, keys...) })
	}
}

// set sets a key to the version that it commits. One is under way for a key at a time:
// of two, the one that was overtaken could arrive last.
func (s *trial) set(ctx context.Context, impatient bool, node int, key string) {
	version := s.history.commit(key)
	if absentVersion(version) {
		version = s.history.commit(key)
	}
	c := s.history.begin("Set", node, []string{key})
	v := s.history.value(key, version, c)
	s.call(ctx, impatient, c, func() error { return s.cache(node).Set(ctx, key, v, 0) })
}

func (s *trial) call(ctx context.Context, impatient bool, c *change, f func() error) {
	err := f()
	if other := s.history.finish(c, err, impatient && ctx.Err() != nil); other != nil {
		s.t.Errorf("node %d: %s: %v", c.node, c.kind, other)
	}
	if err != nil && s.climate.faults == nil {
		s.t.Errorf("node %d: %s: %v, and nothing is wrong", c.node, c.kind, err)
	}
}

func (s *trial) lock(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.setting[key] {
		return false
	}
	s.setting[key] = true
	return true
}

func (s *trial) unlock(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.setting, key)
}

func (s *trial) run() {
	over := make(chan struct{})
	defer s.watches.Wait()
	defer s.calls.Wait() // also where the test ends early: what is left in a bubble is a deadlock
	defer close(over)
	defer s.stop()
	s.watches.Go(func() { s.watch(over) })
	s.disturb(time.Now().Add(s.climate.length))
	s.stop()
	s.calls.Wait()

	s.cluster.Converge()
	// In the end nobody may have missed anything: by 4 seconds what callers tell, by
	// 12 also what is only heard of from others.
	for _, wait := range []time.Duration{4 * time.Second, 8 * time.Second} {
		time.Sleep(wait)
		for _, node := range s.living() {
			for _, key := range s.keys {
				s.read(node, []string{key})
			}
		}
	}
	time.Sleep(12 * time.Second) // beyond LoadTimeout and what follows it
	for _, node := range s.living() {
		if flights, calls := peercache.InFlight(s.cache(node)); flights != 0 || calls != 0 {
			s.t.Errorf("node %d: %d flights and %d calls are left behind", node, flights, calls)
		}
	}
	if broken, text := s.history.verdict(); broken > 0 {
		s.t.Errorf("%s: %d Gets break promises. First, %s", s.climate.name, broken, text)
	}
	s.t.Logf("%s: %v", s.climate.name, s.history)
}

// watch keeps the history's view of the cluster up to date.
func (s *trial) watch(over <-chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.history.look()
		case <-over:
			return
		}
	}
}

// stop has readers and writers end after the call that they are in.
func (s *trial) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
}

// living returns the nodes that were neither killed nor leave.
func (s *trial) living() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var nodes []int
	for i, gone := range s.gone {
		if !gone {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// agreed says whether the living nodes see each other.
func (s *trial) agreed() bool {
	sees, living := s.history.sees(), s.living()
	for _, i := range living {
		for _, j := range living {
			if !slices.Contains(sees[i], j) {
				return false
			}
		}
	}
	return true
}

// disturb makes the climate's faults, at most two at a time, and ends them all.
func (s *trial) disturb(end time.Time) {
	type trouble struct {
		until time.Time
		stop  func()
		nodes []int
	}
	var now []trouble
	for {
		over := !time.Now().Before(end)
		now = slices.DeleteFunc(now, func(f trouble) bool {
			done := over || !time.Now().Before(f.until)
			if done {
				f.stop()
			}
			return done
		})
		if over {
			return
		}
		if faults := s.climate.faults; len(faults) > 0 && len(now) < 2 && s.rng.IntN(3) == 0 {
			var healthy []int
			for _, node := range s.living() {
				if !slices.ContainsFunc(now, func(f trouble) bool { return slices.Contains(f.nodes, node) }) {
					healthy = append(healthy, node)
				}
			}
			s.rng.Shuffle(len(healthy), func(i, j int) { healthy[i], healthy[j] = healthy[j], healthy[i] })
			if stop, nodes, length := s.begin(faults[s.rng.IntN(len(faults))], healthy); stop != nil {
				now = append(now, trouble{time.Now().Add(length), stop, nodes})
			}
		}
		time.Sleep(time.Duration(100+s.rng.IntN(500)) * time.Millisecond)
	}
}

// begin begins a fault at some of the nodes, and returns what ends it, whom it is
// about, and how long it is to last. It returns no end where there is none, or
// nothing was done.
func (s *trial) begin(kind string, nodes []int) (stop func(), about []int, length time.Duration) {
	ms := func(from, to int) time.Duration {
		return time.Duration(from+s.rng.IntN(to-from)) * time.Millisecond
	}
	if slices.Contains([]string{"add", "leave", "kill"}, kind) && !s.agreed() {
		return nil, nil, 0 // else the last who knows of a node might go while that is cut off
	}
	if kind == "add" {
		if s.adds < 2 { // a ring of more nodes costs more time than it is worth here
			s.adds++
			i := s.cluster.Add()
			s.fault(fmt.Sprintf("node %d joins", i), func(func(int) *plight) {})
			s.grow()
		}
		return nil, nil, 0
	}
	if len(nodes) < 2 {
		return nil, nil, 0
	}
	i := nodes[0]
	switch kind {
	case "delay", "slow":
		d := ms(1, 20)
		if kind == "slow" {
			d = ms(100, 600)
		}
		s.fault(fmt.Sprintf("node %d: a delay of %v", i, d), func(of func(int) *plight) { of(i).delay = d })
		s.cluster.Delay(i, d)
		return func() {
			s.cluster.Delay(i, s.transit)
			s.fault(fmt.Sprintf("node %d: a delay of %v", i, s.transit), func(of func(int) *plight) { of(i).delay = s.transit })
		}, nodes[:1], ms(500, 4000)
	case "stall", "stop":
		length = ms(100, 1200)
		if kind == "stop" {
			length = 10 * time.Second
		}
		s.fault(fmt.Sprintf("node %d pauses", i), func(of func(int) *plight) { of(i).paused = true })
		s.cluster.Pause(i)
		return func() {
			s.cluster.Resume(i)
			s.fault(fmt.Sprintf("node %d resumes", i), func(of func(int) *plight) { of(i).paused = false })
		}, nodes[:1], length
	case "blip", "split", "long split":
		if len(nodes) < len(s.living()) { // one partition at a time, and nothing else during it
			return nil, nil, 0
		}
		length = map[string]time.Duration{"blip": ms(300, 2000), "split": ms(5000, 12000), "long split": ms(30000, 90000)}[kind]
		camp := slices.Clone(nodes[:1+s.rng.IntN(len(nodes)/2)])
		s.fault(fmt.Sprintf("nodes %d are cut off", camp), func(of func(int) *plight) {
			for _, i := range camp {
				of(i).group = 1
			}
		})
		s.cluster.Partition(camp)
		return func() {
			s.cluster.Heal()
			s.fault("the partition heals", func(of func(int) *plight) {
				for _, i := range camp {
					of(i).group = 0
				}
			})
		}, camp, length
	case "leave", "kill":
		if len(s.living()) < 4 {
			return nil, nil, 0
		}
		s.mu.Lock()
		s.gone[i] = true
		s.mu.Unlock()
		s.fault(fmt.Sprintf("node %d: %s", i, kind), func(of func(int) *plight) {
			of(i).gone, of(i).killed = true, kind == "kill"
		})
		if kind == "kill" {
			s.cluster.Kill(i)
			return nil, nil, 0
		}
		s.calls.Go(func() {
			if err := s.cluster.Node(i).Leave(s.t.Context()); err != nil {
				s.t.Errorf("Leave of node %d: %v", i, err)
			}
		})
	}
	return nil, nil, 0
}
