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

// never is an expiry that does not come.
const never = math.MaxInt64

func now() int64 { return int64(time.Since(base)) }

// after returns the time d after t.
func after(t int64, d time.Duration) int64 {
	if sum := t + int64(d); sum >= t {
		return sum
	}
	return never
}

// tick is how far a coarse clock may lag.
const tick = 5 * time.Millisecond

// A clock tells a cache the time of a hit. Reading the system's costs 40 to
// 70 ns, more than all the rest of a hit, so that a cache for one process alone
// uses a coarse one: a timer of 5 ms that stores the time, runs only while
// somebody reads, and leaves nothing behind when nobody does. Where the coarse
// time decides, close to an expiry, store.go asks again for the exact one. A cache
// on a node always uses the exact one.
type clock struct {
	coarse bool
	armed  atomic.Bool  // the timer will run
	read   atomic.Bool  // somebody read since it last ran
	now    atomic.Int64 // meaningful while armed; goes forward only
}

// time returns the time, at most a tick ago if the clock is coarse.
func (c *clock) time() int64 {
	if !c.coarse {
		return now()
	}
	if !c.armed.Load() {
		return c.arm()
	}
	if !c.read.Load() { // most reads find it set and write nothing
		c.read.Store(true)
	}
	return c.now.Load()
}

func (c *clock) arm() int64 {
	t := now()
	c.set(t)
	if c.armed.CompareAndSwap(false, true) {
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

func (c *clock) advance() {
	c.set(now())
	if c.read.Swap(false) {
		time.AfterFunc(tick, c.advance)
		return
	}
	c.armed.Store(false)
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
