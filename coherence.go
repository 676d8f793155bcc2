package peercache

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/consistenthash"
	"github.com/peercache/peercache/internal/wire"
)

// What keeps the memories of a cluster's processes coherent: the ledger of invalidations,
// their delivery, catching up with what was missed, and the fence. Each process has one;
// what caches do with it is in invalidate.go.
//
// In short: an invalidation has an id and goes to all members. Who applies it drops the
// key, detaches its flights, and remembers the id with the key for a minute. A fetch tells
// the peer which ids that must have applied to the key, and the peer applies what it does
// not know of them before it answers. So nobody reads from one that lags what was removed,
// whatever became of the messages. For what is not remembered with keys any more, the
// ledger has how far each process's invalidations are applied, and a peer that has not
// applied what its asker has answers that it is behind. No clock is compared, nobody
// leads, and the processes need not agree on their rings.

// A coherence keeps one process's caches coherent with the others'.
type coherence struct {
	net    network
	ledger *ledger
	post   postman
	circle circle
	fence  *fence
	catch  catcher

	// vetting reports whether gossip has to tell of a process before it is sent anything;
	// nil for never.
	vetting func() bool

	started sync.Once
	partial atomic.Int64 // calls that not all have confirmed
}

func newCoherence(net network, boot uint64, cache func(name string) *engine) *coherence {
	c := &coherence{net: net, ledger: newLedger(boot, cache)}
	c.post.with = c
	c.catch.with, c.catch.lagging = c, now()
	c.fence = newFence(c.catch.wake)
	return c
}

// start has the process catch up and make sure that it runs, from when it has peers on.
func (c *coherence) start() {
	c.started.Do(func() {
		c.fence.start()
		c.catch.start()
	})
}

// stop ends that, when the process has left.
func (c *coherence) stop() {
	c.fence.stop()
	c.catch.stop()
}

// meet has a peer that is new, or back, told what it was not, and asked what it knows.
func (c *coherence) meet(peer string) {
	c.post.knock(peer)
	if !c.ledger.empty() { // then it is the one to ask
		c.catch.meet(peer)
	}
}

// welcome has a cache that is new remember the invalidations of the last minute.
func (c *coherence) welcome(e *engine) {
	for _, r := range c.ledger.since(e.name, now()-int64(idsLife)) {
		e.store.apply(r)
	}
}

// An audience is who has to be told of an invalidation.
type audience struct {
	peers []string // URLs of all other processes, whatever their state
	hash  uint64   // of the URLs of all processes, this one's too
}

// with adds others to an audience, which may not be in it any more.
func (a audience) with(others []string) audience {
	for _, peer := range others {
		if !slices.Contains(a.peers, peer) {
			a.peers = append(slices.Clip(a.peers), peer)
			a.hash += consistenthash.Seed(peer) // in any order
		}
	}
	return a
}

// audience returns whom gossip knows, and who lives though it has lost them.
func (c *coherence) audience() audience {
	known := c.net.audience() // first: see circle.turn
	return known.with(c.returning())
}

// returning returns who lives though gossip has lost them.
func (c *coherence) returning() []string {
	return slices.DeleteFunc(c.circle.living(), func(peer string) bool {
		_, left := c.net.departed(peer)
		return left
	})
}

// members returns the URLs of all that this process knows, itself among them.
func (c *coherence) members() []string {
	return append(slices.Clone(c.audience().peers), c.net.view().url)
}

// call sends a peer a request and returns its answer.
func (c *coherence) call(peer string, req *wire.Request, timeout time.Duration) (*wire.Response, error) {
	ctx, cancel := context.WithTimeoutCause(c.net.lifetime(), timeout, errSilent)
	defer cancel()
	return c.net.call(ctx, peer, req)
}

// publish has all others apply removals, those that were known when the call began, and
// waits until they have, until ctx ends or it is too late. The removals go on being
// delivered then. They are applied here, so that who asks from now on what it missed hears
// of them; who did so since the call began is told:
//
//  1. a Remove begins, and nobody lives whom gossip has lost;
//  2. a process that has does, asks, and is answered without the Remove;
//  3. the Remove is applied here (TestRemoveTellsWhoAsksWhileItBegins).
func (c *coherence) publish(ctx context.Context, known audience, removals []*removal, until int64) error {
	t := newTally(c.net.view().url, known.with(c.returning()), len(removals))
	t.more = func(peers []string) { c.post.send(peers, removals, t) }
	t.more(t.known)
	select {
	case <-t.done:
		return nil
	default:
	}
	missing := errUntold
	timer := time.NewTimer(max(time.Duration(until-now()), 0))
	defer timer.Stop()
	select {
	case <-t.done:
	case <-timer.C:
	case <-ctx.Done():
		missing = ctx.Err()
	case <-c.net.lifetime().Done():
		missing = errLeft
	}
	err := t.result(missing)
	if err != nil {
		c.partial.Add(1)
	}
	return err
}

// current reports whether this process may answer a peer from its memory: it is not behind
// the fence, and has caught up with the peer.
func (c *coherence) current(aged ids, peer string) bool {
	return c.caughtUp(aged, peer) && !c.fence.isUp()
}

