package peercache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// Invalidations in a few nodes whose handlers are called directly, so that a test can
// cut them off, and look inside.

// A wireless is the network of these tests, by plain HTTP.
type wireless struct {
	nodes    []*Node
	handlers map[string]http.Handler
	down     atomic.Bool // nobody reaches anybody
	ended    atomic.Bool // because the processes have ended
}

// newWireless returns two nodes that know each other, and a cache on each. Its loader says
// how often it has been called.
func newWireless(t *testing.T) (*wireless, []*Cache[int], *atomic.Int32) {
	t.Helper()
	w := &wireless{handlers: make(map[string]http.Handler)}
	loads := new(atomic.Int32)
	caches := make([]*Cache[int], 2)
	var peers []Peer
	for i := range caches {
		host := string(rune('a'+i)) + ".localhost:80"
		node, err := NewNode("http://"+host, &NodeOptions{
			Insecure: true, Gossip: "127.0.0.1:0", Transport: w, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.Handle(node.Handler())
		w.handlers[node.host] = mux
		w.nodes = append(w.nodes, node)
		peers = append(peers, node.Self())
		caches[i] = New("c", func(context.Context, string) (int, time.Duration, error) {
			return int(loads.Add(1)), time.Hour, nil
		}, &Options{Node: node, HotTTL: time.Hour})
		t.Cleanup(func() {
			_ = node.Leave(t.Context()) // which has ended when this runs
		})
	}
	for _, node := range w.nodes {
		if err := node.SetPeers(peers...); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * syncInterval)
	return w, caches, loads
}

func (w *wireless) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Upgrade") != "" {
		return &http.Response{Status: "501 Not Implemented", StatusCode: http.StatusNotImplemented, Body: http.NoBody}, nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	for _, to := range w.nodes {
		if to.host != req.URL.Host || w.down.Load() {
			continue
		}
		answer := httptest.NewRecorder()
		in := req.Clone(req.Context())
		in.Host, in.Body = req.URL.Host, io.NopCloser(bytes.NewReader(body))
		w.handlers[to.host].ServeHTTP(answer, in)
		return answer.Result(), nil
	}
	if w.ended.Load() {
		return nil, syscall.ECONNREFUSED
	}
	return nil, syscall.ECONNRESET
}

// keyOfFirst returns a key of the first node.
func (w *wireless) keyOfFirst(c *Cache[int]) string {
	for key := "k"; ; key += "k" {
		if c.Owner(key) == w.nodes[0].self.url {
			return key
		}
	}
}

func mustGet(t *testing.T, c *Cache[int], key string) int {
	t.Helper()
	v, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	return v
}

func mustRemove(t *testing.T, c *Cache[int], key string) {
	t.Helper()
	if err := c.Remove(t.Context(), key); err != nil {
		t.Fatalf("Remove(%q): %v", key, err)
	}
}

// The owner may forget an id a second before the asker does. It has applied it long ago:
// what it holds is younger, and no reason for another load.
func TestOwnerThatHasForgottenAnIDKeepsWhatCameSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, caches, loads := newWireless(t)
		key := w.keyOfFirst(caches[0])
		mustRemove(t, caches[1], key)
		want := mustGet(t, caches[0], key)
		caches[0].store.forgetIDs(now() + 1)
		if got := mustGet(t, caches[1], key); got != want || loads.Load() != 1 {
			t.Errorf("Get = %d after %d loads, want %d after one", got, loads.Load(), want)
		}
	})
}

// A Set whose caller does not wait takes effect in the caller's process all the same.
func TestSetWithoutTimeTakesEffectHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, caches, _ := newWireless(t)
		key := w.keyOfFirst(caches[0])
		old := mustGet(t, caches[1], key)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := caches[1].Set(ended, key, 1000, 0); err != nil && !errors.Is(err, ErrPartial) {
			t.Fatal(err)
		}
		if v := mustGet(t, caches[1], key); v == old {
			t.Errorf("Get after Set = %d, which is what was there before", v)
		}
		time.Sleep(time.Second)
		want := mustGet(t, caches[0], key)
		if v := mustGet(t, caches[1], key); v != want || v == old {
			t.Errorf("the nodes hold %d and %d, want the same, and not %d", want, v, old)
		}
	})
}

