package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// What Set, Remove and Clear promise, where it is hardest to keep: a load under way, a
// partition, a peer that hangs, one that was away for long, one that has just come.

// A ledger is an origin whose keys have versions, from 1 on.
type ledger struct {
	delay time.Duration // of a load, after it has read the version

	mu       sync.Mutex // guards the fields below
	versions map[string]int
	loads    int
}

func (l *ledger) load(_ context.Context, key string) (int, time.Duration, error) {
	l.mu.Lock()
	l.loads++
	v := 1 + l.versions[key]
	l.mu.Unlock()
	time.Sleep(l.delay)
	return v, time.Hour, nil
}

// commit raises the versions of keys, and returns the first one's.
func (l *ledger) commit(keys ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.versions == nil {
		l.versions = make(map[string]int)
	}
	for _, key := range keys {
		l.versions[key]++
	}
	return 1 + l.versions[keys[0]]
}

func (l *ledger) latest(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return 1 + l.versions[key]
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loads
}

// wantLatest reads keys, and wants no version older than the ledger's.
func (l *ledger) wantLatest(t *testing.T, node int, cache *peercache.Cache[int], keys ...string) {
	t.Helper()
	for _, key := range keys {
		want := l.latest(key)
		if v, err := cache.Get(t.Context(), key); err != nil || v < want {
			t.Errorf("node %d: Get(%s) = %d, %v, want %d", node, key, v, err, want)
		}
	}
}

// wantAny reads keys whose values may be of any version.
func wantAny(t *testing.T, node int, cache *peercache.Cache[int], keys ...string) {
	t.Helper()
	for _, key := range keys {
		if _, err := cache.Get(t.Context(), key); err != nil {
			t.Errorf("node %d: Get(%s): %v", node, key, err)
		}
	}
}

// keysOfEach returns n keys of each node.
func keysOfEach(t *testing.T, c *cachetest.Cluster, cache *peercache.Cache[int], prefix string, n int) [][]string {
	t.Helper()
	keys := make([][]string, c.Len())
	for node := range keys {
		for i := range n {
			keys[node] = append(keys[node], ownedBy(t, c, cache, fmt.Sprint(prefix, node, "-", i, "-"), node))
		}
	}
	return keys
}

// sees says whether a node has another in its view of the cluster.
func sees(c *cachetest.Cluster, node, other int) bool {
	url := c.Node(other).Self().URL
	return slices.ContainsFunc(c.Node(node).Peers(), func(p peercache.Peer) bool { return p.URL == url })
}

// awaitSight waits until nodes see each other, for at most 15 seconds.
func awaitSight(t *testing.T, c *cachetest.Cluster, pairs ...[2]int) {
	t.Helper()
	start := time.Now()
	for slices.ContainsFunc(pairs, func(p [2]int) bool { return !sees(c, p[0], p[1]) || !sees(c, p[1], p[0]) }) {
		if time.Since(start) > 15*time.Second {
			t.Fatalf("not all of %d see each other after 15s", pairs)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestRemoveOvertakesALoadEverywhere(t *testing.T) {
	for kind, call := range map[string]func(ctx context.Context, l *ledger, c *peercache.Cache[int], keys []string) error{
		"Remove": func(ctx context.Context, l *ledger, c *peercache.Cache[int], keys []string) error {
			l.commit(keys...)
			return c.Remove(ctx, keys...)
		},
		"Set": func(ctx context.Context, l *ledger, c *peercache.Cache[int], keys []string) error {
			var errs []error
			for _, key := range keys {
				errs = append(errs, c.Set(ctx, key, l.commit(key), 0))
			}
			return errors.Join(errs...)
		},
		"Clear": func(ctx context.Context, l *ledger, c *peercache.Cache[int], keys []string) error {
			l.commit(keys...)
			return c.Clear(ctx)
		},
	} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cachetest.NewCluster(t, 4)
				l := &ledger{delay: time.Second}
				caches := cachetest.Caches(c, "c", l.load, &peercache.Options{HotTTL: time.Hour})
				for i := range caches {
					c.Delay(i, 3*time.Millisecond)
				}
				for from := range caches {
					keys := slices.Concat(keysOfEach(t, c, caches[0], fmt.Sprint(from, "-"), 2)...)
					var gets sync.WaitGroup
					for i, cache := range caches {
						for _, key := range keys {
							gets.Go(func() { wantAny(t, i, cache, key) })
						}
					}
					time.Sleep(500 * time.Millisecond)
					if err := call(t.Context(), l, caches[from], keys); err != nil {
						t.Errorf("%s at %d: %v", kind, from, err)
					}
					for i, cache := range caches {
						for _, key := range keys {
							gets.Go(func() { l.wantLatest(t, i, cache, key) })
						}
					}
					gets.Wait()
					time.Sleep(5 * time.Second) // the loads that were overtaken have ended long ago
					for i, cache := range caches {
						for _, key := range keys {
							if v, ok := cache.Peek(key); ok && v < 2 {
								t.Errorf("node %d keeps %s@%d, whose load the %s at %d overtook", i, key, v, kind, from)
							}
						}
						l.wantLatest(t, i, cache, keys...)
					}
				}
			})
		})
	}
}

