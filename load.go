package peercache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"
)

// The load: calls of the user's loader, how many at once, and what becomes of
// what they bring. Which keys are loaded on this node is decided in engine.go.

// A loader calls the user's for some keys and gives each an outcome, in the order
// of the keys. All but batch loaders are called for one key at a time.
type loader func(ctx context.Context, keys []string) []loaded

// A loaded is what the user's loader said of one key.
type loaded struct {
	item item
	ttl  time.Duration
	err  error
}

// A call is one call of the loader, for one flight or, of a batch loader, many.
// While it waits for its turn it may be several.
type call struct {
	ctx     context.Context // whose values the loader sees; it ends nothing
	flights []*flight
	since   int64 // when it began to wait for its turn
}

// load runs the loader for flights, which are its own from here on, on a context
// that no caller ends: at once if fewer than MaxLoads calls are running, else as
// soon as it is their turn. Those that another node may have in memory are asked for first.
func (e *engine) load(ctx context.Context, flights []*flight) {
	if flights = e.peekFirst(ctx, flights); len(flights) > 0 {
		e.gate.enter(&call{ctx: context.WithoutCancel(ctx), flights: flights})
	}
}

// overload ends a call that does not come to its turn.
func (e *engine) overload(c *call) {
	err := fmt.Errorf("%w: %d loads of cache %s run and the queue is full or slow", ErrOverloaded, e.opts.MaxLoads, e.name)
	for _, f := range c.flights {
		f.shard.overloads.Add(1)
		e.store.end(f, outcome{err: err})
	}
}

// call calls the loader. At LoadTimeout its flights end whether or not the loader
// heeds its context; what it brings later is dropped, and only when it returns is
// its place free for another.
func (e *engine) call(c *call) {
	defer func() {
		if next := e.gate.leave(); next != nil {
			go e.call(next) // the loader may have ended this goroutine
		}
	}()
	ctx, cancel := context.WithTimeout(c.ctx, e.opts.LoadTimeout)
	defer cancel()
	c.flights = slices.DeleteFunc(c.flights, func(f *flight) bool { return !e.store.begin(f, cancel) })
	if len(c.flights) == 0 {
		return // the cache was closed while they waited
	}
	keys := make([]string, len(c.flights))
	for i, f := range c.flights {
		keys[i] = f.key
	}
	counters := &c.flights[0].shard.counters
	counters.loads.Add(int64(len(keys)))
	end := func(f *flight, out outcome) {
		ended := e.store.end(f, out)
		switch {
		case ended && out.err != nil && !out.item.absent:
			counters.loadErrors.Add(1)
		case ended && !out.item.fleeting:
			e.replicate(f.key)
		}
	}
	overdue := time.AfterFunc(e.opts.LoadTimeout, func() { // when ctx ends; context.AfterFunc costs five allocations
		err := fmt.Errorf("peercache: the load took longer than LoadTimeout (%v): %w", e.opts.LoadTimeout, context.DeadlineExceeded)
		for _, f := range c.flights {
			end(f, outcome{err: err})
		}
	})
	start := now()
	var outs []outcome // nil until the loader has returned
	defer func() {     // also when the loader panics or ends the goroutine
		counters.loadNanos.Add(now() - start)
		overdue.Stop()
		if outs != nil {
			for i, f := range c.flights {
				end(f, outs[i])
			}
			return
		}
		v := recover()
		if v == nil {
			v = errGoexit
		}
		err := e.panicked(v)
		for _, f := range c.flights {
			end(f, outcome{err: err})
		}
	}()
	brought := make([]outcome, len(keys))
	for i, l := range e.loader(ctx, keys) {
		brought[i] = e.keepFor(l) // which calls the methods of the loader's errors
	}
	outs = brought
}

// panicked returns the error of a loader that panicked. On a node its stack goes
// to the log as well, for it does not travel to the peers that asked.
func (e *engine) panicked(v any) error {
	err := &PanicError{Value: v, Stack: debug.Stack()}
	if e.node != nil {
		e.node.log().Error("peercache: loader panicked", "cache", e.name, "panic", fmt.Sprint(v), "stack", string(err.Stack))
	}
	return err
}

// keepFor says how long what a load brought is kept.
func (e *engine) keepFor(l loaded) outcome {
	at := now()
	hot := e.opts.HotTTL
	if hot < 0 {
		hot = orphanTTL
	}
	out := outcome{item: l.item, err: l.err, copyUntil: after(at, hot)}
	if l.err == ErrClosed { //nolint:errorlint // itself, of another cache: this one is open
		out.err = fmt.Errorf("peercache: the loader of cache %s says: %w", e.name, ErrClosed)
	}
	if l.err != nil {
		out.item.absent = errors.Is(l.err, ErrNotFound)
		if l.ttl == 0 {
			l.ttl = e.opts.NotFoundTTL
		}
		out.item.fleeting = !out.item.absent || l.ttl <= 0
	} else {
		out.item.fleeting = l.ttl < 0
	}
	out.item.expires = after(at, e.life(l.ttl))
	return out
}
