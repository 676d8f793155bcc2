package etcd_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/peercache/peercache/discovery/etcd"
)

// What nodes do while etcd is down, cut off, or not what it was. Most of that is
// waiting: these tests run side by side, each with an etcd of its own where it harms it.

func TestNodeServesAloneUntilEtcdAnswers(t *testing.T) {
	t.Parallel()
	s, opts, log := newServer(t), options(t), new(logbook)
	opts.Logger = log.logger()
	s.stop()
	a, b := newNode(t, nil), newNode(t, nil)
	follow(t, a, s.client(t), opts)
	eventually(t, "a is ready", func() bool {
		select {
		case <-a.Ready():
			return true
		default:
			return false
		}
	})
	if !knows(a) {
		t.Errorf("Peers() = %v, want the node alone", a.Peers())
	}
	if n := log.count("level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
	s.start(t)
	follow(t, b, s.client(t), opts)
	know(t, a, b)
	eventually(t, "the log says that it is over", func() bool { return log.count("level=INFO") > 0 })
}

func TestPeersStayWhileEtcdIsDown(t *testing.T) {
	t.Parallel()
	s, opts := newServer(t), options(t)
	opts.TTL = 3 * time.Second
	a, b, c := newNode(t, nil), newNode(t, nil), newNode(t, nil)
	follow(t, a, s.client(t), opts)
	leaving := follow(t, b, s.client(t), opts)
	know(t, a, b)

	s.stop()
	both := func() bool { return knows(a, b) && knows(b, a) }
	always(t, opts.TTL+2*time.Second, "a and b know each other", both)
	leaving.stop(t)
	leaving = follow(t, b, s.client(t), opts)
	always(t, 2*time.Second, "a and b know each other when b is followed again", both)
	s.start(t)
	// Leases count from anew when etcd is back: time enough to find it.
	always(t, opts.TTL+2*time.Second, "a and b know each other", both)

	follow(t, c, s.client(t), opts)
	know(t, a, b, c)
	leaving.stop(t)
	know(t, a, c)
}

// An etcd that comes back with nothing, or with a backup from before the nodes came,
// has all nodes register again. None drops another meanwhile.
func TestPeersStayWhenEtcdLosesItsData(t *testing.T) {
	t.Parallel()
	s, opts := newServer(t), options(t)
	opts.TTL = 3 * time.Second
	a, b, c := newNode(t, nil), newNode(t, nil), newNode(t, nil)
	follow(t, a, s.client(t), opts)
	follow(t, b, s.client(t), opts)
	dying := newProxy(t, s.endpoint)
	follow(t, c, newClient(t, dying.endpoint), opts)
	know(t, a, b, c)

	s.stop()
	dying.cut() // c does not come back
	s.dir = t.TempDir()
	s.start(t)
	direct := s.client(t)
	all := func() bool { return knows(a, b, c) && knows(b, a, c) }
	eventually(t, "a and b have registered again", func() bool {
		if !all() {
			t.Fatal("a or b has dropped another before all had the time to register")
		}
		return leaseOf(t, direct, opts.Prefix, a) != 0 && leaseOf(t, direct, opts.Prefix, b) != 0
	})
	eventually(t, "c is gone", func() bool { return knows(a, b) && knows(b, a) })
}

// Being cut off for longer than the TTL costs all nodes their leases at once.
func TestPeersStayWhenAllLeasesEnd(t *testing.T) {
	t.Parallel()
	s, opts := newServer(t), options(t)
	opts.TTL = 3 * time.Second
	p := newProxy(t, s.endpoint)
	a, b := newNode(t, nil), newNode(t, nil)
	follow(t, a, newClient(t, p.endpoint), opts)
	follow(t, b, newClient(t, p.endpoint), opts)
	know(t, a, b)
	direct := s.client(t)
	p.cut()
	both := func() bool { return knows(a, b) && knows(b, a) }
	eventually(t, "etcd has forgotten both", func() bool {
		return leaseOf(t, direct, opts.Prefix, a) == 0 && leaseOf(t, direct, opts.Prefix, b) == 0
	})
	p.mend(s.endpoint)
	always(t, 2*opts.TTL, "a and b know each other", both)
	if leaseOf(t, direct, opts.Prefix, a) == 0 || leaseOf(t, direct, opts.Prefix, b) == 0 {
		t.Error("not both are registered again")
	}
}

func TestCompactionOfWhatWasMissedListsAgain(t *testing.T) {
	t.Parallel()
	s, opts, log := newServer(t), options(t), new(logbook)
	opts.TTL = time.Minute // so that the lease outlives the cut
	opts.Logger = log.logger()
	p := newProxy(t, s.endpoint)
	a, b, gone := newNode(t, nil), newNode(t, nil), newNode(t, nil)
	direct := s.client(t)
	put(t, direct, keyOf(opts.Prefix, gone), fmt.Sprintf(`{"url":%q}`, gone.Self().URL))
	follow(t, a, newClient(t, p.endpoint), opts)
	eventually(t, "a knows the one that goes", func() bool { return knows(a, gone) })
	eventually(t, "a has registered", func() bool { return leaseOf(t, direct, opts.Prefix, a) != 0 })
	lease := leaseOf(t, direct, opts.Prefix, a)

	p.cut()
	if _, err := direct.Delete(t.Context(), keyOf(opts.Prefix, gone)); err != nil {
		t.Fatal(err)
	}
	put(t, direct, keyOf(opts.Prefix, b), fmt.Sprintf(`{"url":%q}`, b.Self().URL))
	now, err := direct.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := direct.Compact(t.Context(), now.Header.Revision); err != nil {
		t.Fatal(err)
	}
	p.mend(s.endpoint)
	eventually(t, "a knows b and nobody else", func() bool { return knows(a, b) })
	if log.count("compacted") != 1 {
		t.Error("a has not met the compaction")
	}
	if got := leaseOf(t, direct, opts.Prefix, a); got != lease {
		t.Errorf("a has lease %x, want the same as before, %x", got, lease)
	}
}

// A connection that is dead without a sign, as behind a firewall that forgot it.
func TestSilentConnectionCostsNoPeer(t *testing.T) {
	t.Parallel()
	s, opts := newServer(t), options(t)
	p := newProxy(t, s.endpoint)
	a, b, c := newNode(t, nil), newNode(t, nil), newNode(t, nil)
	f := follow(t, a, newClient(t, p.endpoint), opts)
	stays := follow(t, b, s.client(t), opts)
	know(t, a, b)

	p.freeze()
	follow(t, c, s.client(t), opts)
	eventually(t, "b has dropped a", func() bool { return knows(b, c) })
	always(t, time.Second, "a knows what it knew", func() bool { return knows(a, b) })
	p.thaw()
	know(t, a, b, c)

	p.freeze()
	began := time.Now()
	f.stop(t)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("leaving over a dead connection took %v, want at most about 2 s", d)
	}
	eventually(t, "a's lease has ended", func() bool { return knows(b, c) })
	stays.stop(t)
}

// A watch on an etcd that was restored from a backup is silent without an error.
func TestSilentWatchIsMadeUpForByListing(t *testing.T) {
	t.Parallel()
	client, opts := shared.client(t), options(t)
	a, b := newNode(t, nil), newNode(t, nil)
	deaf := shared.client(t)
	deaf.Watcher = silentWatcher{deaf.Watcher}
	followWith(t, a, func(ctx context.Context) error {
		return etcd.FollowListing(ctx, a, deaf, opts, 100*time.Millisecond)
	})
	other := follow(t, b, client, opts)
	know(t, a, b)
	other.stop(t)
	know(t, a)
}

type silentWatcher struct{ clientv3.Watcher }

func (silentWatcher) Watch(context.Context, string, ...clientv3.OpOption) clientv3.WatchChan {
	return make(chan clientv3.WatchResponse)
}

func TestClosedClientEndsFollow(t *testing.T) {
	t.Parallel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{shared.endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	node := newNode(t, nil)
	f := follow(t, node, client, options(t))
	eventually(t, "it is registered", func() bool { return leaseOf(t, shared.client(t), prefixOf(t), node) != 0 })
	client.Close()
	if err := f.wait(t); err == nil {
		t.Error("Follow() = nil with a closed client, want an error")
	}
}
