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
	before    phase = iota // before the kill
	afterKill              // one node less
	afterJoin              // and a new one
	phases
)

func (p phase) String() string {
	return [...]string{"before the kill", "after the kill", "after the join"}[p]
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
	retries   int                     // at another node, since the first was killed meanwhile
	latencies []time.Duration         // of all requests, in no order
	owners    map[string]string       // for each key asked for, its owner as last named by an answer
	loads     map[string]int          // for each key loaded, how often
	byNode    map[int]map[string]bool // which keys each node loaded
}

func newTally() *tally {
	t := &tally{seed: maphash.MakeSeed(), texts: make(map[string]uint64)}
	for i := range t.phases {
		t.phases[i] = phaseTally{
			owners: make(map[string]string),
			loads:  make(map[string]int),
			byNode: make(map[int]map[string]bool),
		}
	}
	return t
}

// enter begins a phase. No request may be in flight.
func (t *tally) enter(p phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current = p
}

// answered counts a request that got its text.
func (t *tally) answered(key, text, owner string, took time.Duration, retries int) {
	hash := maphash.String(t.seed, text)
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.phases[t.current]
	p.requests++
	p.retries += retries
	p.latencies = append(p.latencies, took)
	p.owners[key] = owner
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
	if _, ok := p.owners[key]; !ok {
		p.owners[key] = ""
	}
	if len(t.errs) < most {
		t.errs = append(t.errs, key+": "+err.Error())
	}
}

// loaded counts a run of a loader.
func (t *tally) loaded(node int, key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	p := &t.phases[t.current]
	p.loads[key]++
	if p.byNode[node] == nil {
		p.byNode[node] = make(map[string]bool)
	}
	p.byNode[node][key] = true
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
		for _, n := range t.phases[i].loads {
			p.loads += n
		}
	}
	return p
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
