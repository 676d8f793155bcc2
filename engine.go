package peercache

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/consistenthash"
	"github.com/peercache/peercache/internal/wire"
)

// The road of a Get below the typed shell: memory, flights, the key's owners,
// the loader. What a flight is is in singleflight.go, what is kept in store.go;
// requests of peers come in through serve.go.

// fetchMargin is how much longer than a load a fetch may live: the owner counts
// LoadTimeout from when its loader starts.
const fetchMargin = 2 * time.Second

// orphanTTL is how long a value is kept that was loaded here because no owner
// could be asked, in a cache that keeps no copies: without it, every Get would
// be a load until the cluster is well again.
const orphanTTL = time.Second

// nextRequest is how long a request of a long GetMany waits for the one before it to
// the same owner (arbitrary; loads that take longer than a few times 10 ms overlap).
const nextRequest = 100 * time.Millisecond

// A network is all that a cache knows of other processes. *Node is the real one;
// a test can put a deterministic one in its place.
type network interface {
	// view returns the current view of the cluster.
	view() *ring

	// members returns the URLs of all other processes, whatever their state.
	members() []string

	// get asks a peer for keys, at most wire.MaxKeys, and calls answer for each
	// that it answers, from one goroutine. It returns when the peer has finished
	// or is found silent, or ctx ends; keys not answered by then were refused.
	get(ctx context.Context, peer, cache string, keys []string, answer func(i int, a answer)) error

	// set gives a peer a value to keep, as the owner of the key.
	set(ctx context.Context, peer, cache, key string, a answer) error

	// remove has a peer drop keys, at most wire.MaxKeys.
	remove(ctx context.Context, peer, cache string, keys []string) error

	// background runs f on a goroutine that Leave waits for, unless the node has
	// left; it reports whether it does.
	background(f func()) bool

	// admit reports whether a peer is worth asking for keys. If it is, get
	// must follow: it may be the only request that is let through.
	admit(peer string) bool

	// passedOver counts keys for which a peer was asked in vain, or not asked.
	passedOver(asked bool, keys int)

	unregister(e *engine)
	log() *slog.Logger
}

// An answer is what a peer says to one key.
type answer struct {
	status wire.Status
	value  string
	ttl    time.Duration // life that remains, in whole milliseconds; 0: not to be kept
	text   string        // of an error
}

// An engine is a cache without the type of its values.
type engine struct {
	name   string
	seed   uint64 // of the hash that finds owners
	opts   Options
	batch  bool // the loader takes many keys at once
	loader loader
	gate   gate
	decode func(bytes string) (any, error) // nil for values that are bytes
	node   network                         // nil: alone for ever
	store  *store
	closed atomic.Bool

	undecodable everyMinute
}

func newEngine(name string, opts Options, batch bool) *engine {
	e := &engine{name: name, seed: consistenthash.Seed(name), opts: opts, batch: batch}
	e.gate = gate{max: opts.MaxLoads, batch: batch, start: func(c *call) { go e.call(c) }, overload: e.overload}
	var view func() *ring
	if opts.Node != nil {
		e.node = opts.Node
		view = e.node.view
	}
	e.store = newStore(e.seed, opts, view)
	return e
}

// ring returns the current view of the cluster, nil for a cache without a node.
func (e *engine) ring() *ring {
	if e.node == nil {
		return nil
	}
	return e.node.view()
}

func (e *engine) hash(key string) uint64 { return consistenthash.Hash(e.seed, key) }

func (e *engine) self() string {
	if r := e.ring(); r != nil {
		return r.url
	}
	return ""
}

func (e *engine) owner(key string) string {
	if r := e.ring(); r != nil {
		return r.owner(e.hash(key))
	}
	return ""
}