// caughtUp reports whether this process has applied what a peer does not remember key by
// key. If it has not, it asks for it.
func (c *coherence) caughtUp(aged ids, peer string) bool {
	if c.ledger.covers(aged) {
		return true
	}
	c.catch.behind(peer)
	return false
}

// agedOf returns what a peer wants to be applied before its request is answered, nil if the
// request does not say. More processes than are spoken of are an error: a part of them would
// not be all.
func agedOf(req *wire.Request) (ids, error) {
	if len(req.GetAged().GetBoots()) > maxBoots {
		return nil, fmt.Errorf("%w: more than %d processes", errMalformed, maxBoots)
	}
	return idsOf(req.GetAged()), nil
}

// serve does what a peer asks for, to whom this process is of use only if it has applied
// aged. It does not wait.
func (c *coherence) serve(req *wire.Request, aged ids, peer string) *wire.Response {
	resp := &wire.Response{Id: req.GetId()}
	refuse := func(text string, args ...any) *wire.Response {
		resp.Status, resp.Text = wire.Status_BAD_REQUEST, clip(fmt.Sprintf(text, args...))
		return resp
	}
	switch op := req.GetOp().(type) {
	case *wire.Request_Set:
		e := c.ledger.cache(req.GetCache())
		if e == nil {
			resp.Status = wire.Status_UNKNOWN_CACHE
			return resp
		}
		if !c.current(aged, peer) {
			resp.Status = wire.Status_BEHIND
			return resp
		}
		resp.Status = e.accepts(op.Set)
	case *wire.Request_Peek, *wire.Request_Push:
		resp.Status = c.serveHandoff(req, aged, resp)
	case *wire.Request_Invalidate:
		removals, err := removalsOf(op.Invalidate.GetRecords())
		if err != nil {
			return refuse("%v", err)
		}
		for _, r := range removals {
			c.ledger.apply(r)
		}
		if c.audience().hash != op.Invalidate.GetMembers() {
			resp.Members = c.members()
		}
	case *wire.Request_Sync:
		if len(op.Sync.GetApplied().GetBoots()) > maxBoots {
			return refuse("more than %d processes", maxBoots)
		}
		theirs := idsOf(op.Sync.GetApplied())
		if !c.circle.hear(peer) { // first: what the answer does not have the peer is told, or it has to know
			resp.Members = c.members()
		}
		resp.Synced = c.ledger.answer(theirs, op.Sync.GetFresh())
		c.post.knock(peer)
		if !c.ledger.covers(theirs) {
			c.catch.meet(peer)
		}
	default:
		return refuse("this node does not know what is asked")
	}
	return resp
}

// serveHandoff answers a peek, or keeps what is pushed. A process that has not heard yet
// what was removed lately keeps nothing of others.
func (c *coherence) serveHandoff(req *wire.Request, aged ids, resp *wire.Response) wire.Status {
	e := c.ledger.cache(req.GetCache())
	push, peek := req.GetPush(), req.GetPeek()
	switch {
	case e == nil:
		return wire.Status_UNKNOWN_CACHE
	case len(peek.GetKeys()) > wire.MaxKeys || len(push.GetEntries()) > wire.MaxKeys || len(push.GetApplied().GetBoots()) > maxBoots:
		return wire.Status_BAD_REQUEST
	case !c.fence.open(now()): // asked exactly: what waits here may be from before a pause
		return wire.Status_BEHIND
	case peek != nil && !c.ledger.covers(aged):
		return wire.Status_BEHIND
	case push != nil && (c.ledger.isFresh() || !c.ledger.coveredBy(idsOf(push.GetApplied()))):
		return wire.Status_BEHIND
	case peek != nil:
		e.servePeek(peek, resp)
	default:
		e.servePush(push)
		resp.Mark = uint64(now())
	}
	return wire.Status_OK
}

// toWire is how a removal travels.
func (r *removal) toWire() *wire.Record {
	w := &wire.Record{Boot: r.boot, Seq: r.seq, Cache: r.cache, Clear: len(r.keys) == 0}
	for _, key := range r.keys {
		w.Keys = append(w.Keys, wire.Bytes(key))
	}
	return w
}

// removalsOf undoes toWire for what a peer sent. The messages' memory is theirs from here
// on.
func removalsOf(records []*wire.Record) ([]*removal, error) {
	removals := make([]*removal, len(records))
	keys := 0
	for i, w := range records {
		if w.GetSeq() == 0 || !validName.MatchString(w.GetCache()) || w.GetClear() != (len(w.GetKeys()) == 0) {
			return nil, fmt.Errorf("peercache: record %d of %d makes no sense", i, len(records))
		}
		if keys += len(w.GetKeys()); keys > maxSyncKeys {
			return nil, fmt.Errorf("peercache: more than %d keys", maxSyncKeys)
		}
		r := &removal{id: id{w.GetBoot(), w.GetSeq()}, cache: w.GetCache(), at: now()}
		for _, k := range w.GetKeys() {
			key := wire.String(k)
			if err := checkKey(key); err != nil {
				return nil, err
			}
			r.keys = append(r.keys, key)
		}
		removals[i] = r
	}
	return removals, nil
}