func TestPartitionedNodeIsFreshSecondsAfterContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 5)
		l := new(ledger)
		caches := cachetest.Caches(c, "c", l.load, &peercache.Options{HotTTL: time.Hour})
		keys := slices.Concat(keysOfEach(t, c, caches[0], "k", 20)...)
		readAll := func() {
			for i, cache := range caches {
				wantAny(t, i, cache, keys...)
			}
		}
		readAll()
		camps := [][]int{{0, 1}, {2, 3, 4}}
		c.Partition(camps...)
		for second := range 60 {
			// Some keys are changed on one side only, others on both by turns. The last
			// changes of each are seconds before the end, and a minute.
			for i, key := range keys {
				if i%60 != second && i%60 != second-30 {
					continue
				}
				camp := camps[(i+second)%2]
				node := camp[i%len(camp)]
				v, err := l.commit(key), error(nil)
				if i%3 == 0 {
					err = caches[node].Set(t.Context(), key, v, 0)
				} else {
					err = caches[node].Remove(t.Context(), key)
				}
				if err != nil && !errors.Is(err, peercache.ErrPartial) {
					t.Fatal(err)
				}
				// Promises 4, 5 and 7: on the caller's node it holds from now on.
				l.wantLatest(t, node, caches[node], key)
			}
			readAll()
			time.Sleep(time.Second)
		}
		c.Heal()
		healed := time.Now()
		var across, all [][2]int
		for i := range caches {
			for j := range i {
				all = append(all, [2]int{i, j})
				if slices.Contains(camps[0], i) != slices.Contains(camps[0], j) {
					across = append(across, [2]int{i, j})
				}
			}
		}
		for first := false; !first; time.Sleep(10 * time.Millisecond) {
			readAll()
			first = slices.ContainsFunc(across, func(p [2]int) bool { return sees(c, p[0], p[1]) })
			if time.Since(healed) > 15*time.Second {
				t.Fatal("no contact 15s after the partition healed")
			}
		}
		contact := time.Now()
		awaitSight(t, c, all...)
		if d := time.Since(healed); d > 15*time.Second {
			t.Errorf("one ring %v after the partition healed, want 15s at most", d)
		}
		readAll()
		time.Sleep(time.Until(contact.Add(3 * time.Second)))
		for i, cache := range caches {
			for _, key := range keys {
				if v, ok := cache.Peek(key); ok && v < l.latest(key) {
					t.Errorf("node %d holds %s@%d 3s after contact, want %d", i, key, v, l.latest(key))
				}
			}
			l.wantLatest(t, i, cache, keys...)
		}
	})
}

