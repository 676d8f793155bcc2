package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/peercache/peercache"
)

// everything stands for a Clear among calls of Remove.
const everything = "*"

// A fakeCache notes what is asked of it. It is safe for concurrent use.
type fakeCache struct {
	answer func(ctx context.Context) error // nil: all is well

	mu    sync.Mutex // guards the field below
	calls [][]string // each with its keys sorted
}

func (c *fakeCache) Remove(ctx context.Context, keys ...string) error {
	c.mu.Lock()
	c.calls = append(c.calls, slices.Sorted(slices.Values(keys)))
	c.mu.Unlock()
	if c.answer == nil {
		return nil
	}
	return c.answer(ctx)
}

func (c *fakeCache) Clear(ctx context.Context) error { return c.Remove(ctx, everything) }

func (c *fakeCache) clears() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, call := range c.calls {
		if slices.Equal(call, []string{everything}) {
			n++
		}
	}
	return n
}

// startInvalidating runs the half of a listener that does without a database, in
// a bubble, until the test ends.
func startInvalidating(t *testing.T, cache *fakeCache, log *slog.Logger) *listener {
	t.Helper()
	l := newListener(nil, cache, log)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	running.Go(func() { l.invalidate(ctx) })
	return l
}

// checkCalls compares what was asked of the cache so far.
func (c *fakeCache) checkCalls(t *testing.T, want ...[]string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := cmp.Diff(want, c.calls); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}

func TestKeysThatWaitAreOneRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := make(chan struct{})
		cache := &fakeCache{answer: func(context.Context) error {
			<-under
			return nil
		}}
		l := startInvalidating(t, cache, testLog(t))
		l.queue.add("a")
		synctest.Wait()
		for _, key := range []string{"b", "c", "b", "a"} {
			l.queue.add(key)
		}
		close(under)
		synctest.Wait()
		cache.checkCalls(t, []string{"a"}, []string{"a", "b", "c"})
	})
}

func TestPeerThatDoesNotConfirmHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := &fakeCache{answer: func(ctx context.Context) error {
			<-ctx.Done()
			return &peercache.PartialError{Peers: map[string]error{"http://10.0.0.1": ctx.Err()}}
		}}
		var log bytes.Buffer
		l := startInvalidating(t, cache, slog.New(slog.NewTextHandler(&log, nil)))
		l.queue.add("a")
		synctest.Wait()
		l.queue.add("b")
		time.Sleep(confirmWait)
		synctest.Wait()
		cache.checkCalls(t, []string{"a"}, []string{"b"})

		time.Sleep(time.Minute)
		synctest.Wait()
		cache.checkCalls(t, []string{"a"}, []string{"b"}) // delivery is the cache's business
		if n := strings.Count(log.String(), "peer=http://10.0.0.1"); n != 2 {
			t.Errorf("the log names the peer %d times, want 2:\n%s", n, &log)
		}
	})
}

func TestFailedRemoveDoesNotEndTheListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := &fakeCache{answer: func(context.Context) error { return errors.New("no such key") }}
		l := startInvalidating(t, cache, testLog(t))
		l.queue.add("a")
		synctest.Wait()
		l.queue.add("b")
		synctest.Wait()
		cache.checkCalls(t, []string{"a"}, []string{"b"})
	})
}

func TestClearStandsForTheKeysThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := new(fakeCache)
		l := newListener(nil, cache, testLog(t))
		l.queue.add("a")
		l.queue.addAll()
		l.queue.add("b")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go l.invalidate(ctx)
		synctest.Wait()
		cache.checkCalls(t, []string{everything})

		l.queue.add("c")
		synctest.Wait()
		cache.checkCalls(t, []string{everything}, []string{"c"})
	})
}

func TestTooManyKeysAreOneClear(t *testing.T) {
	q := newQueue()
	for i := range maxQueued {
		q.add(fmt.Sprint(i))
	}
	if keys, all := q.take(); len(keys) != maxQueued || all {
		t.Errorf("take after %d keys = %d keys, %t, want them and false", maxQueued, len(keys), all)
	}
	for i := range maxQueued + 1 {
		q.add(fmt.Sprint(i))
	}
	if keys, all := q.take(); len(keys) != 0 || !all {
		t.Errorf("take after %d keys = %d keys, %t, want none and true", maxQueued+1, len(keys), all)
	}
	if keys, all := q.take(); len(keys) != 0 || all {
		t.Errorf("take again = %d keys, %t, want none and false", len(keys), all)
	}
}