// get is the road of a Get, given what memory has: that, else a flight.
func (e *engine) get(ctx context.Context, key string, rec record, expires int64, seen sighting) (item, error) {
	var begun begun
	it, ok := e.hit(key, rec, expires, seen, &begun)
	if ok {
		e.run(ctx, begun)
		return it, absence(it)
	}
	it, f, err := e.join(ctx, key, &begun)
	e.run(ctx, begun)
	if f != nil {
		out := f.wait(ctx)
		it, err = out.item, out.err
	}
	if err != nil {
		return item{}, err
	}
	return it, absence(it)
}

// hit returns the item of what the store has got for key, if it may be served. If it
// is past its life the flight that replaces it, if it is a new one, is added to begun.
func (e *engine) hit(key string, rec record, expires int64, seen sighting, b *begun) (item, bool) {
	switch seen {
	case missing:
		return item{}, false
	case plain:
		return e.store.itemOf(rec, expires), true
	}
	it, stale, ok := e.store.judge(key, rec, expires)
	if !ok {
		e.store.shard(key).uncount(rec)
	}
	if stale {
		e.store.shard(key).staleHits.Add(1)
		if e.store.due(it) {
			_, _, _ = e.join(context.Background(), key, b) // nobody waits for it
		}
	}
	return it, ok
}

// absence is ErrNotFound for an item that remembers that there is no value.
func absence(it item) error {
	if it.absent {
		return ErrNotFound
	}
	return nil
}

// getMany is get for many keys. What its misses fetch goes out together, what
// they load comes in together, and each key shares its flight with whoever else
// wants it.
func (e *engine) getMany(ctx context.Context, keys []string) map[string]outcome {
	outs := make(map[string]outcome, len(keys))
	flights := make(map[string]*flight)
	var begun begun
	for _, key := range keys {
		if _, seen := outs[key]; seen {
			continue
		}
		rec, expires, seen := e.store.get(key)
		it, ok := e.hit(key, rec, expires, seen, &begun)
		var err error
		if !ok {
			var f *flight
			it, f, err = e.join(ctx, key, &begun)
			if f != nil {
				flights[key] = f
			}
		}
		outs[key] = outcome{item: it, err: err}
	}
	e.run(ctx, begun)
	for key, f := range flights {
		outs[key] = f.wait(ctx)
	}
	for key, out := range outs {
		if out.err == nil && out.item.absent {
			out.err = ErrNotFound
			outs[key] = out
		}
	}
	return outs
}

// begun are new flights, which somebody has to run.
type begun struct{ fetches, loads []*flight }

// run runs them, whatever becomes of ctx, of which they get the values.
func (e *engine) run(ctx context.Context, b begun) {
	if len(b.loads) > 0 {
		e.load(ctx, b.loads)
	}
	if len(b.fetches) > 0 {
		go e.fetch(ctx, b.fetches)
	}
}

// join joins the flight that brings a key, or adds a new one to begun: a load if
// this process owns the key, else a fetch.
func (e *engine) join(ctx context.Context, key string, b *begun) (item, *flight, error) {
	if err := checkKey(key); err != nil {
		return item{}, nil, err
	}
	if err := ctx.Err(); err != nil {
		return item{}, nil, err
	}
	r := e.ring()
	if r == nil {
		return e.joinLoad(key, 0, true, b)
	}
	if r.owner(e.hash(key)) == r.url {
		return e.joinLoad(key, r.version, !r.left, b)
	}
	it, f, started, err := e.store.join(fetchFlight, key, r.version, false)
	if started {
		b.fetches = append(b.fetches, f)
	}
	return it, f, err
}

