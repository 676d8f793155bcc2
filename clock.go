package peercache

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Time in this package is a number of nanoseconds since base, on the monotonic
// clock: an int64 that no jump of the wall clock moves. Within a synctest bubble,
// whose clock starts in the year 2000, it is about -27 years: no value can stand
// for "none", and nothing narrower than an int64 can hold it.
var base = time.Now()

const (
	never = math.MaxInt64 // an expiry that does not come
	past  = math.MinInt64 // a time at which nothing has expired
)

func now() int64 { return int64(time.Since(base)) }

// after returns the time d after t.
func after(t int64, d time.Duration) int64 {
	if sum := t + int64(d); sum >= t {
		return sum
	}
	return never
}

const (
	// tick is how often a coarse clock moves.
	tick = 5 * time.Millisecond

	// lag is how far behind a coarse clock is taken to be. Its timer runs when the
	// scheduler comes by, which on one processor with one busy goroutine is every
	// 20 ms, and was up to 95 on a machine with more to do than it could. What is
	// closer to its end than this costs the exact time at each hit.
	lag = 250 * time.Millisecond
)

// A clock tells a cache the time of a hit. Reading the system's costs 40 to
// 70 ns, more than all the rest of a hit, so that a cache for one process alone
// uses a coarse one: a timer of 5 ms that stores the time, runs only while
// somebody reads, and leaves nothing behind when nobody does. Where the coarse
// time decides, closer to an expiry than lag, store.go asks again for the exact one.
// A cache on a node always uses the exact one.
type clock struct {
	coarse bool
	state  atomic.Int32
	now    atomic.Int64 // meaningful unless stopped; goes forward only
}

// The states of a clock.
const (
	stopped int32 = iota // no timer; always, of an exact clock
	armed                // the timer will run
	running              // and somebody has read since it last did
)

// time returns the time, at most lag ago if the clock is coarse. Most reads find
// it running, and write nothing.
func (c *clock) time() int64 {
	if c.state.Load() == running {
		return c.now.Load()
	}
	return c.wake()
}

func (c *clock) wake() int64 {
	if !c.coarse {
		return now()
	}
	if c.state.CompareAndSwap(armed, running) {
		return c.now.Load()
	}
	t := now()
	c.set(t)
	if c.state.CompareAndSwap(stopped, running) {
		time.AfterFunc(tick, c.advance)
	}
	return t
}

// set moves the time forward to t. Whoever was not scheduled since it read the
// clock must not move it back.
func (c *clock) set(t int64) {
	for {
		old := c.now.Load()
		if old >= t || c.now.CompareAndSwap(old, t) {
			return
		}
	}
}

// advance runs every tick, until nobody has read since the last.
func (c *clock) advance() {
	c.set(now())
	if c.state.CompareAndSwap(running, armed) {
		time.AfterFunc(tick, c.advance)
		return
	}
	c.state.Store(stopped)
}

// everyMinute lets something happen, such as a line in the log, at most once a
// minute. The zero value is ready.
type everyMinute struct {
	mu   sync.Mutex // guards the fields below
	next int64
	set  bool
}

// now reports whether it is time, and if so that it happened.
func (m *everyMinute) now() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := now()
	if m.set && at < m.next {
		return false
	}
	m.set, m.next = true, after(at, time.Minute)
	return true
}
