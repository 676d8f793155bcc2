// Package etcd keeps the peers of a [peercache.Node] current by means of etcd,
// instead of gossip.
//
// Every process writes an entry for its node under one prefix, bound to a lease that
// lasts as long as the process renews it, and watches the prefix for the entries of
// the others. [Follow] does all of it until its context ends:
//
//	list      all entries; the node gets them with [peercache.Node.SetPeers]
//	register  the node's own entry, with a lease that is kept alive
//	watch     from the revision that follows the list
//
// Whatever fails sends it back to the list. The order matters: a node knows its peers
// before they learn of it and send it requests.
//
// etcd is asked who is there, never for a value, and it is not on the road of a Get.
// While it is down the nodes go on with the peers they know; the cache itself finds
// out which of them answer.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/peercache/peercache"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What users call. How etcd is followed is in follower.go, what its entries mean
// in roster.go.

const (
	defaultPrefix = "/peercache/"

	// defaultTTL is how long a process that died stays listed. Shorter makes a
	// pause of a loaded process look like a death; the cache does not wait for
	// it, since it notices within a second that a peer does not answer.
	defaultTTL = 10 * time.Second
)

// Options configures [Follow]. A nil *Options and the zero value of each field mean
// the defaults. Follow copies it.
type Options struct {
	// Prefix is where the entries of the cluster's nodes are, one key each. It
	// ends in a slash. Clusters that share an etcd need a prefix each; one may
	// be inside another. Default "/peercache/".
	Prefix string

	// TTL is how long a process that died without a word stays listed, at least
	// a second, rounded up to whole ones. etcd makes it longer where its
	// elections take longer. Default 10 s.
	TTL time.Duration

	// Logger gets what goes wrong and when it is right again. Default
	// slog.Default().
	Logger *slog.Logger
}

// Follow registers the node with etcd, keeps its peers current until ctx ends, takes
// the node out of etcd again so that the others learn of it at once, and returns nil.
// The peers that the node has then stay: end ctx first, wait for Follow, and then call
// [peercache.Node.Leave], which goes on answering the others for as long as they need
// to notice.
//
// The list that the node gets is never empty and always has the node itself. What
// fails changes nothing about it, be it a look-up, the watch or the lease: Follow logs
// a warning, keeps the last good list for as long as it takes, and tries again, first
// at once and then after 0.1 s, doubling to a third of the TTL, with jitter. If the
// very first look-up fails, a node that has no peers yet serves alone until one succeeds,
// and is [peercache.Node.Ready] meanwhile. An entry that is malformed changes nothing either,
// and is logged once per value.
//
// A node that finds its own registration gone, because etcd lost its data or was out
// of reach for longer than the TTL, concludes that others lost theirs in the same way:
// for two TTLs it takes in new peers and drops none.
//
// Of two processes with the same URL the one that registered last is listed. The other
// logs a warning, and is listed as soon as that one leaves.
//
// Errors are what waiting cannot cure: a nil node or client, options out of range, a
// node that has called Join or has left, a client that was closed. Follow takes ctx as
// the lifetime of the registration, uses the client but does not close it, and must
// run at most once per node at a time. A client with DialKeepAliveTime set notices
// within that time that a connection is dead.
func Follow(ctx context.Context, node *peercache.Node, client *clientv3.Client, opts *Options) error {
	f, err := newFollower(node, client, opts)
	if err != nil {
		return err
	}
	return f.run(ctx)
}

func newFollower(node *peercache.Node, client *clientv3.Client, opts *Options) (*follower, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	switch {
	case node == nil:
		return nil, errors.New("peercache: etcd: the node is nil")
	case client == nil:
		return nil, errors.New("peercache: etcd: the client is nil")
	case client.Ctx().Err() != nil:
		return nil, errClientClosed
	case !strings.HasSuffix(o.Prefix, "/"):
		// It is not added, for "/a" and "/a/" in two places would look like a mistake
		// that works.
		return nil, fmt.Errorf("peercache: etcd: Options.Prefix %q does not end in a slash", o.Prefix)
	case o.TTL < time.Second:
		return nil, fmt.Errorf("peercache: etcd: Options.TTL %v is less than a second", o.TTL)
	}
	self := node.Self()
	value, err := encode(self)
	if err != nil {
		return nil, fmt.Errorf("peercache: etcd: %w", err)
	}
	return &follower{
		node:   node,
		client: client,
		logger: o.Logger,
		prefix: o.Prefix,
		key:    keyOf(o.Prefix, self.URL),
		value:  value,
		ttl:    (o.TTL + time.Second - 1).Truncate(time.Second),
		relist: relistTime,
		roster: newRoster(o.Prefix, self, o.Logger),
	}, nil
}
