package peercache

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Random schedules of simulated processes, and what must hold in each: whatever is read
// is no older than the invalidations that are done, and in the end all is well.
//
// The origin has a version for each key. An invalidation takes the next number, has the
// origin's version of its keys be that, and begins. So a value shows when its load read the
// origin, and a Set's value which Set it is from.

var (
	schedules    = flag.Int("schedules", 0, "random schedules of messages to run; 0 is what 8 seconds hold, 10,000 at most")
	scheduleFrom = flag.Uint64("schedule", 0, "the first of these schedules; 0 picks one")
)

const (
	maxScheduleKeys = 3
	maxOperations   = 8
	scheduleSteps   = 150
)

var scheduleKeys = []string{"a", "b", "c"}[:maxScheduleKeys]

// A schedule is a simulation and its history.
type schedule struct {
	*simulation
	keys    []string
	boots   uint64
	origin  map[string]int               // versions
	fences  [maxProcesses]map[string]int // what is read is of this invalidation at least, by promise 10
	closing bool
	aged    bool // a minute has passed in which nothing was delivered
	served  int  // Gets

	// Guarded by the simulation's mutex.

	clock    int // the number of the last invalidation
	ops      []*operation
	gets     int // under way
	calls    int // under way
	problems []string
	floors   [maxProcesses]map[string]int // the same as fences, by promises 4, 5 and 7

	writing sync.Mutex // guards the field below
	trace   []event
}

// An event is a line of a trace, which is only written out where something is wrong.
type event struct {
	format string
	args   [4]any
}

func (s *schedule) note(format string, args ...any) {
	e := event{format: format}
	copy(e.args[:], args)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.trace = append(s.trace, e)
}

// An operation is a call of Set, Remove or Clear.
type operation struct {
	n        int
	what     string
	keys     []string
	by       *process
	audience slots               // whom the caller told when it began
	views    [maxProcesses]slots // whom each would have told since, all the time
	done     int                 // the number of the last invalidation when it returned nil; else math.MaxInt
	doneAt   int64               // when that was
	covers   slots               // by promise 4, when it has returned nil
	lost     bool                // nobody who lives must know of it
}

func newSchedule(seed uint64, broken fault) *schedule {
	s := &schedule{simulation: newSimulation(seed, broken), origin: make(map[string]int)}
	s.decodes = s.rng.IntN(4) == 0
	if s.rng.IntN(4) == 0 {
		s.mostRecords = 1 + s.rng.IntN(3)
	}
	s.keys = scheduleKeys[:max(1, s.rng.IntN(2*maxScheduleKeys)-2)]
	s.populate(3 + s.rng.IntN(2))
	if s.rng.IntN(2) == 0 {
		for _, p := range s.processes {
			p.ring.Store(nil) // of a process that is alone: for a minute it may act for all keys
		}
	}
	s.shareRing()
	return s
}

// populate makes n processes that know each other.
func (s *schedule) populate(n int) {
	for i := range n {
		p := s.newProcess(i)
		p.coherent.ledger.found()
		s.processes = append(s.processes, p)
	}
	for _, p := range s.processes {
		p.learn(s.everybody())
	}
}

func (s *schedule) newProcess(i int) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boots++
	s.floors[i], s.fences[i] = make(map[string]int), make(map[string]int)
	return newProcess(s.simulation, i, s.boots)
}

func (s *schedule) everybody() slots { return slots(1<<len(s.processes) - 1) }

// shareRing gives all the same ring.
func (s *schedule) shareRing() {
	set := slots(1 + s.rng.IntN(int(s.everybody())))
	for _, p := range s.processes {
		p.see(set)
	}
}

func (s *schedule) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
	s.note("WRONG: " + strings.ReplaceAll(s.problems[len(s.problems)-1], "%", "%%"))
}

// run runs a schedule in a bubble, and returns what is wrong.
func (s *schedule) run() []string {
	for range scheduleSteps {
		s.step()
		s.settle()
		if len(s.problems) > 0 {
			break
		}
	}
	if len(s.problems) == 0 {
		s.conclude()
	}
	s.stop()
	return s.problems
}

