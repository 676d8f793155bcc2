// Package peercache lets the processes of a service share one cache. Each
// process embeds it; there is no server to run. Gossip tells the processes of
// each other, consistent hashing gives every key one owner, a miss is loaded
// once by the owner however many callers wait in however many processes, and
// everybody else fetches the value from the owner over HTTP.
//
// # The life of a Get
//
// A value that is in this process's memory and fresh is returned. Else the
// callers of one key share one flight, each waiting on its own context. The
// flight asks the key's owner, which is found without talking to anyone: all
// processes compute the same table from the same members. The owner answers
// from its memory or runs the loader, once for all who ask. What this process
// got it keeps for a while as a copy. If the owner is dead or silent the next
// owner in line acts for it, the same one for everybody; if that fails too the
// loader runs here. An error of the loader is an answer like any other: it
// travels back, and nobody else tries.
//
// # A cache for one process, and for many
//
//	users := peercache.New("users", peercache.TTL(time.Minute, db.User), nil)
//	u, err := users.Get(ctx, "gopher")
//
// is all it takes within one process. To share the cache, make a [Node] in each
// process, mount its handler, and let it [Node.Join] the others.
//
// Package cachetest runs a whole cluster in memory, for tests.
package peercache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"regexp"
	"time"
)

// A Loader produces the value for a key, on the node that owns it, once however
// many callers wait. It is called concurrently for different keys.
//
// The value is served for ttl; 0 means [Options].MaxTTL, and a negative ttl
// gives it to the callers that wait and keeps nothing. An error that is or wraps
// [ErrNotFound] says that the key has no value: a ttl above 0 beside it remembers
// that for ttl, 0 means Options.NotFoundTTL. Other errors reach the callers that
// wait, on every node, and are not remembered.
//
// ctx ends at Options.LoadTimeout and when the cache is closed, never because
// callers went away: the value will be wanted again. It carries the values of the
// local call that began the load, if there was one; they do not cross the wire
// and may have outlived their request, so that a transaction has no place there.
//
// A loader that panics or calls runtime.Goexit gives its callers a [*PanicError].
type Loader[V any] func(ctx context.Context, key string) (v V, ttl time.Duration, err error)

// A BatchLoader loads many keys in one call: one query, one request. The keys are
// those that this node owns of one GetMany, or of several callers whose loads had
// to wait for their turn; a single Get calls it with one key.
//
// A key absent from vs is not found, which is remembered for Options.NotFoundTTL.
// Beside an error, the keys that are in vs have been loaded all the same, and the
// others have failed with it. All else is as for a [Loader]; neither keys nor vs
// may be changed after it returns.
type BatchLoader[V any] func(ctx context.Context, keys []string) (vs map[string]V, ttl time.Duration, err error)

// TTL returns a Loader that serves what load returns for ttl. It remembers a
// key that is not found only as [Options].NotFoundTTL says.
func TTL[V any](ttl time.Duration, load func(ctx context.Context, key string) (V, error)) Loader[V] {
	if load == nil {
		panic("peercache: TTL needs a load function")
	}
	return func(ctx context.Context, key string) (V, time.Duration, error) {
		v, err := load(ctx, key)
		if err != nil {
			return v, 0, err
		}
		return v, ttl, nil
	}
}

// Options configures a cache. A nil *Options and the zero value of each field
// mean the defaults. New copies it.
//
// The nodes of a cluster should give a cache the same options, but nothing
// breaks while they differ, as during a deploy: each process limits what it
// holds itself.
type Options struct {
	// Node is this process's place in a cluster. Nil makes a cache for this
	// process alone; it owns no goroutine and needs no Close.
	Node *Node

	// MaxBytes bounds the keys, values and bookkeeping held by this process,
	// at every moment. Default 64 MiB; negative keeps nothing.
	MaxBytes int64

	// MaxTTL caps the life of any entry. Default 1 hour, also if negative.
	MaxTTL time.Duration

	// NotFoundTTL is how long it is remembered that a key was not found, where
	// the loader does not say. Default 0: not at all.
	NotFoundTTL time.Duration

	// HotTTL is how long a copy of another node's entry may be served.
	// Default 10 seconds; negative keeps no copies.
	HotTTL time.Duration

	// StaleFor is how much longer than its life an entry may be served, by a
	// node that may act for its key, while one load in the background replaces
	// it, or while loads fail: then another is tried after 0.1 seconds,
	// doubling to 5. A key that was removed is never served, and a copy of
	// another node's entry never after its end. Default 0: not at all.
	StaleFor time.Duration

	// Replicas is how many other nodes hold each entry that this node owns too, in other
	// zones as far as there are any. They get it in the background, keep it for its full
	// life within their MaxBytes, and answer when the owner is gone, so that its death costs
	// the origin next to nothing, and also when it takes more than 5 to 50 ms, depending on
	// how long fetches take usually. A replica is no copy: HotTTL does not concern it.
	// Default 0; New panics beyond 2. All nodes should have the same.
	Replicas int

	// MaxLoads is how many calls of the loader may run at once in this process.
	// Four times as many keys may wait for their turn, each for at most a
	// second; beyond that is ErrOverloaded. A GetMany that finds nobody waiting
	// may have more of them wait. Default 256; negative means no limit.
	MaxLoads int

	// LoadTimeout is how long a call of the loader may take. Default 10
	// seconds, also if negative.
	LoadTimeout time.Duration

	// Codec turns values into bytes and back. By default []byte, string and
	// ByteView are taken as they are, protocol buffer messages use Proto, and
	// all else JSON.
	Codec Codec
}

