package etcd_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peercache/peercache"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/peercache/peercache/discovery/etcd"
)

// Nodes that come and go while etcd is well; outage_test.go has the rest.

func TestClusterGrowsFromOneToThree(t *testing.T) {
	t.Parallel()
	nodes := []*peercache.Node{
		newNode(t, nil),
		newNode(t, &peercache.NodeOptions{Zone: "eu-1b", Weight: 3}),
		newNode(t, &peercache.NodeOptions{Zone: "eu-1c"}),
	}
	for i, node := range nodes {
		follow(t, node, shared.client(t), options(t))
		know(t, nodes[:i+1]...)
	}
	select {
	case <-nodes[2].Ready():
	default:
		t.Error("the node is not ready, though it has its peers")
	}
}

func TestNodeIsGoneAsSoonAsItsContextEnds(t *testing.T) {
	t.Parallel()
	opts := options(t)
	opts.TTL = time.Hour
	client := shared.client(t)
	a, b := newNode(t, nil), newNode(t, nil)
	follow(t, a, client, opts)
	leaving := follow(t, b, client, opts)
	know(t, a, b)
	lease := leaseOf(t, client, opts.Prefix, b)

	leaving.stop(t)
	within(t, 2*time.Second, "a is alone", func() bool { return knows(a) })
	if !knows(b, a) {
		t.Errorf("the one that left has peers %v, want those it had", b.Peers())
	}
	left, err := client.TimeToLive(t.Context(), lease)
	if err != nil {
		t.Fatal(err)
	}
	if left.TTL != -1 {
		t.Errorf("its lease has %d s to live, want none", left.TTL)
	}
}

func TestKilledProcessIsGoneAfterItsTTL(t *testing.T) {
	t.Parallel()
	a, dead := newNode(t, nil), newNode(t, nil)
	follow(t, a, shared.client(t), options(t))
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childURL+"="+dead.Self().URL, childEndpoint+"="+shared.endpoint, childPrefix+"="+prefixOf(t))
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a knows the process", func() bool { return knows(a, dead) })
	// It is kept for longer than its TTL by being kept alive.
	always(t, 2500*time.Millisecond, "a knows the process", func() bool { return knows(a, dead) })

	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed, it says
	within(t, 10*time.Second, "a is alone", func() bool { return knows(a) })
}

func TestNodeRegistersAgain(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, c *clientv3.Client, key string, lease clientv3.LeaseID) error{
		"lease revoked": func(t *testing.T, c *clientv3.Client, _ string, lease clientv3.LeaseID) error {
			_, err := c.Revoke(t.Context(), lease)
			return err
		},
		"entry deleted": func(t *testing.T, c *clientv3.Client, key string, _ clientv3.LeaseID) error {
			_, err := c.Delete(t.Context(), key)
			return err
		},
		"entry written without a lease": func(t *testing.T, c *clientv3.Client, key string, _ clientv3.LeaseID) error {
			_, err := c.Put(t.Context(), key, "garbage")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, opts := shared.client(t), options(t)
			opts.TTL = time.Minute // so that no lease ends by itself
			a, b := newNode(t, nil), newNode(t, nil)
			follow(t, a, client, opts)
			leaving := follow(t, b, client, opts)
			know(t, a, b)
			lease := leaseOf(t, client, opts.Prefix, b)
			key := keyOf(opts.Prefix, b)
			before, err := client.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}

			if err := damage(t, client, key, lease); err != nil {
				t.Fatal(err)
			}
			eventually(t, "b has an entry with a lease, as before", func() bool {
				after, err := client.Get(t.Context(), key)
				return err == nil && len(after.Kvs) == 1 && after.Kvs[0].Lease != 0 && string(after.Kvs[0].Value) == string(before.Kvs[0].Value)
			})
			know(t, a, b)

			leaving.stop(t)
			within(t, 2*time.Second, "a is alone", func() bool { return knows(a) })
		})
	}
}

