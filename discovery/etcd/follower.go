package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/peercache/peercache"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// How etcd is followed: sessions of list, register and watch, one after the other, on
// one goroutine. What the entries mean is in roster.go.

const (
	// One call may take a third of the TTL within these bounds: an etcd that elects
	// a leader needs one to two seconds.
	minCallTimeout = time.Second
	maxCallTimeout = 3 * time.Second

	// revokeTimeout bounds the goodbye. It is short because a process that ends
	// has little time, and because the lease runs out in any case.
	revokeTimeout = 2 * time.Second

	// settleTime is how long a change waits for others, so that a deploy makes
	// few rings, and a node that registers again, which takes three calls, is not
	// dropped in between.
	settleTime = 200 * time.Millisecond

	// relistTime is the time between two lists when nothing fails. A watch on an
	// etcd that was restored from a backup waits for revisions that are long in
	// the future, without an error. With 200 nodes that is 3 small reads a second.
	relistTime = time.Minute

	// firstRetry is the delay after a second failure in a row, doubled by each
	// further one: long enough not to burden an etcd in trouble, short enough not to
	// be noticed. The first is followed by a try at once: an entry that was deleted
	// has to be there again before the others have dropped the node.
	firstRetry = 100 * time.Millisecond
)

var (
	errClientClosed = errors.New("peercache: etcd: the client was closed")
	errLeaseLost    = errors.New("the node's lease was lost")
	errEntryLost    = errors.New("the node's entry was deleted or lost its lease")
	errWatchEnded   = errors.New("the watch ended")
	errWatchSilent  = errors.New("the watch does not begin")
)

// A refusal is an error of SetPeers: the node is not, or no longer, one to be told.
type refusal struct{ error }

// A follower is the state of one Follow. Only its goroutine uses it.
type follower struct {
	node   *peercache.Node
	client *clientv3.Client
	logger *slog.Logger
	prefix string
	key    string // of the node's entry
	value  string
	ttl    time.Duration
	relist time.Duration

	roster     *roster
	lease      *lease           // nil when there is none
	registered bool             // the entry was written at least once
	failures   int              // sessions in a row that ended early
	rival      clientv3.LeaseID // of another process with this URL: the last one warned of
}

// A lease is one that this process keeps alive.
type lease struct {
	id    clientv3.LeaseID
	alive <-chan *clientv3.LeaseKeepAliveResponse // closed when it is lost
	stop  context.CancelFunc                      // of keeping it alive
	bound bool                                    // the entry was written with it
}

// run follows etcd until ctx ends or there is no point in it.
func (f *follower) run(ctx context.Context) error {
	defer f.deregister(ctx)
	for ctx.Err() == nil {
		err := f.session(ctx)
		if err == nil || ctx.Err() != nil {
			f.failures = 0
			continue
		}
		if err := f.pause(ctx, err); err != nil {
			return err
		}
		// Left alone, the connection would be tried again after up to two minutes,
		// by each process at a time of its own: those late would be taken for dead.
		if conn := f.client.ActiveConnection(); conn != nil { // there is none to an etcd in this process
			conn.ResetConnectBackoff()
		}
	}
	return nil
}

// pause waits until it is time to try again, or returns why there is no point in it.
func (f *follower) pause(ctx context.Context, err error) error {
	if f.client.Ctx().Err() != nil {
		return errClientClosed
	}
	if len(f.roster.published) == 0 && len(f.node.Peers()) < 2 { // the very first look-up: the node serves alone
		if refused := f.publish(); refused != nil {
			err = refused
		}
	}
	if r, ok := errors.AsType[refusal](err); ok {
		return r.error
	}
	f.report(ctx, err)
	select {
	case <-time.After(retryDelay(f.failures, f.ttl)):
	case <-ctx.Done():
	}
	f.failures++
	return nil
}

// report logs the first failure of a row for people, and the rest for those who
// search.
func (f *follower) report(ctx context.Context, err error) {
	level := slog.LevelWarn
	if f.failures > 0 {
		level = slog.LevelDebug
	}
	f.logger.Log(ctx, level, "peercache: etcd: trying again; the last known peers stay",
		"peer", f.roster.self.URL, "n", len(f.roster.published), "err", err)
}