func TestHungPeerDelaysOnlyTheCall(t *testing.T) {
	for name, hang := range map[string]struct {
		pause   time.Duration
		removes int // of keys of each node
	}{
		"not declared dead": {2400 * time.Millisecond, 4}, // all return before it wakes
		"declared dead":     {10 * time.Second, 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const hung = 2
				c := cachetest.NewCluster(t, 5)
				l := new(ledger)
				caches := cachetest.Caches(c, "c", l.load, &peercache.Options{HotTTL: time.Hour})
				keys := slices.Concat(keysOfEach(t, c, caches[0], "k", hang.removes)...)
				for i, cache := range caches {
					l.wantLatest(t, i, cache, keys...)
				}
				url := c.Node(hung).Self().URL
				c.Pause(hung)
				paused := time.Now()
				var calls sync.WaitGroup
				for i, key := range keys {
					from := i % len(caches)
					if from == hung {
						continue
					}
					calls.Go(func() {
						l.commit(key)
						start := time.Now()
						err := caches[from].Remove(t.Context(), key)
						if d := time.Since(start); d > 2100*time.Millisecond {
							t.Errorf("Remove returned after %v, want 2.1s at most", d)
						}
						partial, ok := errors.AsType[*peercache.PartialError](err)
						if !ok || !maps.Equal(map[string]error{url: partial.Peers[url]}, partial.Peers) || partial.Peers[url] == nil {
							t.Errorf("Remove: %v, want an error that names %s alone", err, url)
						}
					})
					time.Sleep(20 * time.Millisecond)
					for at, cache := range caches {
						if v, ok := cache.Peek(key); ok && at != hung {
							t.Errorf("node %d holds %s@%d 20ms after Remove was called", at, key, v)
						}
					}
				}
				calls.Wait()
				time.Sleep(time.Until(paused.Add(hang.pause)))
				c.Resume(hung)
				if hang.pause < 3*time.Second {
					time.Sleep(time.Second)
				} else {
					awaitSight(t, c, [2]int{hung, 0}, [2]int{hung, 1}, [2]int{hung, 3}, [2]int{hung, 4})
					time.Sleep(3 * time.Second)
				}
				for i, key := range keys {
					if i%len(caches) == hung {
						continue
					}
					if v, ok := caches[hung].Peek(key); ok && v < l.latest(key) {
						t.Errorf("the node that hung holds %s@%d, want %d", key, v, l.latest(key))
					}
				}
				for i, cache := range caches {
					l.wantLatest(t, i, cache, keys...)
				}
			})
		})
	}
}

// What a node holds is older than what the others remember of the removals that it
// missed, and its peers take it for the owner as soon as they see it.
func TestNodeThatWasCutOffForLongServesNothingOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const away = 3
		c := cachetest.NewCluster(t, 4)
		l := new(ledger)
		opts := &peercache.Options{HotTTL: time.Hour}
		caches := cachetest.Caches(c, "c", l.load, opts)
		owned := keysOfEach(t, c, caches[0], "k", 30)
		keys := slices.Concat(owned...)
		for i, cache := range caches {
			l.wantLatest(t, i, cache, keys...)
		}
		c.Partition([]int{away})
		time.Sleep(10 * time.Second) // it is dead to the others
		l.commit(keys...)
		if err := caches[0].Remove(t.Context(), keys...); err != nil {
			t.Fatalf("Remove without the node that is dead: %v", err)
		}
		time.Sleep(20 * time.Second)
		late := c.Add() // has never heard of what was removed
		caches = cachetest.Caches(c, "c", l.load, opts)
		time.Sleep(90 * time.Second)
		for _, key := range owned[away] {
			if v, ok := caches[away].Peek(key); !ok || v != 1 {
				t.Fatalf("the node that is away holds %s@%d, %v: the test needs an old value", key, v, ok)
			}
		}
		c.Heal()
		healed := time.Now()
		var contact time.Time
		asked := 0 // times that a node took the one that was away for the owner
		for round := 0; contact.IsZero() || time.Since(contact) < 10*time.Second; round++ {
			if contact.IsZero() && slices.ContainsFunc([]int{0, 1, 2, late}, func(i int) bool { return sees(c, i, away) && sees(c, away, i) }) {
				contact = time.Now()
			}
			if time.Since(healed) > 30*time.Second {
				t.Fatal("no contact 30s after the partition healed")
			}
			for i, cache := range caches {
				key := owned[away][(round+7*i)%len(owned[away])]
				if i != away {
					if cache.Owner(key) == c.Node(away).Self().URL {
						asked++
					}
					l.wantLatest(t, i, cache, key)
					continue
				}
				if !contact.IsZero() && time.Since(contact) >= 3*time.Second {
					l.wantLatest(t, i, cache, keys...)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		if asked == 0 {
			t.Error("the node that was away never became the owner again")
		}
	})
}

