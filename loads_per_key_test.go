package peercache_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// The table of what changes of a cluster cost the origin: how often a key is loaded because
// of them while all nodes go on asking for it. go test -v -run LoadsPerKey . prints it.

const (
	sceneNodes = 4

	// batchKeys is how many keys a cache of a batch is asked for. One node may own all of
	// them, and lets no more than 1,024 requests of peers wait for loads; here come three
	// for each key.
	batchKeys = 200

	// askInterval lies between keys that are asked for while something takes its time: all
	// of them once in a second, each at another moment (arbitrary).
	askInterval = time.Second / batchKeys

	// longCopies is a HotTTL for longer than two nodes that are cut off from two others need
	// to agree on a ring: 4 to 7 s.
	longCopies = 30 * time.Second
)

// A price is the fewest and the most loads that one key costs.
type price struct{ least, most int }

var free, once, twice = price{0, 0}, price{1, 1}, price{2, 2}

func TestChangesCostTheseLoadsPerKey(t *testing.T) {
	all := []int{0, 1, 2, 3}
	// Without copies each Get needs the owner or who acts for it. They would only hide
	// for a while what a change costs.
	bare := peercache.Options{HotTTL: -1}

	var table strings.Builder
	for _, scenario := range []struct {
		change  string
		happens func(s *scene)
	}{
		{"steady", func(s *scene) {
			b := s.batch(2, peercache.Options{HotTTL: -1, MaxTTL: 10 * time.Second})
			b.ask(all...)
			b.costs("first asked for, by all nodes at once", once, once)
			time.Sleep(5 * time.Second)
			b.ask(all...)
			b.costs("asked again", free, free)
			time.Sleep(5 * time.Second)
			b.ask(all...)
			b.costs("the end of a life, asked by all nodes at once", once, once)
		}},
		{"a node joins", func(s *scene) {
			b := s.batch(2, bare)
			b.load(all...)
			more := append(slices.Clone(all), s.cluster.Add())
			b.ask(more...) // while not everybody knows
			b.during(s.cluster.Converge, more...)
			b.ask(more...)
			time.Sleep(time.Minute) // then it asks nobody any more for what it should hold
			b.ask(more...)
			b.costs("a node joins", free, free)
		}},
		{"a node leaves", func(s *scene) {
			meanwhile, after := s.batch(2, bare, 0), s.batch(2, bare, 0)
			meanwhile.load(all...)
			after.load(all...)
			meanwhile.during(func() { s.leave(0) }, all[1:]...)
			meanwhile.ask(all[1:]...)
			meanwhile.costs("the owner leaves, asked meanwhile", free, free)
			after.ask(all[1:]...)
			time.Sleep(time.Minute)
			after.ask(all[1:]...)
			after.costs("the owner leaves, asked when it has", free, free)
		}},
		{"all nodes are replaced", func(s *scene) {
			b := s.batch(2, bare)
			b.load(all...)
			nodes := slices.Clone(all)
			for i := range all {
				s.leave(i)
				b.ask(nodes[1:]...)
				nodes = append(nodes[1:], s.cluster.Add())
				s.cluster.Converge()
				b.ask(nodes...)
			}
			b.costs("all nodes are replaced, one by one", free, free)
		}},
		{"a node crashes", func(s *scene) {
			early, late := s.batch(2, bare, 0), s.batch(2, bare, 0)
			early.load(all...)
			late.load(all...)
			s.cluster.Kill(0)
			early.ask(all[1:]...) // who all turn to the same next owner
			early.costs("the owner crashes, asked before that is noticed", once, free)
			early.during(s.cluster.Converge, all[1:]...)
			early.ask(all[1:]...)
			late.ask(all[1:]...)
			late.costs("the owner crashes, asked when that is noticed", once, free)
			time.Sleep(time.Minute)
			early.ask(all[1:]...)
			early.costs("the owner crashes, asked before and again later", free, free)
		}},
		{"two nodes crash", func(s *scene) {
			early, late := s.batch(3, bare, 0, 1), s.batch(3, bare, 0, 1)
			early.load(all...)
			late.load(all...)
			s.cluster.Kill(0)
			s.cluster.Kill(1)
			early.ask(all[2:]...)
			// Loose: who has asked two owners in vain asks no third, but loads. Each of the
			// two that are left does so until its breakers have opened, which is at once where
			// connections are refused; then the third owner acts for both, who with two
			// replicas has the value.
			early.costs("two owners crash, asked before that is noticed", price{1, 2}, price{1, 2}, price{0, 1})
			s.cluster.Converge()
			late.ask(all[2:]...)
			late.costs("two owners crash, asked when that is noticed", once, once, free)
		}},
		{"the network is cut", func(s *scene) {
			copies := peercache.Options{HotTTL: longCopies}
			hot, early, late := s.batch(3, copies, 0, 1), s.batch(2, copies, 0, 1), s.batch(2, copies, 0, 1)
			hot.load(all...)
			s.cluster.Partition([]int{0, 1}, []int{2, 3})
			early.ask(all...)
			early.during(s.cluster.Converge, all...)
			late.ask(all...)
			hot.during(func() { time.Sleep(longCopies) }, all...)
			for _, b := range []*batch{hot, early, late} {
				b.ask(all...)
			}
			s.cluster.Heal()
			hot.during(s.cluster.Converge, all...)
			time.Sleep(longCopies)
			for _, b := range []*batch{hot, early, late} {
				b.ask(all...)
			}
			// The half without an owner loads when its copies end.
			hot.costs("two owners are cut off and return", once, once, free)
			late.costs("the same, first asked when that is noticed", twice, twice)
			// Loose for the same reason as above: one load at the half of the owners; at the
			// other one by each node, and one when they have agreed on an owner.
			early.costs("the same, first asked before that is noticed", price{2, 4}, price{2, 4})
		}},
	} {
		t.Run(scenario.change, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				scenario.happens(&scene{t: t, cluster: cachetest.NewCluster(t, sceneNodes), table: &table})
			})
		})
	}
	t.Logf("loads per key; in brackets the range, where keys differ\n%-48s  %-13s  %-13s  %-13s\n%s",
		"", "Replicas 0", "Replicas 1", "Replicas 2", table.String())
}

