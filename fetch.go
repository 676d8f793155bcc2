package peercache

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// The fetch: the road from a miss to the owner of the key, to the next one if that is of
// no use, and to the loader here if none is.
//
// In the common case it is no goroutine but an inquiry (inquiry.go): the caller hands it
// to the network, and whoever reads what the peer sends completes the flights. Only when
// the first owner was of no use does a goroutine walk on.

// fetchMargin is how much longer than a load a fetch may live: the owner counts
// LoadTimeout from when its loader starts.
const fetchMargin = 2 * time.Second

// nextRequest is how long a request of a long GetMany waits for the one before it to
// the same owner (arbitrary; loads that take longer than a few times 10 ms overlap).
const nextRequest = 100 * time.Millisecond

// A walk is a fetch on its way along the owners of its key.
type walk struct {
	flight *flight
	owners []string // still to be tried, in order
	asked  int
}

// fetch brings flights to their end by asking the owners of their keys in order,
// at most maxAttempts each, and none whose breaker is open. Every process walks
// the same list, so that when an owner is dead all turn to the same next one and
// the key is still loaded once. Flights that no owner could serve are loaded here,
// for the callers' sake, and kept only as copies. tried is the first owner if that has
// been asked in vain, else "".
func (e *engine) fetch(ctx context.Context, tried string, flights []*flight) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	r := e.ring()
	walks := make([]*walk, len(flights))
	for i, f := range flights {
		e.store.begin(f, cancel)
		w := &walk{flight: f, owners: r.owners(e.hash(f.key), e.store.mayAct)}
		if tried != "" {
			w.asked = 1
			w.owners = slices.DeleteFunc(w.owners, func(owner string) bool { return owner == tried })
		}
		walks[i] = w
	}
	if tried != "" {
		e.node.passedOver(true, len(walks))
	}
	e.walkOn(ctx, r, walks)
}

// walkOn asks the next owner of each walk, all at once, and returns when all
// walks have come to their end. None waits for another that takes another road.
func (e *engine) walkOn(ctx context.Context, r *ring, walks []*walk) {
	byOwner := make(map[string][]*walk, 1)
	admitted := make(map[string]bool, 1)
	for _, w := range walks {
		owner := e.next(w, r.url, admitted)
		byOwner[owner] = append(byOwner[owner], w)
	}
	var wg sync.WaitGroup
	for owner, group := range byOwner {
		if len(byOwner) == 1 { // the common case needs no goroutine
			e.visit(ctx, r, owner, group)
			return
		}
		wg.Go(func() { e.visit(ctx, r, owner, group) })
	}
	wg.Wait()
}

// visit brings walks on that ask the same owner next. More keys than a request
// holds go one request after the other, for the owner's queue is not longer; but one
// that takes its time does not hold up the next.
func (e *engine) visit(ctx context.Context, r *ring, owner string, walks []*walk) {
	switch owner {
	case r.url:
		e.loadFor(ctx, r, walks, !r.left)
		return
	case nobody:
		e.loadFor(ctx, r, walks, false)
		return
	}
	var wg sync.WaitGroup
	for group := range slices.Chunk(walks, wire.MaxKeys) {
		answered := make(chan struct{})
		wg.Go(func() {
			left := e.ask(ctx, owner, group)
			close(answered)
			if len(left) > 0 {
				e.node.passedOver(true, len(left))
				e.walkOn(ctx, r, left)
			}
		})
		if len(group) == len(walks) {
			break
		}
		select {
		case <-answered:
		case <-time.After(nextRequest):
		}
	}
	wg.Wait()
}

// nobody stands for the owner of a key that has no usable one.
const nobody = ""

// next returns the owner that a walk asks next. Whether a peer is admitted is
// asked once, for all walks that go there together.
func (e *engine) next(w *walk, self string, admitted map[string]bool) string {
	for len(w.owners) > 0 && w.asked < maxAttempts {
		owner := w.owners[0]
		w.owners = w.owners[1:]
		if owner == self {
			return self
		}
		ok, known := admitted[owner]
		if !known {
			ok = e.node.admit(owner)
			admitted[owner] = ok
		}
		if ok {
			w.asked++
			return owner
		}
		e.node.passedOver(false, 1)
	}
	return nobody
}

// ask asks a peer, waits, and returns the walks that it was of no use to. Each
// request has the whole time that a load may take.
func (e *engine) ask(ctx context.Context, peer string, walks []*walk) []*walk {
	flights := make([]*flight, len(walks))
	for i, w := range walks {
		flights[i] = w.flight
	}
	q := e.newInquiry(ctx, peer, flights)
	q.done = make(chan struct{})
	e.node.ask(peer, q)
	select {
	case <-q.done:
	case <-ctx.Done(): // the cache was closed, which has ended the flights
		return nil
	}
	left := q.unanswered()
	return slices.DeleteFunc(walks, func(w *walk) bool { return !slices.Contains(left, w.flight) })
}

// loadFor ends fetches with loads that run here.
func (e *engine) loadFor(ctx context.Context, r *ring, walks []*walk, own bool) {
	var begun begun
	loads := make([]*flight, len(walks))
	for i, w := range walks {
		if !own {
			w.flight.shard.orphans.Add(1)
		}
		it, load, err := e.joinLoad(w.flight.key, r.version, own, &begun)
		if load == nil {
			e.store.end(w.flight, outcome{item: it, err: err, settled: true}) // from memory, or the cache was closed
		}
		loads[i] = load
	}
	e.run(ctx, begun)
	ended := make(endings, len(loads))
	waiting := 0
	for i, load := range loads {
		if load != nil {
			load.watch(ended, i)
			waiting++
		}
	}
	for range waiting {
		i := <-ended // which queueTimeout and LoadTimeout bound
		out := loads[i].outcome
		out.settled = true
		e.store.end(walks[i].flight, out)
	}
}
