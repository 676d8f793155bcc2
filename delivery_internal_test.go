package peercache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

func bigKeys(call int) []string {
	keys := make([]string, wire.MaxKeys)
	for i := range keys {
		keys[i] = fmt.Sprintf("%01024d", call*wire.MaxKeys+i)
	}
	return keys
}

// What waits for a peer that does not answer is bounded in bytes too, and what is dropped
// of it reaches the peer all the same.
func TestWhatWaitsForASilentPeerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, caches, _ := newWireless(t)
		key := w.keyOfFirst(caches[0])
		mustGet(t, caches[0], key)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		w.down.Store(true)
		b := w.nodes[1].coherent.post.box(w.nodes[0].self.url)
		_ = caches[1].Remove(ended, key)
		time.Sleep(10 * time.Millisecond)
		for call := range 2 * maxPendingBytes / (wire.MaxKeys * wire.MaxKey) {
			_ = caches[1].Remove(ended, bigKeys(call)...)
		}
		b.mu.Lock()
		bytes, parcels, behind := b.bytes, len(b.parcels), b.behind
		sum := 0
		for _, p := range b.parcels {
			sum += p.size()
		}
		b.mu.Unlock()
		if bytes > maxPendingBytes || bytes != sum || parcels == 0 || behind == 0 {
			t.Errorf("%d bytes (%d by their sum) in %d parcels wait, behind %d: want at most %d, and the peer to catch up", bytes, sum, parcels, behind, maxPendingBytes)
		}
		w.down.Store(false)
		time.Sleep(10 * time.Second)
		if v, ok := caches[0].Peek(key); ok {
			t.Errorf("Peek = %d: what was dropped has not reached the peer", v)
		}
		if n := w.nodes[1].Stats().Pending; n != 0 || !b.empty() {
			t.Errorf("%d pending, empty = %v, want an empty box", n, b.empty())
		}
	})
}

func TestPeerThatIsGoneIsNotTriedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, caches, _ := newWireless(t)
		w.down.Store(true)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_ = caches[1].Remove(ended, "k")
		time.Sleep(10 * time.Millisecond)
		for call := range 2 * maxPendingBytes / (wire.MaxKeys * wire.MaxKey) {
			_ = caches[1].Remove(ended, bigKeys(call)...)
		}
		time.Sleep(pendingLife + time.Second)
		if b := w.nodes[1].coherent.post.box(w.nodes[0].self.url); !b.empty() {
			t.Error("a goroutine tries to reach it still")
		}
	})
}

func (p *postman) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.boxes)
}

// Who confirms says whom it knows: who is told for that may never be a member here, and
// the members may not change for months.
func TestBoxOfOneThatIsNoMemberEndsWhenItIsEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, caches, _ := newWireless(t)
		mustRemove(t, caches[0], "k")
		c := w.nodes[0].coherent
		boxes := c.post.count()
		publish := func(peers ...string) error {
			r := c.ledger.draw("c", []string{"k"})
			c.ledger.apply(r)
			return c.publish(t.Context(), audience{peers: peers}, []*removal{r}, after(now(), confirmTimeout))
		}
		if err := w.nodes[1].SetPeers(w.nodes[1].Self()); err != nil { // so that it tells of nobody
			t.Fatal(err)
		}
		if err := w.nodes[0].SetPeers(w.nodes[0].Self()); err != nil {
			t.Fatal(err)
		}
		if err := publish(w.nodes[1].self.url); err != nil {
			t.Errorf("publish to one that is no member: %v", err)
		}
		synctest.Wait()
		if n := c.post.count(); n != boxes-1 {
			t.Errorf("%d boxes when one that is no member has confirmed, want %d", n, boxes-1)
		}
		if err := publish("http://nobody.localhost"); err == nil {
			t.Error("publish to nobody: nil")
		}
		time.Sleep(pendingLife + time.Second)
		if n, strangers := c.post.count(), c.post.strangers; n != boxes-1 || strangers != 0 {
			t.Errorf("%d boxes, %d of strangers, when nobody is tried any more, want %d and none", n, strangers, boxes-1)
		}
	})
}

// A box may end while something is about to be added to it. What comes after goes to the
// next one, which a sign of life finds.
func TestBoxThatEndsLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := newWireless(t)
		c := w.nodes[0].coherent
		for _, node := range w.nodes {
			if err := node.SetPeers(node.Self()); err != nil {
				t.Fatal(err)
			}
		}
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				for range 500 {
					r := c.ledger.draw("c", []string{"k"})
					c.ledger.apply(r)
					if err := c.publish(t.Context(), audience{peers: []string{w.nodes[1].self.url}}, []*removal{r}, after(now(), confirmTimeout)); err != nil {
						t.Errorf("publish to one that is no member: %v", err)
					}
				}
			})
		}
		calls.Wait()
		synctest.Wait()
		if n := c.post.count(); n != 0 {
			t.Errorf("%d boxes are left, want none", n)
		}
		ended := c.post.box(w.nodes[1].self.url)
		c.post.forget(ended)
		next := c.post.box(w.nodes[1].self.url)
		if c.post.forget(ended); c.post.count() != 1 || ended.add(nil) || !next.add(nil) {
			t.Error("a sign of life goes to another box than what waits for it")
		}
	})
}