func TestRemoveOnAFreshlyJoinedNode(t *testing.T) {
	for _, wait := range []time.Duration{0, 5 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c := cachetest.NewCluster(t, 3)
			for i := range 3 {
				c.Delay(i, 2*time.Millisecond)
			}
			l := &ledger{delay: 10 * time.Millisecond}
			opts := &peercache.Options{HotTTL: time.Hour}
			caches := cachetest.Caches(c, "c", l.load, opts)
			keys := slices.Concat(keysOfEach(t, c, caches[0], "k", 8)...)
			for i, cache := range caches {
				l.wantLatest(t, i, cache, keys...)
			}
			joined := c.Add()
			caches = cachetest.Caches(c, "c", l.load, opts)
			fill := func() {
				var gets sync.WaitGroup
				for i, cache := range caches {
					for _, key := range keys {
						gets.Go(func() { l.wantLatest(t, i, cache, key) })
					}
				}
				gets.Wait()
			}
			fill()
			time.Sleep(wait)
			for _, from := range []int{joined, 0, joined, 1} {
				var bound []int // who is in the caller's view
				for i := range caches {
					if i == from || sees(c, from, i) {
						bound = append(bound, i)
					}
				}
				l.commit(keys...)
				if err := caches[from].Remove(t.Context(), keys...); err != nil {
					t.Errorf("%v after a join: Remove at %d: %v", wait, from, err)
				}
				for _, i := range bound {
					l.wantLatest(t, i, caches[i], keys...)
				}
			}
			c.Converge()
			time.Sleep(3 * time.Second)
			fill()
			for _, from := range []int{joined, 0} {
				l.commit(keys...)
				if err := caches[from].Remove(t.Context(), keys...); err != nil {
					t.Errorf("after a join: Remove at %d: %v", from, err)
				}
				fill()
			}
		})
	}
}

func TestSetIsReadEverywhereAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 4)
		for i := range 4 {
			c.Delay(i, 2*time.Millisecond)
		}
		l := &ledger{delay: 300 * time.Millisecond}
		caches := cachetest.Caches(c, "c", l.load, &peercache.Options{HotTTL: time.Hour})
		for owner, keys := range keysOfEach(t, c, caches[0], "k", 4) {
			for from := range caches {
				key := keys[from]
				for _, when := range []string{"never read", "held by all", "being loaded"} {
					var gets sync.WaitGroup
					switch when {
					case "held by all":
						for i, cache := range caches {
							l.wantLatest(t, i, cache, key)
						}
					case "being loaded":
						if err := caches[(from+1)%4].Remove(t.Context(), key); err != nil {
							t.Fatal(err)
						}
						for i, cache := range caches {
							gets.Go(func() { wantAny(t, i, cache, key) })
						}
						time.Sleep(100 * time.Millisecond)
					}
					before, v := l.count(), l.commit(key)
					if err := caches[from].Set(t.Context(), key, v, 0); err != nil {
						t.Errorf("%s: Set at %d of a key of %d: %v", when, from, owner, err)
					}
					for again := range 2 {
						for i, cache := range caches {
							if got, err := cache.Get(t.Context(), key); err != nil || got != v {
								t.Errorf("%s: node %d: Get after a Set at %d of a key of %d = %d, %v, want %d", when, i, from, owner, got, err, v)
							}
							got, err := cache.GetMany(t.Context(), []string{key})
							if err != nil || got[key] != v {
								t.Errorf("%s: node %d: GetMany after a Set at %d of a key of %d = %v, %v, want %d", when, i, from, owner, got, err, v)
							}
						}
						if again == 0 {
							gets.Wait() // what the Set has overtaken ends, and must change nothing
							time.Sleep(time.Second)
						}
					}
					if n := l.count() - before; n != 0 {
						t.Errorf("%s: %d loads after a Set at %d of a key of %d, want none", when, n, from, owner)
					}
				}
			}
		}
	})
}

func TestHistoryKnowsItsValues(t *testing.T) {
	h := newHistory(nil)
	h.commit("a")
	value := h.value("a", 1, nil)
	if err := h.read(0, "a", h.now(), value, true); err != nil {
		t.Error(err)
	}
	if err := h.read(0, "b", h.now(), value, true); err == nil {
		t.Error("another key's value: no error")
	}
	if err := h.read(0, "a", h.now(), value+"0", true); err == nil {
		t.Error("a value that nobody made: no error")
	}
	if err := h.read(0, "a", h.now(), "", false); err == nil {
		t.Error("not found, where there always was a value: no error")
	}
	for h.commit("a") < 10 {
	}
	if err := h.read(0, "a", h.now(), "", false); err != nil {
		t.Error(err)
	}
	var versions []int
	for _, r := range h.record.reads {
		versions = append(versions, r.version)
	}
	if !slices.Equal(versions, []int{1, 7}) {
		t.Errorf("recorded reads of versions %d, want 1, and 7, the last that was not found", versions)
	}
}
