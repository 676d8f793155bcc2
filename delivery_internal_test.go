package peercache

import (
	"context"
	"fmt"
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