func (f *follower) callTimeout() time.Duration {
	return min(max(f.ttl/3, minCallTimeout), maxCallTimeout)
}

// retryDelay is at most a third of the TTL. With another third for the call that is
// under way, every process finds an etcd that has come back before the leases end,
// which then live for a whole TTL more, and none is taken for dead.
func retryDelay(failures int, ttl time.Duration) time.Duration {
	if failures == 0 {
		return 0
	}
	d := min(firstRetry<<min(failures-1, 16), ttl/3)
	return d/2 + rand.N(d/2)
}

// session lists, registers and watches until something fails, or until it is time to
// list again, which is no error.
func (f *follower) session(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	list, err := f.list(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	own := f.own(list.Kvs)
	f.checkLease()
	if f.registered && (f.lease == nil || own == nil) {
		// Whatever took this node's entry may have taken those of others: what is
		// missing says nothing about them before they had the time to register.
		// A process may need one TTL to find that its lease is lost, and two thirds
		// of another to find etcd.
		f.roster.hold(time.Now().Add(2 * f.ttl))
	}
	f.roster.replace(list.Kvs)
	if err := f.publish(); err != nil {
		return err
	}
	written, err := f.register(ctx, own)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	changes, err := f.watch(ctx, end, list.Header.Revision+1)
	if err != nil {
		return err
	}
	if f.failures > 0 {
		f.logger.Info("peercache: etcd: following again", "peer", f.roster.self.URL, "n", len(f.roster.published))
	}
	began := time.Now()
	err = f.follow(ctx, changes, written)
	if time.Since(began) > f.ttl { // else it failed again: an entry that others delete in a loop, say
		f.failures = 0
	}
	return err
}

func (f *follower) list(ctx context.Context) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, f.callTimeout())
	defer cancel()
	return f.client.Get(ctx, f.prefix, clientv3.WithPrefix())
}

// own returns the node's own entry, nil if it is not listed.
func (f *follower) own(list []*mvccpb.KeyValue) *mvccpb.KeyValue {
	for _, kv := range list {
		if string(kv.Key) == f.key {
			return kv
		}
	}
	return nil
}

// publish gives the node the peers that are known.
func (f *follower) publish() error {
	if err := f.node.SetPeers(f.roster.peers(time.Now())...); err != nil {
		return refusal{err}
	}
	return nil
}

// register writes the node's entry unless it is there, and returns the revision that
// it has written, 0 if none.
func (f *follower) register(ctx context.Context, own *mvccpb.KeyValue) (int64, error) {
	if f.lease != nil && f.lease.bound && own != nil && own.Lease != 0 {
		f.checkRival(own)
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, f.callTimeout())
	defer cancel()
	written, err := f.write(ctx)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // it was revoked, and the entry with it
		f.dropLease()
		return f.write(ctx)
	}
	return written, err
}

// write writes the node's entry, with a new lease if there is none. It asks for no
// condition: an entry that a predecessor at this URL left behind is taken over, which
// detaches it from the lease that it had, so that the end of that lease does not
// delete it (TestNodesOfOneURLDoNotDeleteEachOther).
func (f *follower) write(ctx context.Context) (revision int64, err error) {
	if f.lease == nil {
		if err := f.grant(ctx); err != nil {
			return 0, fmt.Errorf("lease: %w", err)
		}
	}
	put, err := f.client.Put(ctx, f.key, f.value, clientv3.WithLease(f.lease.id))
	if err != nil {
		return 0, err
	}
	f.lease.bound, f.registered = true, true
	return put.Header.Revision, nil
}

// grant takes a new lease and keeps it alive.
func (f *follower) grant(ctx context.Context) error {
	granted, err := f.client.Grant(ctx, int64(f.ttl/time.Second))
	if err != nil {
		return err
	}
	// Not ctx, which is over when the call is, nor one that ends with Follow's:
	// the lease lives until it is given back.
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	alive, err := f.client.KeepAlive(keep, granted.ID)
	if err != nil {
		stop()
		return err
	}
	f.lease = &lease{id: granted.ID, alive: alive, stop: stop}
	f.ttl = max(f.ttl, time.Duration(granted.TTL)*time.Second)
	return nil
}

