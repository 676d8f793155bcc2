package main

import (
	"math"
	"slices"
	"sync"
	"time"
)

// What the processes report is put together here. Time is counted from the epoch of a
// run, and falls into ticks.

// A report is what a process has seen since its last one.
type report struct {
	Ticks []tick
	Error string `json:",omitempty"` // of a Get that failed
}

// A tick is what has happened in a slice of time.
type tick struct {
	Tick   int
	Micros []uint32 `json:",omitempty"` // of each Get that was meant to begin in it
	Keys   []uint32 `json:",omitempty"` // of each
	Failed int      `json:",omitempty"` // of these
	Loads  []uint32 `json:",omitempty"` // keys whose load has begun in it

	repeated int
}

// A ledger knows which keys have been loaded.
type ledger struct {
	life time.Duration            // of an entry, the shortest there may be
	ends map[uint32]time.Duration // when that of a key ends
}

// load enters a load, and reports whether it is repeated: the life of what was loaded
// before has not ended.
func (l *ledger) load(key uint32, at time.Duration) (repeated bool) {
	if l.ends == nil {
		l.ends = make(map[uint32]time.Duration)
	}
	end, known := l.ends[key]
	l.ends[key] = at + l.life
	return known && at < end
}

// extraLoads returns how many of the loads that were repeated within a span are more
// than usual, for which there is more than one measurement, in loads per second.
func extraLoads(repeated int, span time.Duration, usual ...float64) int {
	return max(0, repeated-int(math.Round(slices.Max(usual)*span.Seconds())))
}

// A recorder holds all that is reported of a run. It is safe for concurrent use.
type recorder struct {
	epoch time.Time
	width time.Duration // of a tick

	mu     sync.Mutex // guards the fields below
	ledger ledger
	ticks  []tick
	err    string // of one Get that failed
}

func newRecorder(width, life time.Duration) *recorder {
	return &recorder{epoch: time.Now(), width: width, ledger: ledger{life: life}}
}

// add enters a report.
func (r *recorder) add(from report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from.Error != "" {
		r.err = from.Error
	}
	for _, t := range from.Ticks {
		for len(r.ticks) <= t.Tick {
			r.ticks = append(r.ticks, tick{Tick: len(r.ticks)})
		}
		to := &r.ticks[t.Tick]
		to.Micros = append(to.Micros, t.Micros...)
		to.Keys = append(to.Keys, t.Keys...)
		to.Failed += t.Failed
		to.Loads = append(to.Loads, t.Loads...)
		for _, key := range t.Loads {
			if r.ledger.load(key, time.Duration(t.Tick)*r.width) {
				to.repeated++
			}
		}
	}
}

// begin returns when a tick begins.
func (r *recorder) begin(tick int) time.Time {
	return r.epoch.Add(time.Duration(tick) * r.width)
}

// part returns the ticks from one to before another, those without anything too. When
// they are asked for nobody reports any more.
func (r *recorder) part(from, to int) []tick {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.ticks) < to {
		r.ticks = append(r.ticks, tick{Tick: len(r.ticks)})
	}
	return r.ticks[from:to]
}

// failure returns the error of a Get that failed, "" if none did.
func (r *recorder) failure() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// slow is what no Get should take.
const slow = 100 * time.Millisecond

// A summary is what some ticks come to.
type summary struct {
	span     time.Duration
	gets     int // all of them
	failed   int
	slow     int
	loads    int
	repeated int
	p50, p99 time.Duration
	lowest   float64 // hit ratio of a tick, NaN if there were no Gets
}

func summarize(ticks []tick, width time.Duration) summary {
	s := summary{span: time.Duration(len(ticks)) * width, lowest: math.NaN()}
	var micros []uint32
	for _, t := range ticks {
		micros = append(micros, t.Micros...)
		s.failed += t.Failed
		s.loads += len(t.Loads)
		s.repeated += t.repeated
		if hits := t.hitRatio(); math.IsNaN(s.lowest) || hits < s.lowest { // which NaN never is
			s.lowest = hits
		}
	}
	slices.Sort(micros)
	s.gets = len(micros)
	first, _ := slices.BinarySearch(micros, uint32(slow.Microseconds())+1)
	s.slow = len(micros) - first
	s.p50, s.p99 = quantile(micros, 0.50), quantile(micros, 0.99)
	return s
}

// rateOfRepeats returns the repeated loads per second.
func (s summary) rateOfRepeats() float64 { return float64(s.repeated) / s.span.Seconds() }

// hitRatio returns the share of the Gets that cost no load, NaN without Gets. Loads of
// Gets that were meant for an earlier tick may make it less than nothing.
func (t tick) hitRatio() float64 {
	if len(t.Micros) == 0 {
		return math.NaN()
	}
	return max(0, 1-float64(len(t.Loads))/float64(len(t.Micros)))
}

// quantile returns the time that so large a part of the sorted times is not above; 0 if
// there are none.
func quantile(micros []uint32, part float64) time.Duration {
	if len(micros) == 0 {
		return 0
	}
	rank := max(int(math.Ceil(part*float64(len(micros)))), 1)
	return time.Duration(micros[rank-1]) * time.Microsecond
}

// asked returns how many of some keys there was a Get of.
func asked(ticks []tick, keys []uint32) int {
	wanted := make(map[uint32]bool, len(keys))
	for _, key := range keys {
		wanted[key] = true
	}
	all := len(wanted)
	for _, t := range ticks {
		for _, key := range t.Keys {
			delete(wanted, key)
		}
	}
	return all - len(wanted)
}
