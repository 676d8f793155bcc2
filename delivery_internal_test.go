package peercache

import (
	"context"
	"fmt"
	"sync"
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
		if n := c.post.count(); n != boxes-1 {
			t.Errorf("%d boxes when nobody is tried any more, want %d", n, boxes-1)
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