// A scene is a cluster in which something happens.
type scene struct {
	t       *testing.T
	cluster *cachetest.Cluster
	batches int
	table   *strings.Builder
}

func (s *scene) leave(i int) {
	s.t.Helper()
	if err := s.cluster.Node(i).Leave(s.t.Context()); err != nil {
		s.t.Errorf("Leave of node %d: %v", i, err)
	}
}

// A batch is keys that are asked for at the same times, in a cache for each number of
// replicas.
type batch struct {
	*scene
	columns []*column // by Replicas
}

// A column is one of these caches.
type column struct {
	name   string
	origin *origin
	keys   []string
	before []int // loads of each key when counting began
}

// batch returns a batch of which the keys have these nodes for their first owners, any if
// there are none.
func (s *scene) batch(columns int, opts peercache.Options, owners ...int) *batch {
	s.t.Helper()
	s.batches++
	b := &batch{scene: s}
	var first []string
	for _, i := range owners {
		first = append(first, s.cluster.Node(i).Self().URL)
	}
	for replicas := range columns {
		c := &column{
			name:   fmt.Sprintf("batch-%d.replicas-%d", s.batches, replicas),
			origin: &origin{delay: 20 * time.Millisecond}, // within which all have come who ask at once
			before: make([]int, batchKeys),
		}
		opts.Replicas = replicas
		cache := cachetest.Caches(s.cluster, c.name, c.origin.load, &opts)[0]
		for i := 0; len(c.keys) < batchKeys; i++ {
			key := fmt.Sprint("key-", i)
			if slices.Equal(peercache.OwnersOf(cache, key, len(first)), first) {
				c.keys = append(c.keys, key)
			}
		}
		b.columns = append(b.columns, c)
	}
	return b
}

// caches are those of a column, by index of the node.
func (b *batch) caches(c *column) []*peercache.Cache[string] {
	return cachetest.Caches[string](b.cluster, c.name, nil, nil)
}

// load has all keys loaded, for all of these nodes at once, and waits until there are
// replicas. One column comes after the other: see batchKeys.
func (b *batch) load(nodes ...int) {
	b.t.Helper()
	for replicas, c := range b.columns {
		(&batch{b.scene, []*column{c}}).ask(nodes...)
		if got, _ := b.cost(replicas); got != once {
			b.t.Errorf("Replicas %d: %+v loads of a key that all nodes want, want one", replicas, got)
		}
	}
	time.Sleep(time.Second)
	b.count()
}

// ask has all keys asked for at all these nodes at once.
func (b *batch) ask(nodes ...int) {
	var asking sync.WaitGroup
	for _, c := range b.columns {
		caches := b.caches(c)
		for _, key := range c.keys {
			for _, i := range nodes {
				asking.Go(func() { wantValue(b.t, caches[i], key) })
			}
		}
	}
	asking.Wait()
}

// during has keys asked for, one after the other and again and again, until something has
// happened: each in turn at one of these nodes and the next.
func (b *batch) during(happens func(), nodes ...int) {
	over := make(chan struct{})
	var asking sync.WaitGroup
	for _, c := range b.columns {
		caches := b.caches(c)
		asking.Go(func() {
			for i := 0; ; i++ {
				k, round := i%batchKeys, i/batchKeys
				wantValue(b.t, caches[nodes[(k+round)%len(nodes)]], c.keys[k])
				select {
				case <-time.After(askInterval):
				case <-over:
					return
				}
			}
		})
	}
	defer asking.Wait()
	defer close(over)
	happens()
}

// costs adds a row to the table: what keys have cost since the row before, or load. It has
// to be what is wanted, by Replicas.
func (b *batch) costs(row string, want ...price) {
	b.t.Helper()
	fmt.Fprintf(b.table, "%-48s", row)
	for replicas, want := range want {
		got, mean := b.cost(replicas)
		if got.least < want.least || got.most > want.most {
			b.t.Errorf("%s: with Replicas %d a key cost %+v loads, want %+v", row, replicas, got, want)
		}
		cell := fmt.Sprintf("%.2f", mean)
		if got.least < got.most {
			cell += fmt.Sprintf(" (%d to %d)", got.least, got.most)
		}
		fmt.Fprintf(b.table, "  %-13s", cell)
	}
	b.table.WriteByte('\n')
	b.count()
}

// cost is how many loads a key of a column has taken: the fewest and the most of any key,
// and the mean.
func (b *batch) cost(replicas int) (got price, mean float64) {
	c := b.columns[replicas]
	loads := make([]int, batchKeys)
	total := 0
	for k, key := range c.keys {
		loads[k] = c.origin.of(key) - c.before[k]
		total += loads[k]
	}
	return price{slices.Min(loads), slices.Max(loads)}, float64(total) / batchKeys
}

// count has counting begin anew.
func (b *batch) count() {
	for _, c := range b.columns {
		for k, key := range c.keys {
			c.before[k] = c.origin.of(key)
		}
	}
}