const (
	defaultMaxBytes    = 64 << 20
	defaultMaxTTL      = time.Hour
	defaultHotTTL      = 10 * time.Second
	defaultLoadTimeout = 10 * time.Second
	defaultMaxLoads    = 256
	maxReplicas        = 2

	// longest is what MaxTTL and StaleFor mean at most, 73 years, so that the end of
	// a life and of the staleness after it fits an int64 of nanoseconds: the store
	// keeps their sum, and the first must follow from it.
	longest = math.MaxInt64 / 4
)

// withDefaults returns a copy of o in which every field says what it means.
func (o *Options) withDefaults() Options {
	var opts Options
	if o != nil {
		opts = *o
	}
	checkCodec(opts.Codec)
	if opts.Replicas < 0 || opts.Replicas > maxReplicas {
		panic(fmt.Sprintf("peercache: Options.Replicas is %d: it may be 0 to %d", opts.Replicas, maxReplicas))
	}
	if opts.MaxBytes == 0 {
		opts.MaxBytes = defaultMaxBytes
	}
	if opts.MaxTTL <= 0 {
		opts.MaxTTL = defaultMaxTTL
	}
	opts.MaxTTL = min(opts.MaxTTL, longest)
	if opts.HotTTL == 0 {
		opts.HotTTL = defaultHotTTL
	}
	if opts.LoadTimeout <= 0 {
		opts.LoadTimeout = defaultLoadTimeout
	}
	switch {
	case opts.MaxLoads == 0:
		opts.MaxLoads = defaultMaxLoads
	case opts.MaxLoads < 0:
		opts.MaxLoads = math.MaxInt32
	}
	opts.StaleFor = min(max(opts.StaleFor, 0), longest)
	return opts
}

// A Cache holds values of type V by key. All its methods are safe for concurrent
// use. Keys have 1 to 1,024 bytes, any bytes; encoded values have up to 16 MiB.
//
// Values of type []byte are copied on their way in and out; ByteView and string
// are not. Any other V is encoded once, when it is loaded or set, and decoded
// once for each process that reads it; the decoded value is shared by all of its
// readers, who must not change it. A cache without a node encodes it too, for that
// is its size, but keeps the loader's own value.
//
// Entries end up to 5 % before their time at random, so that what was loaded
// together does not expire together, and never after it.
type Cache[V any] struct {
	engine *engine
	store  *store // the engine's
	form   form[V]
}

var validName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// New returns a cache whose values come from load. The name tells the caches of
// a node apart, and all nodes must use the same for the same cache: 1 to 64 of
// A-Z a-z 0-9 . _ and -. A value whose encoding changes needs a new name.
//
// New panics if load is nil, the name is bad, a cache of that name exists on the
// node, Replicas is out of range, or only one half of a Codec is given.
func New[V any](name string, load Loader[V], opts *Options) *Cache[V] {
	if load == nil {
		panic(fmt.Sprintf("peercache: New(%q) needs a loader", name))
	}
	return newCache(name, opts, false, func(c *Cache[V]) loader {
		return func(ctx context.Context, keys []string) []loaded {
			v, ttl, err := load(ctx, keys[0])
			return []loaded{c.packed(v, ttl, err)}
		}
	})
}

