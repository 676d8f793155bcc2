package stores

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/peercache/peercache"
)

// This library through its public API: with values of each kind, alone and on a
// node. A cache on a node is the only member of its cluster, so that it owns
// every key and nothing is asked of a peer.

var peercacheLibraries = []Library{
	{Name: Cache, New: newPeercache(view{}, false), Bounds: ByBoth, Concurrent: true},
	{Name: "peercache-string", New: newPeercache(text{}, false), Bounds: ByBoth, Concurrent: true},
	{Name: "peercache-struct", New: newPeercache(typed{}, false), Bounds: ByBoth, Concurrent: true},
	{Name: "peercache-node", New: newPeercache(view{}, true), Bounds: ByBoth, Concurrent: true},
	{Name: "peercache-node-struct", New: newPeercache(typed{}, true), Bounds: ByBoth, Concurrent: true},
}

// A kind is how a value of type V holds what a benchmark stores.
type kind[V any] interface {
	make(value string) V
	size(v V) int
}

type view struct{}

func (view) make(value string) peercache.ByteView { return peercache.View(value) }
func (view) size(v peercache.ByteView) int        { return v.Len() }

type text struct{}

func (text) make(value string) string { return value }
func (text) size(v string) int        { return len(v) }

type typed struct{}

// A record is a small struct that is encoded as JSON.
type record struct {
	ID   int64
	Body string
}

func (typed) make(value string) record { return record{ID: int64(len(value)), Body: value} }
func (typed) size(v record) int        { return len(v.Body) }

type cacheStore[V any, K kind[V]] struct {
	kind  K
	cache *peercache.Cache[V]
	node  *peercache.Node
}

func newPeercache[V any, K kind[V]](k K, onNode bool) func(Config) (Store, error) {
	return func(c Config) (Store, error) {
		maxBytes := c.Bytes
		if c.Entries > 0 {
			charge, err := entryCharge[V](c, k, onNode)
			if err != nil {
				return nil, err
			}
			maxBytes = charge * int64(c.spare())
		}
		return openCache[V](c, k, onNode, maxBytes)
	}
}

func openCache[V any, K kind[V]](c Config, k K, onNode bool, maxBytes int64) (*cacheStore[V, K], error) {
	s := &cacheStore[V, K]{kind: k}
	opts := &peercache.Options{MaxBytes: maxBytes, MaxTTL: 24 * time.Hour}
	if onNode {
		const self = "http://127.0.0.1:1" // nobody ever asks there
		node, err := peercache.NewNode(self, nil)
		if err != nil {
			return nil, err
		}
		if err := node.SetPeers(peercache.Peer{URL: self}); err != nil {
			return nil, err
		}
		s.node, opts.Node = node, node
	}
	s.cache = peercache.New("bench", func(_ context.Context, key string) (V, time.Duration, error) {
		if c.Load == nil {
			var zero V
			return zero, 0, peercache.ErrNotFound
		}
		return k.make(c.Load(key)), ttl, nil
	}, opts)
	return s, nil
}

// entryCharge is what a cache counts an entry for, once it has been read. The
// public API does not tell, so a cache with one entry is asked.
func entryCharge[V any, K kind[V]](c Config, k K, onNode bool) (int64, error) {
	s, err := openCache[V](c, k, onNode, 1<<30)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	key := strings.Repeat("k", c.KeySize)
	s.Set(key, strings.Repeat("v", c.ValueSize))
	if _, ok := s.Get(key); !ok {
		return 0, errors.New("peercache does not keep an entry")
	}
	return s.Bytes(), nil
}

func (s *cacheStore[V, K]) Get(key string) (int, bool) {
	v, err := s.cache.Get(context.Background(), key)
	if err != nil {
		return 0, false
	}
	return s.kind.size(v), true
}

func (s *cacheStore[V, K]) Set(key, value string) {
	if err := s.cache.Set(context.Background(), key, s.kind.make(value), ttl); err != nil {
		panic(err) // there is no peer that could fail
	}
}

func (s *cacheStore[V, K]) Bytes() int64 { return s.cache.Stats().Bytes }

func (s *cacheStore[V, K]) Flush() {}

func (s *cacheStore[V, K]) Close() {
	s.cache.Close()
	if s.node != nil {
		// Nobody has to be told, so leaving cannot take long or fail.
		if err := s.node.Leave(context.Background()); err != nil {
			panic(err)
		}
	}
}
