// Package consul keeps the peers of a peercache node current from a Consul
// catalog, in place of gossip.
//
// [Follow] registers the node as an instance of a service, with a check that goes
// critical when the process stops confirming it, and follows the healthy instances
// of that service by blocking queries. Each change goes to [peercache.Node.SetPeers].
// What Consul answers decides, what it fails to answer changes nothing: while it is
// down the node keeps the peers it had.
package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/peercache/peercache"
	"golang.org/x/sync/errgroup"
)

// What users call is here. Telling Consul of this node is in register.go, asking it
// for the others in watch.go, what its answers mean in instances.go and view.go.

const (
	defaultService = "peercache"

	// defaultTTL lets a process pause for ten seconds, collecting garbage or starved
	// of processor time, before it loses its keys to others. Requests do not wait that
	// long for one that died: they go on to the next owner after a third of a second.
	defaultTTL = 10 * time.Second

	// minTTL keeps what a process asks of its agent below one request in a third of a
	// second.
	minTTL = time.Second
)

// serviceName is what may stand in a path of Consul's HTTP API as it is: the client
// escapes nothing.
var serviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

var errLeft = errors.New("peercache: consul: the node has left its cluster")

// Options configures [Follow]. A nil *Options and the zero value of each field mean
// the defaults. Follow copies it.
type Options struct {
	// Service is the name of the Consul service whose instances are the cluster's
	// nodes: 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or a digit. Nodes
	// of different clusters need different services. Default "peercache".
	Service string

	// TTL is how long Consul takes this node for healthy without hearing from it. It is
	// confirmed every third of that. At least a second; default 10 seconds.
	TTL time.Duration

	// Logger gets what happens between the node and Consul: the first of a row of
	// failures and the success that ends it, instances that cannot be used, peers that
	// vanish together. Default slog.Default().
	Logger *slog.Logger
}

// Follow keeps the peers of node current until ctx ends: it registers the node with
// the agent that client talks to, follows the healthy instances of the service, and
// deregisters the node. It returns nil after ctx has ended and the node is
// deregistered, which takes no longer than 6 seconds if Consul does not answer. Call
// it when the node's handler is served, on a goroutine of its own, once at a time for
// a node; end its ctx, and wait for it, before [peercache.Node.Leave].
//
// Whatever Consul does, the node is [peercache.Node.Ready] and among its own peers, and:
//
//   - Until the first answer the node works alone, or with the peers it has.
//   - A look-up that fails changes nothing. It is repeated after a quarter of a second,
//     and less and less often down to every ten seconds. An answer from which Consul has
//     left out what the client's token may not read is one that failed.
//   - Peers that an answer lists no more may only be lost, with Consul's state, which
//     processes and agents restore within a minute or so: if the look-up before it failed,
//     if the index went backwards, if this node is not listed either, or if they are
//     several and more than half of the others. Those stay for 90 seconds unless they come
//     back. All other departures take effect at once.
//   - A registration that the agent has forgotten is made again, after a third of TTL at
//     the latest.
//   - Instances whose meta data is no node's are left out, and logged once.
//
// The token, the namespace, the partition and TLS are the client's; its HTTP client
// should have no timeout below a minute, which is how long a look-up may take. The token
// needs service:write on the service, and service:read and node:read.
//
// Follow returns an error at once for a nil node or client, for options out of range, and
// if [peercache.Node.Join] or [peercache.Node.Leave] was called; and later if the node
// leaves while ctx lasts.
func Follow(ctx context.Context, node *peercache.Node, client *api.Client, opts *Options) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Service == "" {
		o.Service = defaultService
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	switch {
	case node == nil:
		return errors.New("peercache: consul: the node is nil")
	case client == nil:
		return errors.New("peercache: consul: the client is nil")
	case !serviceName.MatchString(o.Service):
		return fmt.Errorf("peercache: consul: Options.Service %q is not 1 to 64 of A-Z a-z 0-9 . _ -", o.Service)
	case o.TTL < minTTL:
		return fmt.Errorf("peercache: consul: Options.TTL is %v, at least %v is needed", o.TTL, minTTL)
	}
	peers := node.Peers()
	if len(peers) == 0 {
		return errLeft
	}
	// The list it has, and not itself alone: a service may stop following and begin
	// again. This is also where a node that has joined by gossip is found out.
	if err := node.SetPeers(peers...); err != nil {
		return fmt.Errorf("peercache: consul: %w", err)
	}
	w := newWatcher(node, client, o, peers)
	r, err := newRegistration(node, client, o, w.lookAgain)
	if err != nil {
		return err
	}

	loops, running := errgroup.WithContext(ctx)
	loops.Go(func() error { return r.keep(running) })
	loops.Go(func() error { return w.follow(running) })
	err = loops.Wait()
	r.deregister(context.WithoutCancel(ctx))
	return err
}

// sleep waits for d and reports whether ctx lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 || ctx.Err() != nil {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
