package peercache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// Set, Remove and Clear. Each draws an id, applies it here, and has all others apply it;
// see coherence.go.

// shared returns what keeps the cache coherent with others, nil if there are none: it has
// no node, or its node has left.
func (e *engine) shared() *coherence {
	if r := e.ring(); r == nil || r.left {
		return nil
	}
	return e.node.coherence()
}

// remove drops keys everywhere.
func (e *engine) remove(ctx context.Context, keys []string) error {
	if e.closed.Load() {
		return ErrClosed
	}
	var bad []error
	keys = slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		err := checkKey(key)
		if err != nil {
			bad = append(bad, fmt.Errorf("%w (in Remove of %s)", err, quote(key)))
		}
		return err != nil
	})
	if len(keys) == 0 {
		return errors.Join(bad...)
	}
	c := e.shared()
	if c == nil {
		for _, key := range keys {
			e.store.remove(key)
		}
		return errors.Join(bad...)
	}
	known, until := c.audience(), after(now(), confirmTimeout)
	var removals []*removal
	for chunk := range slices.Chunk(keys, wire.MaxKeys) {
		removals = append(removals, e.drop(c, chunk))
	}
	return errors.Join(append(bad, c.publish(ctx, known, removals, until))...)
}

// clear drops everything everywhere.
func (e *engine) clear(ctx context.Context) error {
	if e.closed.Load() {
		return ErrClosed
	}
	c := e.shared()
	if c == nil {
		e.store.drop()
		return nil
	}
	known, until := c.audience(), after(now(), confirmTimeout)
	return c.publish(ctx, known, []*removal{e.drop(c, nil)}, until)
}

// drop drops keys here, or everything, and returns what others are to be told.
func (e *engine) drop(c *coherence, keys []string) *removal {
	r := c.ledger.draw(e.name, keys)
	c.ledger.apply(r)
	return r
}

// set stores a value at the key's owner and has all others drop theirs.
func (e *engine) set(ctx context.Context, key string, it item, ttl time.Duration) error {
	if e.closed.Load() {
		return ErrClosed
	}
	c := e.shared()
	if c == nil {
		e.store.set(key, e.toKeep(it, ttl))
		return nil
	}
	known, until := c.audience(), after(now(), confirmTimeout)
	r := e.ring()
	first := c.ledger.draw(e.name, []string{key})
	if r.owner(e.hash(key)) == r.url {
		e.store.put(key, first.id, e.toKeep(it, ttl))
		c.ledger.apply(first)
		e.replicate(key)
		return c.publish(ctx, known, []*removal{first}, until)
	}
	result := make(chan error, 1)
	placing := e.node.background(func() {
		removals, tried := e.place(c, r, first, it, ttl)
		for _, r := range removals {
			c.ledger.apply(r) // not before: the owner must not hear of it in another way than by the Set
		}
		// Who was given the value may get it late, and must know of the id that covers it, also
		// if only the ring knew of it.
		result <- c.publish(e.node.lifetime(), known.with(tried), removals, until)
	})
	if !placing { // the node has left meanwhile, and with it who would miss the id
		e.store.set(key, e.toKeep(it, ttl))
		return nil
	}
	select {
	case err := <-result:
		return err
	default:
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		// Here it takes effect all the same. A Get that asks the owner before the value is
		// there makes a Remove of the Set: it needs the id there, and the value comes late.
		e.store.invalidate(key, ids{first.id})
		errs := make(map[string]error)
		for _, peer := range known.peers {
			errs[peer] = ctx.Err()
		}
		if len(errs) == 0 {
			return nil
		}
		return &PartialError{Peers: errs}
	}
}

// place gives a value to the first owner of the key that takes it, and returns the
// removals that all are to be told of then, next, and more where it is not the first that
// takes it, and the peers that were tried. Each attempt has an id of its own, which covers
// those of the attempts before wherever these may still arrive; after the last has failed
// another one makes a Remove of all of them.
func (e *engine) place(c *coherence, r *ring, next *removal, it item, ttl time.Duration) (removals []*removal, tried []string) {
	key := next.keys[0]
	for _, owner := range r.owners(e.hash(key), maxAttempts) {
		removals = append(removals, next)
		if owner == r.url {
			e.store.put(key, next.id, e.toKeep(it, ttl))
			e.replicate(key)
			return removals, tried
		}
		tried = append(tried, owner)
		_, err := c.call(owner, &wire.Request{Cache: e.name, Op: &wire.Request_Set{Set: &wire.Set{
			Boot:  next.boot,
			Seq:   next.seq,
			Key:   wire.Bytes(key),
			Value: wire.Bytes(it.bytes),
			TtlMs: uint64(max(e.capped(ttl)/time.Millisecond, 1)),
		}}}, placeTimeout+transit(len(it.bytes)))
		if err == nil {
			return removals, tried
		}
		next = c.ledger.draw(e.name, next.keys)
	}
	return append(removals, next), tried
}

// placeTimeout bounds one attempt to give an owner a value, beside the time that its bytes
// are allowed for: a connection is made, and something is heard, or the owner is as good as
// dead.
const placeTimeout = dialTimeout + silenceTimeout

// toKeep is an item that was set, at a node that acts for its key: perhaps by an older
// table only, so that it is of no ring and the next hit looks. A node that has left acts
// for itself, and for no longer than a copy lives.
func (e *engine) toKeep(it item, ttl time.Duration) item {
	at := now()
	it.expires = after(at, e.life(ttl))
	if r := e.ring(); r != nil && r.left {
		it.ring = r.version
		it.asCopy(after(at, max(e.opts.HotTTL, 0)))
	}
	return it
}
