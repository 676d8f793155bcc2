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
	key   string
	shard *shard        // whose tables it is in
	done  chan struct{} // closed at the end
	kind  flightKind

	// Guarded by the shard's mutex.
	detached bool   // a removal overtook it: its value is for those who wait, and is not kept
	ended    bool   // it has its outcome
	own      bool   // a load by a node that acts for the key: kept for its full life
	ring     uint32 // the oldest ring by which somebody joined: under a newer one the item is looked at again
	cancel   func() // ends the run's context; nil until it has one
	watchers []watcher

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

// A watcher is told its number when a flight has ended. Whoever waits for many
// flights so needs no goroutine for each; the channel has room for all of them.
type watcher struct {
	ended chan<- int
	i     int
}

// watch has w told of the end, at once if that was before.
func (f *flight) watch(w watcher) {
	f.shard.mu.Lock()
	ended := f.ended
	if !ended {
		f.watchers = append(f.watchers, w)
	}
	f.shard.mu.Unlock()
	if ended {
		<-f.done // a moment: it is closed next
		w.ended <- w.i
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