// get has a process read a key, and checks what it reads.
func (s *schedule) get(p *process, key string) {
	if p.paused {
		return
	}
	s.mu.Lock()
	floor, fence := max(s.floors[p.slot][key], s.wokenLocked(p, key)), s.fences[p.slot][key]
	s.gets++
	s.mu.Unlock()
	s.served++
	number := s.served
	s.note("Get %d of %s at %d", number, key, p.slot)
	go func() {
		rec, expires, seen := p.engine.store.get(key)
		it, err := p.engine.get(p.life, key, rec, expires, seen)
		s.mu.Lock()
		floor := max(floor, min(fence, s.fences[p.slot][key])) // which it may have waited behind: see unfence
		s.gets--
		over := s.over || p.dead.Load()
		if !over {
			s.note("Get %d returns %s, at least %d", number, it.bytes, floor)
		}
		s.mu.Unlock()
		switch {
		case over:
		case err != nil:
			s.problem("Get %d of %s at %d: %v", number, key, p.slot, err)
		case !s.allowed(it.bytes, floor):
			s.problem("Get %d of %s at %d = %s, want nothing older than %d", number, key, p.slot, it.bytes, floor)
		}
	}()
}

// wokenLocked returns the last invalidation of a key that a process knows of which has asked
// what it missed, and serves from memory again: whom it asked has applied it before the
// answer, or has had the process told of it since.
func (s *schedule) wokenLocked(p *process, key string) (floor int) {
	if p.late || p.coherent.fence.isUp() {
		return 0
	}
	for _, op := range s.ops {
		if op.done == math.MaxInt || !slices.Contains(op.keys, key) {
			continue
		}
		for i, q := range s.processes {
			if at, answered := s.answers[[2]*process{p, q}]; answered && op.covers.has(i) && op.doneAt <= after(at, contactLife) {
				floor = max(floor, op.n)
			}
		}
	}
	return floor
}

// allowed reports whether a value may be read where an invalidation is done: a load read it
// no earlier than that began, or a Set that was not finished then brought it.
func (s *schedule) allowed(value string, floor int) bool {
	digits, set := strings.CutSuffix(value, "s")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return false
	}
	if n >= floor || !set {
		return n >= floor
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ops[n-1].done >= floor
}

// invalidate has a process begin an invalidation of some keys: a Clear of all.
func (s *schedule) invalidate(p *process, what string, keys []string) {
	s.invalidateUntil(p.life, p, what, keys)
}

// invalidateUntil is invalidate for a caller that waits until ctx ends.
func (s *schedule) invalidateUntil(ctx context.Context, p *process, what string, keys []string) {
	s.mu.Lock()
	s.clock++
	op := &operation{n: s.clock, what: what, keys: keys, by: p, audience: p.told(), done: math.MaxInt}
	for i, q := range s.processes {
		op.views[i] = q.told()
	}
	for _, key := range keys {
		s.origin[key] = op.n
	}
	s.ops = append(s.ops, op)
	s.calls++
	s.mu.Unlock()
	s.note("%s %d of %v begins at %d", what, op.n, keys, p.slot)
	go func() {
		var err error
		switch what {
		case "Remove":
			err = p.engine.remove(ctx, keys)
		case "Set":
			err = p.engine.set(ctx, keys[0], s.itemOf(fmt.Sprint(op.n, "s")), 0)
		default:
			err = p.engine.clear(ctx)
		}
		s.finish(op, err)
	}()
}

