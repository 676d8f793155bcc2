package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What a process asks for and what it loads.

const (
	// patience is how long whoever asks is ready to wait.
	patience = 2 * time.Second

	// loadTime is what a query of a database takes that finds its row by an index and
	// waits for a disk.
	loadTime = 5 * time.Millisecond

	// lifetime of entries, longer than any run.
	lifetime = time.Hour

	// exponent of the Zipf distribution.
	exponent = 0.99
)

// newKey returns the key of a rank. All have one length, and their hashes know nothing
// of the rank.
func newKey(rank uint32) string { return fmt.Sprintf("user:%010d", rank) }

// rankOf returns the rank of a key.
func rankOf(key string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(key, "user:"), 10, 32)
	return uint32(n), err
}

// value returns the value of a key: one that no other key has.
func (j job) value(key string) string {
	return (key + strings.Repeat("v", j.Size))[:j.Size]
}

// A sheet is where a process notes what it is going to report. It is safe for
// concurrent use.
type sheet struct {
	start time.Time
	since time.Duration // from the epoch to start
	width time.Duration

	mu    sync.Mutex // guards the fields below
	ticks map[int]*tick
	err   string
}

// newSheet counts from an epoch in nanoseconds of the wall clock, which the processes of
// a machine share, and goes on by the monotonic one.
func newSheet(epoch int64, width time.Duration) *sheet {
	start := time.Now()
	return &sheet{start: start, since: time.Duration(start.UnixNano() - epoch), width: width, ticks: make(map[int]*tick)}
}

// atLocked returns the tick of an instant.
func (s *sheet) atLocked(t time.Time) *tick {
	i := max(int((s.since+t.Sub(s.start))/s.width), 0)
	if s.ticks[i] == nil {
		s.ticks[i] = &tick{Tick: i}
	}
	return s.ticks[i]
}

// got notes a Get that was meant to begin at an instant and is over.
func (s *sheet) got(rank uint32, meant time.Time, err error) {
	took := time.Since(meant)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.atLocked(meant)
	t.Micros = append(t.Micros, uint32(took.Microseconds()))
	t.Keys = append(t.Keys, rank)
	if err != nil {
		t.Failed++
		s.err = err.Error()
	}
}

// loads notes a load that begins.
func (s *sheet) loads(rank uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.atLocked(time.Now())
	t.Loads = append(t.Loads, rank)
}

// take returns what has been noted since it was last called.
func (s *sheet) take() report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := report{Error: s.err}
	for _, t := range s.ticks {
		r.Ticks = append(r.Ticks, *t)
	}
	clear(s.ticks)
	s.err = ""
	return r
}

// An origin is where values come from.
type origin struct {
	job   job
	sheet *sheet
}

// load returns a value after a while, or why not.
func (o *origin) load(ctx context.Context, key string) (string, error) {
	n, err := rankOf(key)
	if err != nil {
		return "", err
	}
	o.sheet.loads(n)
	query := time.NewTimer(loadTime)
	defer query.Stop()
	select {
	case <-query.C:
		return o.job.value(key), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// get asks for a key and looks at what comes.
func (j job) get(ctx context.Context, m *member, rank uint32) error {
	k := newKey(rank)
	v, err := m.get(ctx, k)
	if err == nil && v != j.value(k) {
		err = fmt.Errorf("%s has the value of %.15q, of %d bytes", k, v, len(v))
	}
	return err
}

// fillers is how many keys a process asks for at once to fill the cache: with five
// processes no more than one of them loads at once.
const fillers = 32

// fill asks for every key of which the rank leaves a remainder, once. On a machine that
// has other work, processes that have just started are late now and then.
func (j job) fill(ctx context.Context, m *member, f fill) error {
	var wg sync.WaitGroup
	errs := make([]error, fillers)
	for i := range fillers {
		wg.Go(func() {
			for n := f.First + i*f.Step; n < j.Keys && errs[i] == nil; n += fillers * f.Step {
				for range 3 {
					if errs[i] = j.get(ctx, m, uint32(n)); errs[i] == nil {
						break
					}
				}
			}
		})
	}
	wg.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	return nil
}

// A generator asks for keys at a rate, each when it is due.
type generator struct {
	ask   func(rank uint32, meant time.Time)
	ranks func() uint32

	mu      sync.Mutex // guards the fields below
	stop    func()     // of the run that is on, nil without one; returns when it is over
	stopped bool       // for good
	asking  sync.WaitGroup
}

// setRate changes how many Gets per second there are, for none by 0, and returns when
// those of before are over.
func (g *generator) setRate(rate float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.endLocked()
	if rate <= 0 {
		g.asking.Wait()
		return
	}
	if g.stopped {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		g.run(ctx, rate)
		close(over)
	}()
	g.stop = func() {
		cancel()
		<-over
	}
}

func (g *generator) endLocked() {
	if g.stop != nil {
		g.stop()
		g.stop = nil
	}
}

// end is setRate(0) after which no rate counts any more: who is about to exit takes no
// new Gets.
func (g *generator) end() {
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.setRate(0)
}

// run asks for one key after the other until ctx ends. When it is late, because this
// process was not run, it catches up at once: these Gets were due.
func (g *generator) run(ctx context.Context, rate float64) {
	begin := time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for i := 1; ; i++ {
		due := begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			pause.Reset(wait)
			select {
			case <-pause.C:
			case <-ctx.Done():
				return
			}
		} else if ctx.Err() != nil {
			return
		}
		n := g.ranks()
		g.asking.Go(func() { g.ask(n, due) })
	}
}

// zipf returns a function that draws 0 to n-1, k with a probability proportional to
// (k+1)^-s. The one of math/rand needs s > 1.
func zipf(random *rand.Rand, n int, s float64) func() uint32 {
	sums := make([]float64, n)
	sum := 0.0
	for k := range sums {
		sum += math.Pow(float64(k+1), -s)
		sums[k] = sum
	}
	return func() uint32 {
		return uint32(min(sort.SearchFloat64s(sums, random.Float64()*sum), n-1))
	}
}
