package peercache

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/consistenthash"
	"github.com/peercache/peercache/internal/wire"
)

// The road of a Get below the typed shell: memory, then a flight. How a flight
// fetches is in fetch.go, how one loads in load.go, what a flight is in singleflight.go,
// what is kept in store.go; requests of peers come in through serve.go.

// orphanTTL is how long a value is kept that was loaded here because no owner
// could be asked, in a cache that keeps no copies: without it, every Get would
// be a load until the cluster is well again.
const orphanTTL = time.Second

// A network is all that a cache knows of other processes. *Node is the real one;
// a test can put a deterministic one in its place.
type network interface {
	// view returns the current view of the cluster.
	view() *ring

	// audience returns who has to be told of invalidations.
	audience() audience

	// departed reports whether a process that was in the audience has left, and is not
	// only dead, and when that was noticed.
	departed(peer string) (at int64, left bool)

	// alive reports whether the process that drew this number when it started is known
	// and believed alive.
	alive(boot uint64) bool

	// ask sends an inquiry, of at most wire.MaxKeys keys, and does not wait. The
	// inquiry hears what the peer answers and, in any case, an end: when the peer has
	// finished, has refused, is found dead or silent, or takes longer than it may.
	ask(peer string, q *inquiry)

	// call sends a peer a request that is no inquiry, and returns its answer. An answer
	// that refuses is an error. ctx bounds it; breakers have no part in it.
	call(ctx context.Context, peer string, req *wire.Request) (*wire.Response, error)

	// coherence returns what keeps the process's caches coherent with those of others.
	coherence() *coherence

	// moves returns what sends entries to other processes.
	moves() *mover

	// dropAll empties all caches of the process, and forgetIDs has them forget the
	// invalidations from before a time.
	dropAll()
	forgetIDs(before int64)

	// lifetime ends when the node has left.
	lifetime() context.Context

	// background runs f on a goroutine that Leave waits for, unless the node has
	// left; it reports whether it does.
	background(f func()) bool

	// admit reports whether a peer is worth asking for keys. If it is, ask
	// must follow: it may be the only request that is let through.
	admit(peer string) bool

	// underWay returns how many inquiries wait for a peer.
	underWay(peer string) int32

	// healthy reports whether a peer has not failed lately.
	healthy(peer string) bool

	// passedOver counts keys for which a peer was asked in vain, or not asked.
	passedOver(asked bool, keys int)

	unregister(e *engine)
	log() *slog.Logger
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

	// Of a cache with replicas, else nil.
	hedger *hedger
	meter  *meter
	hot    *hotlist

	undecodable everyMinute
}

func newEngine(name string, opts Options, batch bool) *engine {
	e := &engine{name: name, seed: consistenthash.Seed(name), opts: opts, batch: batch}
	e.gate = gate{max: opts.MaxLoads, batch: batch, start: func(c *call) { go e.call(c) }, overload: e.overload}
	if opts.Node != nil {
		e.node = opts.Node
	}
	e.store = newStore(e.seed, opts, e.node)
	e.readReplicas()
	return e
}

// readReplicas has a cache that has replicas read them too.
func (e *engine) readReplicas() {
	if e.node != nil && e.opts.Replicas > 0 {
		e.hedger, e.meter, e.hot = newHedger(e), new(meter), newHotlist()
	}
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
	if !ok && e.fenced(ctx) {
		it, ok = e.store.fresh(key)
	}
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
	it, stale, ok := e.store.judge(key, rec, expires, now())
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

// fenced reports whether the memory was behind the fence, and is not any more: it waits
// for that, if there is one.
func (e *engine) fenced(ctx context.Context) bool {
	return e.node != nil && e.store.fence.isUp() && e.store.fence.wait(ctx)
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
	e.fenced(ctx)
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
type begun struct {
	fetch   begunFetch   // most Gets begin no more than one
	fetches []begunFetch // beside that
	loads   []*flight
}

// A begunFetch is a new fetch, and the first owner of its key.
type begunFetch struct {
	flight *flight
	owner  string
}

func (b *begun) add(f begunFetch) {
	if b.fetch.flight == nil {
		b.fetch = f
		return
	}
	b.fetches = append(b.fetches, f)
}

// run runs them, whatever becomes of ctx, of which they get the values. It does not wait.
func (e *engine) run(ctx context.Context, b begun) {
	if len(b.loads) > 0 {
		e.load(ctx, b.loads)
	}
	switch {
	case b.fetch.flight == nil:
	case len(b.fetches) == 0:
		if peer := e.source(b.fetch); e.node.admit(peer) {
			q := e.newInquiryOf(ctx, peer, b.fetch.flight)
			q.held = peer != b.fetch.owner
			e.node.ask(peer, q)
			e.hedger.watch(peer, b.fetch.flight)
			return
		}
		go e.fetch(ctx, "", []*flight{b.fetch.flight})
	default:
		e.fetchAll(ctx, append(b.fetches, b.fetch))
	}
}

// fetchAll sends one request to each owner. What does not fit one, or cannot go to the
// first owner, is left to a goroutine.
func (e *engine) fetchAll(ctx context.Context, fetches []begunFetch) {
	byOwner := make(map[string][]*flight)
	for _, f := range fetches {
		byOwner[f.owner] = append(byOwner[f.owner], f.flight)
	}
	for owner, flights := range byOwner {
		if len(flights) <= wire.MaxKeys && e.node.admit(owner) {
			e.node.ask(owner, e.newInquiry(ctx, owner, flights))
			e.hedger.watch(owner, flights...)
			continue
		}
		go e.fetch(ctx, "", flights)
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
	owner := r.owner(e.hash(key))
	if owner == r.url {
		return e.joinLoad(key, r.version, !r.left, b)
	}
	it, f, started, err := e.store.join(fetchFlight, key, r.version, false)
	if started {
		b.add(begunFetch{f, owner})
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
