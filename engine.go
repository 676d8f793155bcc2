package peercache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
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

	// passedOver counts keys for which a peer was asked in vain.
	passedOver(keys int)

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
	loader func(ctx context.Context, key string) (item, time.Duration, error)
	decode func(bytes string) (any, error) // nil for values that are bytes
	node   network                         // nil: alone for ever
	store  *store
	closed atomic.Bool

	undecodable everyMinute
}

func newEngine(name string, opts Options) *engine {
	e := &engine{name: name, seed: consistenthash.Seed(name), opts: opts}
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

// get is the road of a Get: memory, else a flight.
func (e *engine) get(ctx context.Context, key string) (item, error) {
	if it, ok := e.hit(key); ok {
		return it, absence(it)
	}
	it, f, unsent, err := e.open(ctx, key)
	if unsent {
		go e.fetch(ctx, []*flight{f})
	}
	if f != nil {
		out := f.wait(ctx)
		it, err = out.item, out.err
	}
	if err != nil {
		return item{}, err
	}
	return it, absence(it)
}

// hit returns the item of key if it is in memory and fresh.
func (e *engine) hit(key string) (item, bool) {
	c := &e.store.shard(key).counters
	c.gets.Add(1)
	it, ok := e.store.get(key)
	if !ok {
		return item{}, false
	}
	c.hits.Add(1)
	if it.copied {
		c.hotHits.Add(1)
	}
	return it, true
}

// absence is ErrNotFound for an item that remembers that there is no value.
func absence(it item) error {
	if it.absent {
		return ErrNotFound
	}
	return nil
}

// getMany is get for many keys. What its misses fetch goes out together, and
// each key shares its flight with whoever else wants it.
func (e *engine) getMany(ctx context.Context, keys []string) map[string]outcome {
	outs := make(map[string]outcome, len(keys))
	flights := make(map[string]*flight)
	var unsent []*flight
	for _, key := range keys {
		if _, seen := outs[key]; seen {
			continue
		}
		it, ok := e.hit(key)
		var err error
		if !ok {
			var f *flight
			var send bool
			it, f, send, err = e.open(ctx, key)
			if f != nil {
				flights[key] = f
			}
			if send {
				unsent = append(unsent, f)
			}
		}
		outs[key] = outcome{item: it, err: err}
	}
	if len(unsent) > 0 {
		go e.fetch(ctx, unsent)
	}
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

// open joins or starts the flight that brings a key that was not in memory. Is
// this process the owner it is a load, which runs when open returns; else a
// fetch, and if unsent is true the caller must send it.
func (e *engine) open(ctx context.Context, key string) (it item, f *flight, unsent bool, err error) {
	if err := checkKey(key); err != nil {
		return item{}, nil, false, err
	}
	if err := ctx.Err(); err != nil {
		return item{}, nil, false, err
	}
	r := e.ring()
	if r != nil && r.owner(e.hash(key)) != r.url {
		return e.store.join(fetchFlight, key, false)
	}
	it, f, err = e.openLoad(ctx, key, r == nil || !r.left)
	return it, f, false, err
}

// openLoad joins or starts the load of key. own says that this node acts for
// the key: what it loads lives its full life.
func (e *engine) openLoad(ctx context.Context, key string, own bool) (item, *flight, error) {
	it, f, started, err := e.store.join(loadFlight, key, own)
	if started {
		e.load(ctx, f)
	}
	return it, f, err
}

// fetch brings flights to their end by asking the owners of their keys, at most
// maxAttempts each. Every process walks the same list, so that when an owner is
// dead all turn to the same next one and the key is still loaded once. Flights
// that no owner could serve are loaded here, for the callers' sake, and kept
// only as copies.
func (e *engine) fetch(ctx context.Context, flights []*flight) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.opts.LoadTimeout+fetchMargin)
	defer cancel()
	for _, f := range flights {
		e.store.begin(f, cancel)
	}
	r := e.ring()
	for attempt := range maxAttempts {
		flights = e.askOwners(ctx, r, attempt, flights)
		if len(flights) == 0 {
			return
		}
	}
	e.loadFor(ctx, flights, false)
}

// askOwners asks the owner with this number for each flight's key, all at once,
// and returns the flights that got no answer.
func (e *engine) askOwners(ctx context.Context, r *ring, attempt int, flights []*flight) []*flight {
	var left []*flight
	byOwner := make(map[string][]*flight, 1)
	for _, f := range flights {
		owners := r.owners(e.hash(f.key), attempt+1)
		if attempt >= len(owners) {
			left = append(left, f)
			continue
		}
		byOwner[owners[attempt]] = append(byOwner[owners[attempt]], f)
	}
	var (
		mu sync.Mutex // guards left while the owners are asked
		wg sync.WaitGroup
	)
	for owner, group := range byOwner {
		ask := func() {
			if owner == r.url {
				e.loadFor(ctx, group, true)
				return
			}
			unanswered := e.ask(ctx, owner, group)
			mu.Lock()
			left = append(left, unanswered...)
			mu.Unlock()
		}
		if len(byOwner) == 1 {
			ask()
			break
		}
		wg.Go(ask)
	}
	wg.Wait()
	return left
}

