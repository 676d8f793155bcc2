package peercache

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The fence around the memory of a process that did not run for a while: it was stopped,
// or its machine slept or moved. Its peers may have stopped to wait for it and removed
// keys that it still holds, which it cannot know. So it serves nothing from memory before
// it has asked them.

const (
	// pauseLimit is how long a process may not have run without any doubt: less than it
	// takes to be declared dead, and more than pauses of the garbage collector.
	pauseLimit = 1500 * time.Millisecond

	// pauseTick is how often it makes sure that it runs.
	pauseTick = 250 * time.Millisecond

	// fencePatience is how long after the fence went up a Get waits behind it before it
	// takes what is in memory for absent.
	fencePatience = 200 * time.Millisecond
)

// A fence is up, or lets pass what is asked until a time that a ticker moves on. A hit so
// finds out with one comparison whether its process has been running. The first to see
// that it has not, be it the ticker or a Get, raises the fence.
type fence struct {
	until atomic.Int64
	times atomic.Int64 // that a pause was found

	raised func()           // has what was missed asked for; it does not wait
	wall   func() time.Time // the clock of the machine, which goes on while that sleeps

	mu       sync.Mutex    // guards the fields below
	up       chan struct{} // closed when it is lowered; nil while it is down
	patience int64         // while it is up, when waiting for that ends
	alive    int64         // when the process was last known to run, by the ticker
	ahead    time.Duration // of the wall clock before the monotonic one, at the last tick
	timer    *time.Timer   // nil before there is anybody to ask, and after
	stopped  bool
}

func newFence(raised func()) *fence {
	f := &fence{raised: raised, wall: time.Now}
	f.until.Store(math.MaxInt64)
	return f
}

// start has the ticker run. Before there are peers nothing can be missed.
func (f *fence) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped { // by a Leave that overtook the Join
		return
	}
	f.alive = now()
	f.until.Store(after(f.alive, pauseLimit))
	f.ahead = f.lead()
	f.timer = time.AfterFunc(pauseTick, f.tick)
}

// stop ends the ticker, and lets everything pass.
func (f *fence) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	if f.timer != nil {
		f.timer.Stop()
	}
	f.lowerLocked(math.MaxInt64)
}

func (f *fence) tick() {
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		return
	}
	f.timer.Reset(pauseTick)
	at, ahead := now(), f.lead()
	paused := time.Duration(at-f.alive) > pauseLimit || (ahead-f.ahead).Abs() > pauseLimit
	f.alive, f.ahead = at, ahead
	raise := f.up == nil && (paused || at > f.until.Load())
	switch {
	case raise:
		f.raiseLocked(at)
	case paused:
		f.times.Add(1) // what was heard before says nothing of it
	case f.up == nil:
		f.until.Store(after(at, pauseLimit))
	}
	f.mu.Unlock()
	if raise {
		f.raised()
	}
}

// lead returns how far the wall clock is before the monotonic one, from any origin. It
// changes when the wall clock is set, and when the machine sleeps.
func (f *fence) lead() time.Duration {
	return time.Duration(f.wall().Round(0).UnixNano() - now())
}

// open reports whether what is in memory may be served, and raises the fence if it may
// not.
func (f *fence) open(at int64) bool {
	if at <= f.until.Load() {
		return true
	}
	f.mu.Lock()
	raise := f.up == nil && at > f.until.Load()
	if raise {
		f.raiseLocked(at)
	}
	open := f.up == nil
	f.mu.Unlock()
	if raise {
		f.raised()
	}
	return open
}

func (f *fence) raiseLocked(at int64) {
	f.alive = at
	f.up = make(chan struct{})
	f.patience = after(at, fencePatience)
	f.until.Store(math.MinInt64)
	f.times.Add(1)
}

// pauses counts the pauses that were found, modulo 2^32.
func (f *fence) pauses() uint32 { return uint32(f.times.Load()) }

// isUp reports whether the fence is up.
func (f *fence) isUp() bool { return f.until.Load() == math.MinInt64 }

// lower lets pass again what is in memory, and reports whether it does, for one who has
// asked what was missed when so many pauses had been found. If there was another since,
// the process has to ask again.
func (f *fence) lower(times int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := now()
	if f.stopped || f.times.Load() != times || time.Duration(at-f.alive) > pauseLimit {
		return false
	}
	f.lowerLocked(after(at, pauseLimit))
	return true
}

func (f *fence) lowerLocked(until int64) {
	f.until.Store(until)
	if f.up != nil {
		close(f.up)
		f.up = nil
	}
}

// wait waits until the fence is down, for no longer than fencePatience from when it went
// up, and reports whether it is down.
func (f *fence) wait(ctx context.Context) bool {
	f.mu.Lock()
	up, patience := f.up, time.Duration(f.patience-now())
	f.mu.Unlock()
	if up == nil {
		return true
	}
	if patience <= 0 {
		return false // nobody may be there to ask for hours, and each Get would wait
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-up:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
