package consul

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/peercache/peercache"
)

// Asking Consul for the instances of the service, again and again. Source of what is done
// about indexes and rates: "Blocking Queries" in the documentation of Consul's HTTP API.

const (
	// blockFor is how long a query waits for a change. An agent that has gone without
	// closing its connection is noticed after this and the two that follow.
	blockFor = 30 * time.Second

	// answerWithin is how long an answer may take once there is one: agents ask the
	// servers, which may be electing a leader.
	answerWithin = 10 * time.Second

	// longestRetry is between look-ups that fail, and so what a process may miss after
	// an outage.
	longestRetry = 10 * time.Second

	// Queries may follow each other at once until there were burst of them, and every
	// interval beyond. Blocking queries that do not block, and services that change all
	// the time, would else be a load on the servers: so it is 100 queries a second for 200
	// processes.
	burst    = 4
	interval = 2 * time.Second
)

// errFiltered is why an answer is no list of the cluster: peers outside of it would be
// dropped by this process alone.
var errFiltered = errors.New("the client's token may not read all instances of the service")

// errForgotten is why a query is broken off.
var errForgotten = errors.New("the agent has forgotten what it knew")

// A watcher makes the service's instances the node's peers. For one goroutine, but for
// lookAgain.
type watcher struct {
	node      *peercache.Node
	health    *api.Health
	service   string
	instances instances
	view      *view
	outage    outage
	forgotten chan struct{} // room for one: what is known of Consul's state may be void
}

func newWatcher(node *peercache.Node, client *api.Client, o Options, peers []peercache.Peer) *watcher {
	return &watcher{
		node:      node,
		health:    client.Health(),
		service:   o.Service,
		instances: instances{logger: o.Logger},
		view:      newView(node.Self(), peers),
		outage:    outage{logger: o.Logger, what: "cannot look up the peers", longest: longestRetry},
		forgotten: make(chan struct{}, 1),
	}
}

// lookAgain has a query that waits broken off, and the next one ask for what there is.
//
// An agent that has lost its state counts from the beginning, and a query with an index of
// before waits in vain for that to be passed. The end of the agent does not show: the
// transport sends a query whose connection has broken again, to the agent's successor.
func (w *watcher) lookAgain() {
	select {
	case w.forgotten <- struct{}{}:
	default:
	}
}

// follow makes what Consul lists the node's peers until ctx ends or the node leaves.
func (w *watcher) follow(ctx context.Context) error {
	var index uint64
	var turn pace
	doubtful := false // Consul may have lost state since the last answer
	for sleep(ctx, turn.next(time.Now())) {
		entries, answered, err := w.query(ctx, index)
		if errors.Is(err, errForgotten) {
			index, doubtful = 0, true
			continue
		}
		if err != nil {
			// What the index meant may be gone with the server that said it. Without
			// one, the first answer after an outage comes at once.
			index, doubtful = 0, true
			if ctx.Err() == nil {
				sleep(ctx, w.outage.failed(err))
			}
			continue
		}
		w.outage.over()
		if 0 < answered && answered < index {
			doubtful = true
		}
		index = nextIndex(index, answered)
		if err := w.publish(entries, doubtful); err != nil && ctx.Err() == nil {
			return err
		}
		doubtful = false
	}
	return nil
}

// query asks for the healthy instances, and for the index of the answer. With an index it
// waits until there is a later one, or it is time to look at the view again.
func (w *watcher) query(ctx context.Context, index uint64) ([]*api.ServiceEntry, uint64, error) {
	wait := blockFor
	if at, ok := w.view.nextExpiry(); ok {
		// Never nothing, which Consul takes for five minutes.
		wait = max(min(wait, time.Until(at)), time.Second)
	}
	within := answerWithin
	if index > 0 {
		within += wait + wait/16 // which Consul may add, so that those who wait do not all come back at once
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ctx, breakOff := context.WithCancelCause(ctx)
	var waits sync.WaitGroup
	defer waits.Wait()
	defer breakOff(nil)
	waits.Go(func() {
		select {
		case <-w.forgotten:
			breakOff(errForgotten)
		case <-ctx.Done():
		}
	})
	q := &api.QueryOptions{WaitIndex: index, WaitTime: wait}
	entries, meta, err := w.health.Service(w.service, "", true, q.WithContext(ctx))
	if errors.Is(context.Cause(ctx), errForgotten) { // the answer, if there is one, may be of before
		return nil, 0, errForgotten
	}
	if err != nil {
		return nil, 0, err
	}
	if meta.ResultsFilteredByACLs {
		return nil, 0, errFiltered
	}
	return entries, meta.LastIndex, nil
}

// nextIndex returns what to wait for after an answer with index answered to a query with
// index asked: 0, which waits for nothing, if the index went backwards, as when the servers
// restored a snapshot; and else never 0, which some releases answer although they must not.
func nextIndex(asked, answered uint64) uint64 {
	if answered < asked {
		return 0
	}
	return max(answered, 1)
}

// publish makes the instances listed, and what else is in the view, the node's peers.
func (w *watcher) publish(entries []*api.ServiceEntry, doubtful bool) error {
	changed, kept := w.view.update(w.instances.peers(entries), doubtful, time.Now())
	if kept > 0 {
		w.outage.logger.Warn("peercache: consul: peers vanished that may only be lost; keeping them for now", "n", kept, "for", vanishGrace)
	}
	if !changed {
		return nil
	}
	peers := w.view.peers()
	if err := w.node.SetPeers(peers...); err != nil {
		return fmt.Errorf("peercache: consul: %w", err)
	}
	w.outage.logger.Debug("peercache: consul: new peers", "n", len(peers))
	return nil
}

// A pace lets burst things happen at once and one every interval after that: the generic
// cell rate algorithm (ITU-T I.371). The zero pace has let nothing happen yet.
type pace struct{ due time.Time }

// next returns how long the next thing has to wait.
func (p *pace) next(now time.Time) time.Duration {
	if earliest := now.Add(-(burst - 1) * interval); p.due.Before(earliest) {
		p.due = earliest
	}
	wait := p.due.Sub(now)
	p.due = p.due.Add(interval)
	return max(wait, 0)
}
