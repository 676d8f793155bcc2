package main

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"
)

// A phase is a part of the run. Between two phases no request is in flight.
type phase int

const (
	steady  phase = iota // all nodes well
	restart              // of all nodes, one after the other
	kill                 // one node less
	join                 // and a new one
	phases
)

func (p phase) String() string {
	return [...]string{"steady", "rolling restart", "kill -9", "join"}[p]
}

// A tally is everything that is counted during a run, apart from what the nodes
// count themselves. It is safe for concurrent use.
type tally struct {
	seed maphash.Seed // immutable

	mu      sync.Mutex // guards the fields below
	current phase
	phases  [phases]phaseTally
	texts   map[string]uint64 // hash of the first answer for a key
	wrong   int               // answers that were not the first one's text
	errs    []string          // the first few failures
	over    bool              // reported: nothing counts any more
}

// A phaseTally is the part of a tally that belongs to one phase.
type phaseTally struct {
	requests  int
	failures  int
	retries   int              // at another node, since the first was killed meanwhile
	latencies []time.Duration  // of all requests, in no order
	asked     map[string]bool  // the keys of the requests
	loads     map[string][]int // for each key loaded, the lives of the processes that did

	// owners has for each key asked for before the phase the life of the process
	// that owned it when the phase began.
	owners map[string]int
}

func newTally() *tally {
	t := &tally{seed: maphash.MakeSeed(), texts: make(map[string]uint64)}
	for i := range t.phases {
		t.phases[i] = phaseTally{asked: make(map[string]bool), loads: make(map[string][]int)}
	}
	return t
}

// enter begins a phase. No request may be in flight. owners is who owns the
// keys asked for so far.
func (t *tally) enter(p phase, owners map[string]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current = p
	t.phases[p].owners = owners
}

// answered counts a request that got its text.
func (t *tally) answered(key, text string, took time.Duration, retries int) {
	hash := maphash.String(t.seed, text)
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.phases[t.current]
	p.requests++
	p.retries += retries
	p.latencies = append(p.latencies, took)
	p.asked[key] = true
	if first, ok := t.texts[key]; !ok {
		t.texts[key] = hash
	} else if first != hash {
		t.wrong++
	}
}

// failed counts a request that did not.
func (t *tally) failed(key string, err error, took time.Duration, retries int) {
	const most = 5 // arbitrary: enough to see what is the matter
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.phases[t.current]
	p.requests++
	p.failures++
	p.retries += retries
	p.latencies = append(p.latencies, took)
	p.asked[key] = true
	if len(t.errs) < most {
		t.errs = append(t.errs, key+": "+err.Error())
	}
}

// loaded counts a run of the loader, in the process of that life.
func (t *tally) loaded(life int, key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	loads := t.phases[t.current].loads
	loads[key] = append(loads[key], life)
}

// answer reports whether text is what the nodes answered for key.
func (t *tally) answer(key, text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	hash, ok := t.texts[key]
	return ok && hash == maphash.String(t.seed, text)
}

// asked returns all keys that were answered, sorted.
func (t *tally) asked() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.texts))
}

// progress is what the display shows of a tally.
type progress struct {
	phase                       phase
	requests, failures, retries int
	loads, keys                 int
}

func (t *tally) progress() progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := progress{phase: t.current, keys: len(t.texts)}
	for i := range t.phases {
		p.requests += t.phases[i].requests
		p.failures += t.phases[i].failures
		p.retries += t.phases[i].retries
		p.loads += t.phases[i].loadCount()
	}
	return p
}

// loadCount returns how many loads there were.
func (p *phaseTally) loadCount() (n int) {
	for _, lives := range p.loads {
		n += len(lives)
	}
	return n
}

// report hands what was counted to o. No request may be in flight; loads that
// people cause from now on are their own affair.
func (t *tally) report(o *outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	o.phases, o.wrong, o.errs = t.phases, t.wrong, t.errs
}

// quantile returns the smallest of the durations that at least the fraction q of
// them do not exceed, 0 if there is none. It sorts ds.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	i := int(q*float64(len(ds)) + 0.999999)
	return ds[min(max(i, 1), len(ds))-1]
}