// NewBatch is New for a loader that takes many keys at once.
func NewBatch[V any](name string, load BatchLoader[V], opts *Options) *Cache[V] {
	if load == nil {
		panic(fmt.Sprintf("peercache: NewBatch(%q) needs a loader", name))
	}
	return newCache(name, opts, true, func(c *Cache[V]) loader {
		return func(ctx context.Context, keys []string) []loaded {
			vs, ttl, err := load(ctx, keys)
			all := make([]loaded, len(keys))
			for i, key := range keys {
				v, ok := vs[key]
				switch {
				case ok:
					all[i] = c.packed(v, ttl, nil)
				case err != nil:
					all[i].err = err
				default:
					all[i].err = ErrNotFound
				}
			}
			return all
		}
	})
}

// newCache is what New and NewBatch share. The loader packs values for the cache
// that it is made for.
func newCache[V any](name string, opts *Options, batch bool, load func(*Cache[V]) loader) *Cache[V] {
	if !validName.MatchString(name) {
		panic(fmt.Sprintf("peercache: cache name %q is not 1 to 64 of A-Z a-z 0-9 . _ -", name))
	}
	o := opts.withDefaults()
	c := &Cache[V]{form: formOf[V](o.Codec)}
	c.engine = newEngine(name, o, batch)
	c.store = c.engine.store
	c.engine.loader = load(c)
	if decode := c.form.decode; decode != nil {
		c.engine.decode = func(bytes string) (any, error) { return decode(bytes) }
	}
	if o.Node != nil && !o.Node.register(c.engine) {
		panic(fmt.Sprintf("peercache: the node has a cache named %q already", name))
	}
	if o.Node != nil {
		o.Node.coherent.welcome(c.engine)
	}
	return c
}

// Get returns the value for key, from memory or by a load.
//
// It waits no longer than ctx and then returns ctx's error; the load goes on for
// others. The loader's error is returned as it is, or within a [*PeerError] if
// the loader ran on another node. A key that has no value gives an error that
// is [ErrNotFound].
func (c *Cache[V]) Get(ctx context.Context, key string) (V, error) {
	rec, expires, seen := c.store.get(key)
	if seen == plain && c.form.view != nil && rec.flags&absentRecord == 0 {
		return c.form.view(rec.bytes()), nil // where most Gets end
	}
	it, err := c.engine.get(ctx, key, rec, expires, seen)
	if err != nil {
		var zero V
		return zero, err
	}
	v, err := c.unpack(key, it)
	if err != nil && c.engine.node != nil { // bytes of another process, which are dropped
		if it, err = c.engine.get(ctx, key, record{}, 0, missing); err == nil {
			return c.unpack(key, it)
		}
	}
	return v, err
}

// GetMany returns the values for keys, as Get does for one, with one request to
// each node that owns some of them. Keys that are not found are left out.
//
// The map holds whatever could be had, also beside an error. The error joins one
// [*PeerError] for each key that failed, and errors.Is and errors.As see
// through it.
func (c *Cache[V]) GetMany(ctx context.Context, keys []string) (map[string]V, error) {
	values := make(map[string]V, len(keys))
	var errs []error
	for key, out := range c.engine.getMany(ctx, keys) {
		if out.err == nil {
			v, err := c.unpack(key, out.item)
			if err == nil {
				values[key] = v
				continue
			}
			out.err = err
		}
		if out.item.absent {
			continue
		}
		if out.peer == "" {
			out.err = &PeerError{Peer: c.engine.self(), Key: key, Err: out.err}
		}
		errs = append(errs, out.err)
	}
	return values, errors.Join(errs...)
}

// Peek returns the value for key if this process holds it and it is fresh. It
// asks nobody, loads nothing, and counts nothing.
func (c *Cache[V]) Peek(key string) (V, bool) {
	var zero V
	it, ok := c.store.peek(key)
	if !ok || it.absent {
		return zero, false
	}
	v, err := c.unpack(key, it)
	return v, err == nil
}

// Set stores v for key at the node that owns it and then has all others drop
// what they hold. ttl is as a loader's: 0 means MaxTTL, and a negative one
// removes the key. The value replaces what a load that began before would bring.
//
// When Set returns nil no process of the cluster serves what was there before: a Get
// that starts afterwards, anywhere, returns v, or what a later load or Set brought. If the
// key's owner does not take the value, being silent, or not the owner by its own view, the
// next one in line is tried, and then Set acts as a Remove. So it may when ctx ends before
// the owner has the value. All else is as for [Cache.Remove].
//
// Prefer Remove where several writers change the same thing: the value of a
// writer that was overtaken may arrive last.
func (c *Cache[V]) Set(ctx context.Context, key string, v V, ttl time.Duration) error {
	if ttl < 0 {
		return c.Remove(ctx, key)
	}
	if err := checkKey(key); err != nil {
		return err
	}
	it, err := c.pack(v)
	if err != nil {
		return err
	}
	return c.engine.set(ctx, key, it, ttl)
}

