package peercache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// Set and Remove: the owner of a key first, then everybody. The order matters.
// A node that drops its copy asks the owner the next time; had the owner still
// the old value then, the node would keep that.

// confirmTimeout is how long Set and Remove wait for peers to confirm. It is
// less than gossip takes to declare a peer dead, and more than a pause of the
// garbage collector or a lost packet.
const confirmTimeout = 2 * time.Second

var (
	// errNotMine is a peer that answers, and cannot act for a key: by its ring it
	// may not, it has no such cache, or it has left.
	errNotMine = errors.New("peercache: the peer may not act for the key")

	errUntold = errors.New("peercache: the peer was not told")
)

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
	e.drop(keys)
	err := e.tellAll(ctx, func(ctx context.Context, t *tally) {
		r := e.ring()
		byOwner := make(map[string][]string)
		for _, key := range keys {
			if owner := r.owner(e.hash(key)); owner != r.url {
				byOwner[owner] = append(byOwner[owner], key)
			}
		}
		var wg sync.WaitGroup
		for owner, keys := range byOwner {
			wg.Go(func() { t.note(owner, e.removeAt(ctx, owner, keys)) })
		}
		wg.Wait()
		e.removeEverywhere(ctx, t, keys, "")
	})
	return errors.Join(append(bad, err)...)
}

// set stores a value at the key's owner and has all others drop theirs.
func (e *engine) set(ctx context.Context, key string, it item, ttl time.Duration) error {
	if e.closed.Load() {
		return ErrClosed
	}
	r := e.ring()
	if r == nil || r.owner(e.hash(key)) == r.url {
		e.keepSet(key, it, ttl)
		return e.tellAll(ctx, func(ctx context.Context, t *tally) {
			e.removeAtOthers(ctx, t, []string{key}, "")
		})
	}
	e.drop([]string{key})
	return e.tellAll(ctx, func(ctx context.Context, t *tally) {
		owner := r.owner(e.hash(key))
		err := e.node.set(ctx, owner, e.name, key, answer{value: it.bytes, ttl: e.capped(ttl)})
		if errors.Is(err, errNotMine) {
			// The ring is changing. Nobody is sure to be asked for the key, so
			// that nobody may keep it: a Remove.
			e.removeEverywhere(ctx, t, []string{key}, "")
			return
		}
		t.note(owner, err)
		except := owner
		if err != nil {
			except = "" // whatever it has, the new value or the old, must go
		}
		e.removeEverywhere(ctx, t, []string{key}, except)
	})
}

// keepSet stores what was set, at a node that acts for the key: perhaps by an older
// table only, so that the item is of no ring and the next hit looks. A node that has
// left acts for itself, and for no longer than a copy lives.
func (e *engine) keepSet(key string, it item, ttl time.Duration) {
	at := now()
	it.expires = after(at, e.life(ttl))
	if r := e.ring(); r != nil && r.left {
		it.ring = r.version
		it.asCopy(after(at, max(e.opts.HotTTL, 0)))
	}
	e.store.set(key, it)
}

// drop removes keys from this process.
func (e *engine) drop(keys []string) {
	for _, key := range keys {
		e.store.remove(key)
	}
}

// tellAll runs tell, which informs the peers, on a goroutine that outlives ctx,
// and waits for it or for ctx. It returns nil if all confirmed.
func (e *engine) tellAll(ctx context.Context, tell func(ctx context.Context, t *tally)) error {
	if r := e.ring(); r == nil || r.left {
		return nil
	}
	t := &tally{peers: e.node.members(), confirmed: make(map[string]bool), errs: make(map[string]error)}
	done := make(chan struct{})
	told := e.node.background(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmTimeout)
		defer cancel()
		tell(ctx, t)
		close(done)
	})
	if !told {
		return nil // the node has left meanwhile: there is nobody to tell
	}
	select {
	case <-done:
		return t.result(errUntold)
	case <-ctx.Done():
		return t.result(ctx.Err())
	}
}

// removeEverywhere has all peers but one drop keys, and this process once more:
// a Get of its own may have fetched what the owner still had.
func (e *engine) removeEverywhere(ctx context.Context, t *tally, keys []string, except string) {
	e.drop(keys)
	e.removeAtOthers(ctx, t, keys, except)
}

// removeAtOthers has all peers but one drop keys.
func (e *engine) removeAtOthers(ctx context.Context, t *tally, keys []string, except string) {
	var wg sync.WaitGroup
	for _, peer := range t.peers {
		if peer != except {
			wg.Go(func() { t.note(peer, e.removeAt(ctx, peer, keys)) })
		}
	}
	wg.Wait()
}

func (e *engine) removeAt(ctx context.Context, peer string, keys []string) error {
	for chunk := range slices.Chunk(keys, wire.MaxKeys) {
		if err := e.node.remove(ctx, peer, e.name, chunk); err != nil {
			return err
		}
	}
	return nil
}

// A tally collects what peers say to a Set or Remove.
type tally struct {
	peers []string // all that must confirm

	mu        sync.Mutex // guards the fields below
	confirmed map[string]bool
	errs      map[string]error
}

// note records what a peer said. A failure stands, also when the peer confirms
// later in the same call: others may have asked it in between.
func (t *tally) note(peer string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.errs[peer] = err
		return
	}
	t.confirmed[peer] = true
}

// result returns nil or the *PartialError; missing is the error of peers that
// have said nothing yet.
func (t *tally) result(missing error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	errs := maps.Clone(t.errs)
	for _, peer := range t.peers {
		if errs[peer] == nil && !t.confirmed[peer] {
			errs[peer] = missing
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return &PartialError{Peers: errs}
}
