package peercache

import (
	"context"
)

// Flights: at most one run for each key, any number of callers waiting for it.
// A flight belongs to no caller: each waits on its own context and leaves when
// that ends; the flight goes on, because the value will be wanted again. What
// runs in a flight, and where the value is kept, are in engine.go and store.go.
//
// golang.org/x/sync/singleflight is not used: there the first caller's context
// drives everyone, waiters cannot leave, a result can only be stored after the
// slot is free (so that a Get in between runs it again), and a removal cannot
// detach a run that began before it.

// A flightKind says which of the two tables of flights is meant. They are apart
// because a fetch can end in a load of the same key: on this node, or on a peer
// that by its ring would fetch from this node. With one table two nodes that
// each take the other for the owner would wait for each other for ever
// (TestDisagreeingRingsNeitherHangNorLoadTwice).
type flightKind uint8

const (
	fetchFlight flightKind = iota // asks the key's owners
	loadFlight                    // runs the loader here
	flightKinds
)

// A flight is one run for one key.
type flight struct {
	key    string
	shard  *shard        // whose tables it is in
	done   chan struct{} // closed at the end
	kind   flightKind
	pauses uint32 // of the process that the fence had found when it began
	need   ids    // of the key when it began: what a peer that is asked must have applied

	// Guarded by the shard's mutex.
	detached bool   // a removal overtook it: its value is for those who wait, and is not kept
	ended    bool   // it has its outcome
	own      bool   // a load by a node that acts for the key: kept for its full life
	ring     uint32 // the oldest ring by which somebody joined: under a newer one the item is looked at again
	cancel   func() // ends the run's context; nil until it has one
	watchers []watch

	outcome outcome // set before done is closed, then constant
}

// An outcome is how a flight ended.
type outcome struct {
	item item
	peer string // whose answer it is; "" for this process
	err  error

	// copyUntil is the end of the item's life if the load was on behalf of no
	// owner. Whether it was is known only at the end: an owner may join late.
	copyUntil int64

	// settled says that what is to be kept of it has been kept, by the load that
	// a fetch led to.
	settled bool
}

// A watcher is told of the end of flights that it watches, by the number that it gave
// each, on the goroutine that ended the flight: it must neither wait nor run code of the
// user. Whoever waits for many flights so needs no goroutine for each.
type watcher interface {
	flightEnded(f *flight, i int)
}

type watch struct {
	by watcher
	i  int
}

// endings are a watcher that is a channel, with room for all the flights that it watches.
type endings chan int

func (e endings) flightEnded(_ *flight, i int) { e <- i }

// watch has w told of the end, at once if that was before.
func (f *flight) watch(w watcher, i int) {
	f.shard.mu.Lock()
	ended := f.ended
	if !ended {
		f.watchers = append(f.watchers, watch{w, i})
	}
	f.shard.mu.Unlock()
	if ended {
		<-f.done // a moment: it is closed next
		w.flightEnded(f, i)
	}
}

// isDone reports whether the flight has its outcome. It may say no for a moment longer.
func (f *flight) isDone() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// wait returns the outcome, or the error of ctx if that ends first.
func (f *flight) wait(ctx context.Context) outcome {
	select {
	case <-f.done:
		return f.outcome
	default:
	}
	select {
	case <-f.done:
		return f.outcome
	case <-ctx.Done():
		return outcome{err: ctx.Err()}
	}
}