// Remove drops keys in all processes of the cluster, and with them whatever a load that
// is under way would bring. Keys that nobody holds are no error.
//
// When Remove returns nil, every process of the cluster, as this one and those that it
// tells know it, has confirmed: a Get that starts there afterwards returns a value whose
// load began after Remove did. So change the origin first, and then call Remove.
//
// A [*PartialError] names the processes that have not confirmed within 2 seconds. In this
// process the promise holds all the same: it reads the keys from nobody who has not
// confirmed. Such a process may go on serving what it has, a copy for HotTTL at most, an
// entry that it owns to the end of its life. It is told again and again, for ten minutes,
// until it confirms or leaves, so that there is nothing to do about the error but to wait
// where that matters. A process that was cut off, for however long, learns within seconds
// of its return what it has missed.
//
// ctx bounds only the wait: the keys are dropped here, and the others are told, even if
// it has ended. One call for many keys is cheaper than many calls.
func (c *Cache[V]) Remove(ctx context.Context, keys ...string) error {
	return c.engine.remove(ctx, keys)
}

// Clear drops everything in all processes of the cluster, with the promises of
// [Cache.Remove] for every key. It takes no longer for a full cache than for an empty one.
func (c *Cache[V]) Clear(ctx context.Context) error { return c.engine.clear(ctx) }

// Resize changes [Options].MaxBytes while the cache is in use: 0 means the default,
// and a negative number keeps nothing. When it returns, what this process holds is
// within the new bound. Other nodes keep theirs.
func (c *Cache[V]) Resize(maxBytes int64) {
	if maxBytes == 0 {
		maxBytes = defaultMaxBytes
	}
	c.store.items.Resize(maxBytes, now())
}

// Close drops what the cache holds, ends the contexts of its loads, and frees
// its name on the node. Whoever waits or calls later gets [ErrClosed]; loads that
// a Set or Remove has overtaken end by themselves, for those who wait for them.
// Closing is optional, and closing again does nothing.
func (c *Cache[V]) Close() { c.engine.close() }

// Name returns the name given to New.
func (c *Cache[V]) Name() string { return c.engine.name }

// Owner returns the URL of the node that owns key: this one before it joins and
// after it leaves, "" for a cache without a node.
func (c *Cache[V]) Owner(key string) string { return c.engine.owner(key) }

// Keys iterates, in no order, over the keys whose values this process holds,
// copies included. It counts as no use, and the loop's body may call the cache.
func (c *Cache[V]) Keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		for key := range c.store.items.All(now()) {
			if it, ok := c.store.peek(key); ok && !it.absent && !yield(key) {
				return
			}
		}
	}
}

// Stats returns what the cache has counted, and how much it holds.
func (c *Cache[V]) Stats() Stats { return c.engine.stats() }

// packed is what a loader returned, with the value as an item.
func (c *Cache[V]) packed(v V, ttl time.Duration, err error) loaded {
	if err != nil {
		return loaded{ttl: ttl, err: err}
	}
	it, err := c.pack(v)
	return loaded{item: it, ttl: ttl, err: err}
}

// pack makes an item of a value.
func (c *Cache[V]) pack(v V) (item, error) {
	bytes, err := c.form.encode(v)
	if err != nil {
		return item{}, err
	}
	if err := checkValue(len(bytes)); err != nil {
		return item{}, err
	}
	it := item{bytes: bytes, size: uint32(len(bytes))}
	switch {
	case c.form.view != nil:
	case c.engine.node == nil:
		it.bytes, it.decoded = "", madeOf(v)
	default:
		it.decoded = new(decoded)
	}
	return it, nil
}

// unpack returns the value of an item. The first reader of an item in this
// process decodes it for all.
func (c *Cache[V]) unpack(key string, it item) (V, error) {
	if c.form.view != nil {
		return c.form.view(it.bytes), nil
	}
	decoded, err := it.decoded.get(it.bytes, c.engine.decode)
	if err != nil {
		c.store.forget(key) // the next Get may find better bytes
		var zero V
		return zero, err
	}
	if it.bytes != "" && !it.inflated {
		c.store.inflate(key, it)
	}
	v, _ := decoded.(V) // only a nil of an interface type is no V
	return v, nil
}