// loadFor ends fetch flights with loads that run here.
func (e *engine) loadFor(ctx context.Context, flights []*flight, own bool) {
	loads := make([]*flight, len(flights))
	for i, f := range flights {
		it, load, err := e.openLoad(ctx, f.key, own)
		if load == nil {
			it.fleeting = true // it is in the store
			e.store.end(f, outcome{item: it, err: err})
		}
		loads[i] = load
	}
	for i, load := range loads {
		if load == nil {
			continue
		}
		<-load.done // which LoadTimeout bounds
		out := load.outcome
		out.item.fleeting = true // the load has kept what is to be kept
		e.store.end(flights[i], out)
	}
}

// ask ends flights with a peer's answers and returns those it did not answer.
func (e *engine) ask(ctx context.Context, peer string, flights []*flight) []*flight {
	var left []*flight
	for len(flights) > 0 {
		group := flights[:min(len(flights), wire.MaxKeys)]
		flights = flights[len(group):]
		keys := make([]string, len(group))
		for i, f := range group {
			keys[i] = f.key
			e.store.shard(f.key).peerGets.Add(1)
		}
		answered := make([]bool, len(group))
		err := e.node.get(ctx, peer, e.name, keys, func(i int, a answer) {
			answered[i] = answered[i] || e.accept(group[i], peer, a)
		})
		expired := err != nil && ctx.Err() != nil
		for i, f := range group {
			if answered[i] {
				continue
			}
			e.store.shard(f.key).peerErrors.Add(1)
			if expired {
				// It was heard from all the time, or it would have been given up
				// long ago: another node's loader would fare no better.
				e.store.end(f, outcome{peer: peer, err: &PeerError{Peer: peer, Key: f.key, Err: context.DeadlineExceeded}})
				continue
			}
			left = append(left, f)
		}
	}
	if len(left) > 0 {
		e.node.passedOver(len(left))
	}
	return left
}

// accept ends a flight with a peer's answer, if that is of use.
func (e *engine) accept(f *flight, peer string, a answer) bool {
	out := outcome{peer: peer, item: item{ring: e.ring().version}}
	out.item.expires = after(now(), a.ttl)
	out.item.fleeting = a.ttl <= 0 || e.opts.HotTTL < 0
	out.item.asCopy(after(now(), e.opts.HotTTL))
	if a.status == wire.Status_OK {
		out.item.bytes, out.item.size = a.value, len(a.value)
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

// load runs the loader for a flight, on a goroutine of its own and on a context
// that no caller ends. At LoadTimeout the flight ends whether or not the loader
// heeds its context; what it brings later is dropped.
func (e *engine) load(ctx context.Context, f *flight) {
	var version uint32
	if r := e.ring(); r != nil {
		version = r.version // before own is looked at: a newer ring looks again
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.opts.LoadTimeout)
	e.store.begin(f, cancel)
	counters := &e.store.shard(f.key).counters
	counters.loads.Add(1)
	stop := context.AfterFunc(ctx, func() {
		err := fmt.Errorf("peercache: the load took longer than LoadTimeout (%v): %w", e.opts.LoadTimeout, context.DeadlineExceeded)
		if e.store.end(f, outcome{err: err}) {
			counters.loadErrors.Add(1)
		}
	})
	go func() {
		start := now()
		var out outcome
		returned := false
		defer func() { // also when the loader panics or ends the goroutine
			if !returned {
				v := recover()
				if v == nil {
					v = errGoexit
				}
				out.err = e.panicked(v)
			}
			counters.loadNanos.Add(now() - start)
			out.item.ring = version
			stop()
			failed := out.err != nil && !out.item.absent
			if e.store.end(f, out) && failed {
				counters.loadErrors.Add(1)
			}
			cancel()
		}()
		it, ttl, err := e.loader(ctx, f.key)
		out = e.keepFor(it, ttl, err)
		returned = true
	}()
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
func (e *engine) keepFor(it item, ttl time.Duration, err error) outcome {
	at := now()
	hot := e.opts.HotTTL
	if hot < 0 {
		hot = orphanTTL
	}
	out := outcome{item: it, err: err, copyUntil: after(at, hot)}
	if err != nil {
		out.item.absent = errors.Is(err, ErrNotFound)
		if ttl == 0 {
			ttl = e.opts.NotFoundTTL
		}
		out.item.fleeting = !out.item.absent || ttl <= 0
	} else {
		out.item.fleeting = ttl < 0
	}
	out.item.expires = after(at, e.life(ttl))
	return out
}

// life is how long a value with this ttl lives.
func (e *engine) life(ttl time.Duration) time.Duration {
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
	items := e.store.items.Stats()
	s.Evictions, s.Expirations = items.Evictions, items.Expirations
	s.Entries, s.Bytes = int64(e.store.items.Len()), e.store.items.Bytes()
	return s
}