// Gossip says of a process that was cut off while it was leaving that it has left, as a
// registry does: it may serve what it holds until its time is over.
func TestOneThatMayServeYetHasNotConfirmed(t *testing.T) {
	for name, ended := range map[string]bool{"cut off": false, "ended": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, caches, _ := newWireless(t)
				w.down.Store(true)
				w.ended.Store(ended)
				told := make(chan error, 1)
				go func() { told <- caches[0].Remove(t.Context(), "k") }()
				time.Sleep(deliverFirst / 2)
				if err := w.nodes[0].SetPeers(w.nodes[0].Self()); err != nil {
					t.Fatal(err)
				}
				if _, partial := errors.AsType[*PartialError](<-told); partial == ended {
					t.Errorf("Remove is partial: %v, want %v", partial, !ended)
				}
				time.Sleep(leavingLife + time.Second)
				if n := w.nodes[0].Stats().Pending; n != 0 {
					t.Errorf("%d pending when the peer can only have ended, want none", n)
				}
			})
		})
	}
}

func TestPeerThatListensAnywhereRefusesNothing(t *testing.T) {
	no := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("dial: %w", errors.Join(no)), true},
		{fmt.Errorf("dial: %w", errors.Join(no, no)), true},
		{fmt.Errorf("dial: %w", errors.Join(context.DeadlineExceeded, no)), false},
		{no, true},
		{errSilent, false},
		{nil, false},
	} {
		if got := refused(c.err); got != c.want {
			t.Errorf("refused(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

// A process that only another knows is told as soon as gossip tells of it here too.
func TestOneThatGossipHasNotToldOfWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := newWireless(t)
		c := w.nodes[0].coherent
		c.vetting = func() bool { return true }
		for _, node := range w.nodes {
			if err := node.SetPeers(node.Self()); err != nil {
				t.Fatal(err)
			}
		}
		c.circle.mu.Lock()
		clear(c.circle.met) // it never was a member
		c.circle.mu.Unlock()
		w.nodes[0].building.Lock()
		clear(w.nodes[0].removed)
		w.nodes[0].building.Unlock()
		r := c.ledger.draw("c", []string{"k"})
		c.ledger.apply(r)
		told := make(chan error, 1)
		go func() {
			told <- c.publish(t.Context(), audience{peers: []string{w.nodes[1].self.url}}, []*removal{r}, after(now(), confirmTimeout))
		}()
		time.Sleep(time.Second)
		if w.nodes[1].coherent.ledger.has(r.id) || len(told) > 0 {
			t.Fatal("it is told, or not waited for, and gossip has not told of it")
		}
		if err := w.nodes[0].SetPeers(w.nodes[0].Self(), w.nodes[1].Self()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !w.nodes[1].coherent.ledger.has(r.id) || len(told) == 0 {
			t.Fatal("it is not told at once when gossip has told of it")
		}
		if err := <-told; err != nil {
			t.Errorf("publish: %v", err)
		}
	})
}

// Any peer can say that it knows anybody. Only who proves who it is, or comes from the
// service itself, is believed.
func TestWhomOnlyAnotherKnowsIsNotDialledWithoutASecret(t *testing.T) {
	for name, c := range map[string]struct {
		secret  string
		join    bool
		dialled bool
	}{
		"gossip":               {"", true, false},
		"gossip with a secret": {"sixteen bytes or more", true, true},
		"SetPeers":             {"", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			dials := make(chan string, 100)
			network := osNetwork()
			dial := network.Dial
			network.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				dials <- addr
				return dial(ctx, network, addr)
			}
			n, err := NewNode("http://127.0.0.1:9", &NodeOptions{
				Secret: []byte(c.secret), Gossip: "127.0.0.1:0", Network: network, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			if c.join {
				err = n.Join(t.Context())
			} else {
				err = n.SetPeers(n.Self())
			}
			if err != nil {
				t.Fatal(err)
			}
			r := n.coherent.ledger.draw("c", []string{"k"})
			n.coherent.ledger.apply(r)
			const stranger = "http://127.0.0.1:10"
			err = n.coherent.publish(t.Context(), audience{peers: []string{stranger}}, []*removal{r}, after(now(), 100*time.Millisecond))
			partial, ok := errors.AsType[*PartialError](err)
			if !ok || errors.Is(partial.Peers[stranger], errUnheard) == c.dialled {
				t.Errorf("publish = %v, want a *PartialError for a peer that is dialled = %v", err, c.dialled)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			_ = n.Leave(ended)
			close(dials)
			dialled := false
			for addr := range dials {
				dialled = dialled || addr == "127.0.0.1:10"
			}
			if dialled != c.dialled {
				t.Errorf("dialled = %v, want %v", dialled, c.dialled)
			}
		})
	}
}

func TestBoxesOfStrangersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := newWireless(t)
		c := w.nodes[0].coherent
		c.vetting = func() bool { return true }
		boxes := c.post.count()
		var peers []string
		for i := range 3 * maxMembers {
			peers = append(peers, fmt.Sprint("http://", i, ".localhost"))
		}
		for half := range slices.Chunk(peers, len(peers)/2) {
			r := c.ledger.draw("c", []string{"k"})
			c.ledger.apply(r)
			err := c.publish(t.Context(), audience{peers: half}, []*removal{r}, now())
			if partial, ok := errors.AsType[*PartialError](err); !ok || len(partial.Peers) != len(half) {
				t.Errorf("publish to %d strangers: %d did not confirm", len(half), len(partial.Peers))
			}
		}
		if n := c.post.count() - boxes; n > maxMembers {
			t.Errorf("%d boxes for strangers, want at most %d", n, maxMembers)
		}
	})
}