func TestMalformedEntryIsIgnoredAndLoggedOnce(t *testing.T) {
	t.Parallel()
	client := shared.client(t)
	for name, entry := range map[string]struct{ url, value string }{
		"not JSON":             {"http://127.0.0.1:9", "http://127.0.0.1:9"},
		"empty":                {"http://127.0.0.1:9", ""},
		"no URL":               {"", `{}`},
		"not a URL":            {"127.0.0.1:9", `{"url":"127.0.0.1:9"}`},
		"no host":              {"http://:9", `{"url":"http://:9"}`},
		"another spelling":     {"HTTP://127.0.0.1:9", `{"url":"HTTP://127.0.0.1:9"}`},
		"another node's":       {"http://127.0.0.1:9", `{"url":"http://127.0.0.1:10"}`},
		"weight out of range":  {"http://127.0.0.1:9", `{"url":"http://127.0.0.1:9","weight":101}`},
		"weight of a fraction": {"http://127.0.0.1:9", `{"url":"http://127.0.0.1:9","weight":1.5}`},
		"zone too long":        {"http://127.0.0.1:9", `{"url":"http://127.0.0.1:9","zone":"` + strings.Repeat("z", 65) + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			opts, log := options(t), new(logbook)
			opts.Logger = log.logger()
			malformed := prefixOf(t) + url.PathEscape(entry.url)
			put(t, client, malformed, entry.value) // before the list
			a, b := newNode(t, nil), newNode(t, nil)
			followWith(t, a, func(ctx context.Context) error {
				return etcd.FollowListing(ctx, a, client, opts, 50*time.Millisecond)
			})
			eventually(t, "a warned of it", func() bool { return log.count("malformed") == 1 })
			put(t, client, malformed, entry.value) // and while watching
			quiet := options(t)
			follow(t, b, client, quiet)
			know(t, a, b)
			always(t, 200*time.Millisecond, "a warned of it once", func() bool { return log.count("malformed") == 1 })
			put(t, client, malformed, entry.value+"?")
			eventually(t, "a warned of the other value too", func() bool { return log.count("malformed") == 2 })
			if !knows(a, b) {
				t.Errorf("Peers() = %v, want a and b", a.Peers())
			}
		})
	}
}

func TestMalformedValueLeavesThePeerOfTheOneBefore(t *testing.T) {
	client, opts, log := shared.client(t), options(t), new(logbook)
	opts.Logger = log.logger()
	a, b := newNode(t, nil), newNode(t, nil)
	follow(t, a, client, opts)
	put(t, client, keyOf(opts.Prefix, b), `{"url":"`+b.Self().URL+`","of a later release":true}`)
	eventually(t, "a knows b", func() bool { return knows(a, b) })
	put(t, client, keyOf(opts.Prefix, b), "garbage")
	eventually(t, "a warned of it", func() bool { return log.count("malformed") == 1 })
	always(t, 500*time.Millisecond, "a knows b", func() bool { return knows(a, b) })
}

func TestPrefixInsideAnotherIsAnotherCluster(t *testing.T) {
	client, log := shared.client(t), new(logbook)
	outer, inner := options(t), options(t)
	outer.Logger = log.logger()
	inner.Prefix += "inner/"
	a, b := newNode(t, nil), newNode(t, nil)
	follow(t, b, client, inner)
	eventually(t, "b has registered", func() bool { return leaseOf(t, client, inner.Prefix, b) != 0 })
	follow(t, a, client, outer)
	always(t, 500*time.Millisecond, "each is alone", func() bool { return knows(a) && knows(b) })
	if n := log.count("malformed"); n != 0 {
		t.Errorf("warned %d times of entries of another cluster, want none", n)
	}
}

// An old process at an address and a new one, as a restart has them for a moment.
func TestNodesOfOneURLDoNotDeleteEachOther(t *testing.T) {
	t.Parallel()
	client, opts := shared.client(t), options(t)
	opts.TTL = time.Minute
	log := new(logbook)
	logged := *opts
	logged.Logger = log.logger()
	observer, older := newNode(t, nil), newNode(t, nil)
	newer := newNodeAt(t, older.Self().URL)
	follow(t, observer, client, opts)
	leaving := follow(t, older, client, &logged)
	know(t, observer, older)
	first := leaseOf(t, client, opts.Prefix, older)
	last := follow(t, newer, client, opts)
	eventually(t, "the newer has taken over", func() bool { return leaseOf(t, client, opts.Prefix, newer) != first })
	eventually(t, "the older warns", func() bool { return log.count("another process") == 1 })
	second := leaseOf(t, client, opts.Prefix, newer)
	always(t, 300*time.Millisecond, "the entry stays the newer's", func() bool { return leaseOf(t, client, opts.Prefix, newer) == second })

	t.Run("older leaves", func(t *testing.T) {
		leaving.stop(t)
		always(t, 500*time.Millisecond, "the observer knows it", func() bool { return knows(observer, newer) })
		if got := leaseOf(t, client, opts.Prefix, newer); got != second {
			t.Errorf("the entry has lease %x, want the newer's, %x", got, second)
		}
	})
	t.Run("newer leaves", func(t *testing.T) {
		older := follow(t, newNodeAt(t, newer.Self().URL), client, opts)
		eventually(t, "it has taken over", func() bool { return leaseOf(t, client, opts.Prefix, newer) != second })
		third := leaseOf(t, client, opts.Prefix, newer)
		older.stop(t)
		eventually(t, "the one that stays has registered again", func() bool {
			lease := leaseOf(t, client, opts.Prefix, newer)
			return lease != 0 && lease != third
		})
		eventually(t, "the observer knows it", func() bool { return knows(observer, newer) })
	})
	last.stop(t)
	within(t, 2*time.Second, "the observer is alone", func() bool { return knows(observer) })
}