// checkLease finds out whether the lease was lost while nobody looked.
func (f *follower) checkLease() {
	for f.lease != nil {
		select {
		case _, alive := <-f.lease.alive:
			if !alive {
				f.dropLease()
			}
		default:
			return
		}
	}
}

func (f *follower) dropLease() {
	f.lease.stop()
	f.lease = nil
}

// checkRival warns of another process that has this node's URL. Its entry is left as
// it is: if both were to write they would never end. Should it leave, its entry goes,
// and this node registers again.
func (f *follower) checkRival(own *mvccpb.KeyValue) {
	id := clientv3.LeaseID(own.Lease)
	if id == f.lease.id || id == f.rival {
		return
	}
	f.rival = id
	f.logger.Warn("peercache: etcd: another process has registered with this node's URL", "peer", f.roster.self.URL)
}

// watch begins to watch for changes from revision on. end ends ctx.
func (f *follower) watch(ctx context.Context, end func(), revision int64) (clientv3.WatchChan, error) {
	// Watch returns when etcd has confirmed it, however long that takes.
	limit := time.AfterFunc(f.callTimeout(), end)
	// A member of etcd that is cut off from the others would be silent for ever.
	changes := f.client.Watch(clientv3.WithRequireLeader(ctx), f.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision))
	if !limit.Stop() {
		return nil, errWatchSilent
	}
	return changes, nil
}

// follow publishes what changes, until something fails or it is time to list again.
// written is the revision of the node's entry, if this session wrote it.
func (f *follower) follow(ctx context.Context, changes clientv3.WatchChan, written int64) error {
	// Jitter, so that processes that started together do not list together.
	relist := time.After(f.relist*3/4 + rand.N(f.relist/2))
	var settled, released <-chan time.Time
	if held := time.Until(f.roster.holdUntil); held > 0 {
		released = time.After(held)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-relist:
			return nil
		case _, alive := <-f.lease.alive:
			if !alive {
				f.dropLease()
				return errLeaseLost
			}
		case change, open := <-changes:
			if !open {
				return errWatchEnded
			}
			if err := change.Err(); err != nil { // such as the compaction of what it has missed
				return fmt.Errorf("watch: %w", err)
			}
			if err := f.apply(change.Events, written); err != nil {
				return err
			}
			if settled == nil && len(change.Events) > 0 {
				settled = time.After(settleTime)
			}
		case <-settled:
			settled = nil
			if err := f.publish(); err != nil {
				return err
			}
		case <-released:
			released = nil
			if err := f.publish(); err != nil {
				return err
			}
		}
	}
}

// apply takes in what has changed. It is an error if others cannot see the node any
// more, or not for as long as it lives.
func (f *follower) apply(events []*clientv3.Event, written int64) error {
	for _, e := range events {
		key := string(e.Kv.Key)
		gone := e.Type == clientv3.EventTypeDelete
		switch {
		case key != f.key && gone:
			f.roster.remove(key)
		case key != f.key:
			f.roster.put(key, e.Kv.Value)
		case e.Kv.ModRevision <= written: // what became of a predecessor's entry
		case gone || e.Kv.Lease == 0:
			return errEntryLost
		default:
			f.checkRival(e.Kv)
		}
	}
	return nil
}

// deregister gives the lease back, which deletes the entry unless another process
// has taken it over.
func (f *follower) deregister(ctx context.Context) {
	if f.lease == nil {
		return
	}
	id := f.lease.id
	f.dropLease()
	if f.client.Ctx().Err() != nil { // Follow says so; calls would be tried again and again
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	if _, err := f.client.Revoke(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		f.logger.Warn("peercache: etcd: the node stays listed until its lease ends", "peer", f.roster.self.URL, "err", err)
	}
}