// A process that answers that it is behind does not leave it at that: nobody tells it what
// it has missed once that is older than a minute.
func TestProcessThatIsBehindCatchesUpWithWhoSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, caches, loads := newWireless(t)
		key := w.keyOfFirst(caches[0])
		w.down.Store(true)
		if err := caches[1].Remove(t.Context(), key); !errors.Is(err, ErrPartial) {
			t.Fatalf("Remove in a network that is down: %v", err)
		}
		time.Sleep(pendingLife + 2*idsLife) // the Remove is not delivered any more
		w.down.Store(false)
		mustGet(t, caches[1], key)
		time.Sleep(time.Second)
		want := mustGet(t, caches[0], key)
		time.Sleep(10 * time.Second) // what may be open of breakers and copies
		caches[1].store.forget(key)
		before := loads.Load()
		if got := mustGet(t, caches[1], key); got != want || loads.Load() != before {
			t.Errorf("Get = %d with %d loads, want %d from the owner", got, loads.Load()-before, want)
		}
	})
}

// A load that began before the process was stopped brings what was there then. A Get that
// starts after it woke must not get that, no more than what is in memory.
func TestGetBehindTheFenceJoinsNothingFromBeforeThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, caches, _ := newWireless(t)
		var loads atomic.Int32
		stopped := make(chan struct{})
		cache := New("slow", func(context.Context, string) (int, time.Duration, error) {
			n := loads.Add(1)
			if n == 1 {
				<-stopped
			}
			return int(n), time.Hour, nil
		}, &Options{Node: w.nodes[0]})
		key := w.keyOfFirst(caches[0])
		for cache.Owner(key) != w.nodes[0].self.url {
			key += "k"
		}
		old := make(chan int, 1)
		go func() { old <- mustGet(t, cache, key) }()
		synctest.Wait()
		w.down.Store(true) // or it would have caught up at once
		w.nodes[0].coherent.fence.oversleep()
		if v := mustGet(t, cache, key); v != 2 {
			t.Errorf("Get = %d, want what a load brings that began after the pause", v)
		}
		close(stopped)
		if v := <-old; v != 1 {
			t.Errorf("the Get that was there before got %d, want 1", v)
		}
		w.down.Store(false)
		time.Sleep(time.Second)
		if v, ok := cache.Peek(key); !ok || v != 2 {
			t.Errorf("Peek = %d, %v after the fence came down, want 2", v, ok)
		}
	})
}

// A node that has left tells nobody any more, so that there is nothing to wait for.
func TestLeaveEndsTheWaitOfARemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, caches, _ := newWireless(t)
		w.down.Store(true)
		start := time.Now()
		removed := make(chan error, 1)
		go func() { removed <- caches[1].Remove(t.Context(), "k") }()
		synctest.Wait()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_ = w.nodes[1].Leave(ended)
		partial, ok := errors.AsType[*PartialError](<-removed)
		if !ok || partial.Peers[w.nodes[0].self.url] == nil {
			t.Errorf("Remove = %v, want a *PartialError that names the peer", partial)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("it returned %v after the node had left, want at once", d)
		}
	})
}

// A set of more processes than are spoken of may be a part of one.
func TestMoreProcessesThanAreSpokenOfAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, caches, _ := newWireless(t)
		key := []byte(w.keyOfFirst(caches[0]))
		aged := make(ids, maxBoots+1)
		for i := range aged {
			aged[i] = id{uint64(i + 1), 1}
		}
		n := w.nodes[1]
		for name, req := range map[string]*wire.Request{
			"Get":  {Op: &wire.Request_Get{Get: &wire.Get{Keys: [][]byte{key}}}},
			"Set":  {Op: &wire.Request_Set{Set: &wire.Set{Boot: 1, Seq: 1, Key: key, TtlMs: 1}}},
			"Peek": {Op: &wire.Request_Peek{Peek: &wire.Peek{Keys: [][]byte{key}}}},
		} {
			for most, want := range map[int]wire.Status{maxBoots: wire.Status_BEHIND, maxBoots + 1: wire.Status_BAD_REQUEST} {
				req.Cache, req.Aged = "c", aged[:most].toWire()
				var got wire.Status
				err := n.converse(t.Context(), w.nodes[0].self.url, req, func(resp *wire.Response) error {
					got = resp.GetStatus()
					return nil
				})
				if err != nil || got != want {
					t.Errorf("%s of one that speaks of %d processes: %v, %v, want %v", name, most, got, err, want)
				}
			}
		}
	})
}