// An answer to a write can be lost, and what is under the node's key may be somebody
// else's: that it is there does not say that it will stay.
func TestWriteThatFailedIsRepeated(t *testing.T) {
	client, opts := shared.client(t), options(t)
	opts.TTL = time.Minute
	node := newNode(t, nil)
	predecessor, err := client.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), keyOf(opts.Prefix, node), "{}", clientv3.WithLease(predecessor.ID)); err != nil {
		t.Fatal(err)
	}
	failing := shared.client(t)
	failing.KV = &failingOnce{KV: failing.KV}
	follow(t, node, failing, opts)
	eventually(t, "the node has written its own entry", func() bool { return leaseOf(t, client, opts.Prefix, node) != predecessor.ID })
}

// failingOnce fails the first Put.
type failingOnce struct {
	clientv3.KV
	failed atomic.Bool
}

func (kv *failingOnce) Put(ctx context.Context, key, value string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	if kv.failed.CompareAndSwap(false, true) {
		return nil, errors.New("lost")
	}
	return kv.KV.Put(ctx, key, value, opts...)
}

func TestBurstMakesFewRings(t *testing.T) {
	client, opts := shared.client(t), options(t)
	a := newNode(t, nil)
	follow(t, a, client, opts)
	know(t, a)
	eventually(t, "it is registered", func() bool { return leaseOf(t, client, opts.Prefix, a) != 0 })
	before := a.Stats().RingVersion
	var others []*peercache.Node
	began := time.Now()
	for range 40 {
		others = append(others, newNode(t, nil))
		url := others[len(others)-1].Self().URL
		put(t, client, keyOf(opts.Prefix, others[len(others)-1]), `{"url":"`+url+`"}`)
	}
	eventually(t, "a knows them all", func() bool { return knows(a, others...) })
	// One for each 200 ms of the burst, and the last.
	if rings, most := a.Stats().RingVersion-before, int64(time.Since(began)/(200*time.Millisecond))+1; rings > most {
		t.Errorf("40 nodes within %v made %d rings, want at most %d", time.Since(began), rings, most)
	}
}

func TestMisuseIsAnError(t *testing.T) {
	client := shared.client(t)
	closed := shared.client(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	left := newNode(t, nil)
	if err := left.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	joined := newNode(t, &peercache.NodeOptions{Gossip: "127.0.0.1:0", Logger: options(t).Logger})
	if err := joined.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = joined.Leave(t.Context()) }()
	for name, c := range map[string]struct {
		node   *peercache.Node
		client *clientv3.Client
		opts   etcd.Options
		want   string
	}{
		"no node":             {nil, client, etcd.Options{}, "the node is nil"},
		"no client":           {newNode(t, nil), nil, etcd.Options{}, "the client is nil"},
		"client closed":       {newNode(t, nil), closed, etcd.Options{}, "the client was closed"},
		"prefix without end":  {newNode(t, nil), client, etcd.Options{Prefix: "/nodes"}, `"/nodes" does not end in a slash`},
		"TTL of milliseconds": {newNode(t, nil), client, etcd.Options{TTL: 10 * time.Millisecond}, "10ms is less than a second"},
		"TTL below zero":      {newNode(t, nil), client, etcd.Options{TTL: -time.Minute}, "-1m0s is less than a second"},
		"node joined":         {joined, client, etcd.Options{}, "the node has joined already"},
		"node left":           {left, client, etcd.Options{}, "the node has left"},
	} {
		t.Run(name, func(t *testing.T) {
			c.opts.Logger = options(t).Logger
			err := etcd.Follow(t.Context(), c.node, c.client, &c.opts)
			if err == nil || !strings.HasPrefix(err.Error(), "peercache: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Follow() = %v, want an error that says %q", err, c.want)
			}
			if c.node != nil && leaseOf(t, client, "/peercache/", c.node) != 0 {
				t.Error("it is registered all the same")
			}
		})
	}
}

func TestNodeThatLeavesIsTakenOutOfEtcd(t *testing.T) {
	client, opts := shared.client(t), options(t)
	opts.TTL = time.Minute
	a, b := newNode(t, nil), newNode(t, nil)
	f := follow(t, b, client, opts)
	know(t, b)
	hurried, cancel := context.WithCancel(t.Context())
	cancel()
	_ = b.Leave(hurried) // at once
	f.end()
	if err := f.wait(t); err != nil && !strings.Contains(err.Error(), "the node has left") { // which it may have noticed before
		t.Errorf("Follow() = %v, want nil, or that the node has left", err)
	}
	follow(t, a, client, opts)
	always(t, 300*time.Millisecond, "a is alone", func() bool { return knows(a) })
}

func TestFollowLeavesNoGoroutine(t *testing.T) {
	client, opts := shared.client(t), options(t)
	node := newNode(t, nil)
	// The first lease that a client keeps alive starts goroutines that are the client's.
	lease, err := client.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := client.KeepAlive(t.Context(), lease.ID)
	if err != nil {
		t.Fatal(err)
	}
	<-alive
	before := goleak.IgnoreCurrent()
	for range 3 {
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- etcd.Follow(ctx, node, client, opts) }()
		eventually(t, "it is registered", func() bool { return leaseOf(t, client, opts.Prefix, node) != 0 })
		end()
		if err := <-done; err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}
