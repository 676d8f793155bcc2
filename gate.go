package peercache

import (
	"sync"
	"time"
)

// The gate before the loader: so many calls at once, a bounded queue behind them.
// What is turned away is answered with ErrOverloaded, here and at the peers that
// asked, and nobody loads it in this node's stead: the origin would get the same
// load from elsewhere.

const (
	// queuePerLoad is how many keys may wait for each call that may run. With
	// loads of a few milliseconds a queue four deep is through within the time
	// that a caller waits anyway; a longer one only delays the refusal.
	queuePerLoad = 4

	// queueTimeout is how long a key waits for its turn.
	queueTimeout = time.Second
)

// A gate admits calls of a loader in the order in which they came.
type gate struct {
	max      int         // calls at once
	batch    bool        // a call takes any number of keys, and calls that wait become one
	start    func(*call) // runs a call on a goroutine
	overload func(*call) // ends a call that was turned away

	mu      sync.Mutex // guards the fields below
	running int
	waiting []*call
	keys    int  // of waiting
	armed   bool // a timer will look at the head of the queue
}

// enter starts what of a call may run now, in parts that the loader can take, each
// of which must leave. The rest is queued, or turned away if there is no room. If
// the queue is empty there always is, so that an idle node serves a GetMany of any
// length as far as its loads begin within queueTimeout.
func (g *gate) enter(c *call) {
	if refused := g.place(c); len(refused) > 0 {
		g.overload(&call{flights: refused})
	}
}

// place starts, queues and returns the flights that are turned away.
func (g *gate) place(c *call) []*flight {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.running < g.max {
		g.running++
		if g.batch || len(c.flights) == 1 {
			g.start(c)
			return nil
		}
		g.start(g.takeLocked(c))
	}
	var refused []*flight
	room := max(queuePerLoad*g.max-g.keys, 0) // a long call may have overdrawn it
	if g.keys > 0 && len(c.flights) > room {
		if g.batch {
			room = 0 // all or nothing: it is one call
		}
		c.flights, refused = c.flights[:room], c.flights[room:]
	}
	if len(c.flights) > 0 {
		c.since = now()
		g.waiting = append(g.waiting, c)
		g.keys += len(c.flights)
		g.armLocked()
	}
	return refused
}

// takeLocked takes from a call what the loader can be called for at once.
func (g *gate) takeLocked(c *call) *call {
	n := 1
	if g.batch {
		n = len(c.flights)
	}
	part := &call{ctx: c.ctx, flights: c.flights[:n:n]}
	c.flights = c.flights[n:]
	return part
}

// leave gives the place of a call that has returned to the next one, which the
// caller runs, or nil.
func (g *gate) leave() *call {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.running--
		return nil
	}
	next := g.takeLocked(g.waiting[0])
	g.keys -= len(next.flights)
	if len(g.waiting[0].flights) == 0 {
		g.popLocked()
	}
	for g.batch && len(g.waiting) > 0 {
		next.flights = append(next.flights, g.popLocked().flights...)
	}
	return next
}

// popLocked takes the head of the queue out of it.
func (g *gate) popLocked() *call {
	c := g.waiting[0]
	g.waiting[0] = nil
	g.waiting = g.waiting[1:]
	g.keys -= len(c.flights)
	return c
}

// armLocked has the queue looked at when its head will have waited too long. One
// timer is enough: who came later waits longer.
func (g *gate) armLocked() {
	if g.armed || len(g.waiting) == 0 {
		return
	}
	g.armed = true
	time.AfterFunc(time.Duration(after(g.waiting[0].since, queueTimeout)-now()), g.expire)
}

func (g *gate) expire() {
	var late []*call
	g.mu.Lock()
	g.armed = false
	for len(g.waiting) > 0 && after(g.waiting[0].since, queueTimeout) <= now() {
		late = append(late, g.popLocked())
	}
	g.armLocked()
	g.mu.Unlock()
	for _, c := range late {
		g.overload(c)
	}
}