// joinLoad joins the load of key, or adds a new one to begun. own says that by the
// ring of this version the node acts for the key: what it loads lives its full life.
func (e *engine) joinLoad(key string, version uint32, own bool, b *begun) (item, *flight, error) {
	it, f, started, err := e.store.join(loadFlight, key, version, own)
	if started {
		b.loads = append(b.loads, f)
	}
	return it, f, err
}

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
// for the callers' sake, and kept only as copies.
func (e *engine) fetch(ctx context.Context, flights []*flight) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer func() {
		for _, f := range flights {
			select {
			case <-f.done:
			default: // a codec is the user's code, and has ended the goroutine
				e.store.end(f, outcome{err: &PanicError{Value: errGoexit}})
			}
		}
	}()
	r := e.ring()
	walks := make([]*walk, len(flights))
	for i, f := range flights {
		e.store.begin(f, cancel)
		walks[i] = &walk{flight: f, owners: r.owners(e.hash(f.key), mayActOwners)}
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
	ended := make(chan int, len(loads))
	waiting := 0
	for i, load := range loads {
		if load != nil {
			load.watch(watcher{ended, i})
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

// ask ends fetches with a peer's answers and returns those it did not answer. Each
// request has the whole time that a load may take.
func (e *engine) ask(ctx context.Context, peer string, walks []*walk) []*walk {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(after(int64(e.opts.LoadTimeout), fetchMargin)))
	defer cancel()
	keys := make([]string, len(walks))
	for i, w := range walks {
		keys[i] = w.flight.key
		w.flight.shard.peerGets.Add(1)
	}
	answered := make([]bool, len(walks))
	err := e.node.get(ctx, peer, e.name, keys, func(i int, a answer) {
		answered[i] = answered[i] || e.accept(walks[i].flight, peer, a)
	})
	expired := err != nil && ctx.Err() != nil
	var left []*walk
	for i, w := range walks {
		if answered[i] {
			continue
		}
		w.flight.shard.peerErrors.Add(1)
		if expired {
			// It was heard from all the time, or it would have been given up long
			// ago: another node's loader would fare no better.
			e.store.end(w.flight, outcome{peer: peer, err: &PeerError{Peer: peer, Key: keys[i], Err: context.DeadlineExceeded}})
			continue
		}
		left = append(left, w)
	}
	return left
}

// accept ends a flight with a peer's answer, if that is of use.
func (e *engine) accept(f *flight, peer string, a answer) bool {
	at := now()
	out := outcome{peer: peer}
	out.item.expires = after(at, min(a.ttl, e.opts.MaxTTL))
	out.item.fleeting = a.ttl <= 0 || e.opts.HotTTL < 0
	out.item.asCopy(after(at, max(e.opts.HotTTL, 0)))
	if a.status == wire.Status_OK {
		out.item.bytes, out.item.size = a.value, uint32(len(a.value))
		if e.decode != nil {
			out.item.decoded = new(decoded)
			out.item.inflated = true
			if _, err := out.item.decoded.get(a.value, e.decode); err != nil {
				if e.undecodable.now() {
					e.node.log().Warn("peercache: a peer's values cannot be decoded; do both encode them alike?",
						"cache", e.name, "peer", peer, "err", err)
				}
				return false
			}
		}
		e.store.end(f, out)
		return true
	}
	final, err := errorOf(a.status, a.text)
	if !final {
		return false
	}
	out.err = err
	out.item.absent = errors.Is(err, ErrNotFound)
	if !out.item.absent {
		out.err = &PeerError{Peer: peer, Key: f.key, Err: err}
	}
	e.store.end(f, out)
	return true
}

// jitter is the part of its life by which an entry may end early: what was loaded
// together shall not expire together, or the origin gets all of it at once again.
const jitter = 20 // one twentieth

// life is how long a value with this ttl lives here.
func (e *engine) life(ttl time.Duration) time.Duration {
	ttl = e.capped(ttl)
	return ttl - rand.N(ttl/jitter+1)
}

// capped is a ttl within MaxTTL.
func (e *engine) capped(ttl time.Duration) time.Duration {
	if ttl <= 0 || ttl > e.opts.MaxTTL {
		return e.opts.MaxTTL
	}
	return ttl
}

func (e *engine) close() {
	if e.closed.Swap(true) {
		return
	}
	if e.node != nil {
		e.node.unregister(e)
	}
	e.store.close()
}

func (e *engine) stats() Stats {
	var s Stats
	for i := range e.store.shards {
		s.add(&e.store.shards[i].counters)
	}
	s.count(e.store.items)
	return s
}
