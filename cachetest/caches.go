package cachetest

import (
	"context"
	"slices"
	"time"

	"github.com/peercache/peercache"
)

// A program is a cache that every node of a cluster has.
type program interface {
	is(name string) bool
	start(node *peercache.Node) interface{ Close() }
}

// A programOf is the program of a V. Its caches are guarded by the mutex of the
// cluster.
type programOf[V any] struct {
	name   string
	load   peercache.Loader[V]
	opts   peercache.Options
	caches []*peercache.Cache[V]
}

// Caches creates a cache on every node, killed ones too, and returns them by
// the index of their node. Nodes added later run the same program: they get
// the cache before they join. A second call with the same name creates
// nothing: it returns the list as it is by then, and looks at neither load nor
// opts. The same name with another V fails the test.
//
// opts may be nil; it is copied, and its Node does not matter.
func Caches[V any](c *Cluster, name string, load peercache.Loader[V], opts *peercache.Options) []*peercache.Cache[V] {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range c.programs {
		if !known.is(name) {
			continue
		}
		p, ok := known.(*programOf[V])
		if !ok {
			c.tb.Fatalf("cachetest: cache %q has values of another type than %T", name, *new(V))
		}
		return slices.Clone(p.caches)
	}
	if load == nil {
		c.tb.Fatalf("cachetest: cache %q needs a loader", name)
	}
	p := &programOf[V]{name: name}
	if opts != nil {
		p.opts = *opts
	}
	p.load = func(ctx context.Context, key string) (V, time.Duration, error) {
		c.loads.begin(name)
		defer c.loads.end(name)
		return load(ctx, key)
	}
	for _, m := range c.members {
		m.caches = append(m.caches, p.start(m.node))
	}
	c.programs = append(c.programs, p)
	return slices.Clone(p.caches)
}

func (p *programOf[V]) is(name string) bool { return p.name == name }

func (p *programOf[V]) start(node *peercache.Node) interface{ Close() } {
	opts := p.opts
	opts.Node = node
	cache := peercache.New(p.name, p.load, &opts)
	p.caches = append(p.caches, cache)
	return cache
}