// finish notes what the end of an invalidation promises.
func (s *schedule) finish(op *operation, err error) {
	if err != nil && !errors.Is(err, ErrPartial) && !op.by.dead.Load() {
		s.problem("%s %d: %v", op.what, op.n, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	if s.over || op.by.dead.Load() {
		return
	}
	s.note("%s %d returns %v", op.what, op.n, err)
	op.covers = only(op.by.slot)
	if err == nil {
		op.done, op.doneAt = s.clock, now()
		op.covers |= op.audience
		for i, seen := range op.views {
			if op.audience.has(i) {
				op.covers |= seen
			}
		}
	}
	for i, floor := range s.floors {
		for _, key := range op.keys {
			if op.covers.has(i) {
				floor[key] = max(floor[key], op.n)
			}
		}
	}
	if err != nil {
		op.covers = 0
	}
}

// conclude has all be well again, and checks that it is.
func (s *schedule) conclude() {
	s.note("all is well from here on")
	s.closing = true
	s.tick()
	s.heal()
	for _, p := range s.processes {
		p.mu.Lock()
		p.shuns = 0
		p.mu.Unlock()
		if p.paused {
			s.resume(p)
		}
	}
	for _, p := range s.processes {
		for _, q := range s.processes {
			s.gossip(p, q)
			if p != q && s.aged { // who heard nothing of another for a minute has lost it meanwhile
				p.coherent.meet(q.url)
			}
		}
		p.coherent.catch.start()
	}
	s.settle()
	s.flow(3 * time.Second)
	for _, op := range s.ops {
		for i, floor := range s.floors {
			for _, key := range op.keys {
				if !op.lost && i < len(s.processes) {
					floor[key] = max(floor[key], op.n)
				}
			}
		}
	}
	s.getAll()
	s.flow(3 * time.Second)
	for i := 0; !s.agree(); i++ {
		// Of what a dead process drew each gap is waited for, and passed over by one after
		// the other.
		if s.boots == uint64(len(s.processes)) || i == 4*maxOperations {
			s.problem("the ledgers do not agree: %v", s.ledgers())
			break
		}
		s.flow(gapPatience / 2)
	}
	s.checkQuiet()
	s.shareRing()
	for _, key := range s.keys {
		s.invalidate(s.pick(), "Remove", []string{key})
		s.settle()
	}
	s.flow(time.Second)
	for _, op := range s.ops[len(s.ops)-len(s.keys):] {
		if op.done == math.MaxInt {
			s.problem("Remove %d has not returned nil though all is well", op.n)
		}
	}
	s.getAll()
	s.flow(time.Second)
	s.checkQuiet()
}

// ledgers returns what each process has applied, and waits for.
func (s *schedule) ledgers() (all []string) {
	for _, p := range s.processes {
		applied := p.coherent.ledger.applied()
		slices.SortFunc(applied, func(a, b id) int { return cmp.Compare(a.boot, b.boot) })
		all = append(all, fmt.Sprint(applied, p.coherent.ledger.lag() > 0))
	}
	return all
}

// agree reports whether all have applied the same, and nobody waits for more.
func (s *schedule) agree() bool {
	all := s.ledgers()
	return len(slices.Compact(all)) == 1 && strings.HasSuffix(all[0], "false")
}

func (s *schedule) getAll() {
	for _, p := range s.processes {
		for _, key := range s.keys {
			s.get(p, key)
			s.settle()
		}
	}
	s.deliverAll()
}

// checkQuiet checks that nothing is left behind.
func (s *schedule) checkQuiet() {
	if s.gets > 0 || s.calls > 0 {
		s.problem("%d Gets and %d calls have not returned", s.gets, s.calls)
	}
	for _, p := range s.processes {
		flights := 0
		for i := range p.engine.store.shards {
			sh := &p.engine.store.shards[i]
			for kind := range sh.flights {
				flights += len(sh.flights[kind])
			}
		}
		if flights > 0 {
			s.problem("%d flights are left at %d", flights, p.slot)
		}
		if n := p.coherent.post.pending.Load(); n > 0 {
			s.problem("%d deliveries are left at %d", n, p.slot)
		}
		if p.coherent.fence.isUp() {
			s.problem("%d is behind its fence still", p.slot)
		}
	}
}

// String is the history.
func (s *schedule) String() string {
	var b strings.Builder
	for _, e := range s.trace {
		args := e.args[:strings.Count(strings.ReplaceAll(e.format, "%%", ""), "%")]
		fmt.Fprintf(&b, e.format+"\n", args...)
	}
	return b.String()
}

// runSchedules runs schedules from a seed on until one goes wrong, the time is over, or there
// were n. It returns how many were run, and the last.
func runSchedules(t *testing.T, from uint64, n int, limit time.Duration, broken fault) (ran int, last *schedule, seed uint64) {
	const together = 50 // a bubble costs something too
	slotTables()
	start := time.Now()
	for ran < n && time.Since(start) < limit {
		synctest.Test(t, func(*testing.T) {
			for range min(together, n-ran) {
				seed = from + uint64(ran)
				ran++
				if last = newSchedule(seed, broken); len(last.run()) > 0 {
					break
				}
			}
		})
		if len(last.problems) > 0 {
			break
		}
	}
	return ran, last, seed
}

func TestSchedulesReadNothingThatWasInvalidated(t *testing.T) {
	n, limit := *schedules, time.Duration(math.MaxInt64)
	if n == 0 {
		n, limit = 10_000, 4*time.Second
	}
	from := *scheduleFrom
	if from == 0 {
		from = rand.Uint64()
	}
	start := time.Now()
	ran, last, seed := runSchedules(t, from, n, limit, sound)
	t.Logf("%d schedules in %v", ran, time.Since(start).Round(time.Millisecond))
	for _, problem := range last.problems {
		t.Errorf("schedule %d: %s", seed, problem)
	}
	if t.Failed() {
		t.Logf("run it alone with -run TestSchedules -schedules 1 -schedule %d (what order goroutines take may differ):\n%s", seed, last)
	}
}
