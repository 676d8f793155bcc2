package stores

import (
	"math"

	"github.com/peercache/peercache/lru"
)

// Package lru of this library: the only file here that knows it.

var lruLibraries = []Library{
	{Name: LRU, New: newLRU, Bounds: ByBoth, Concurrent: true},
	{Name: LRUOne, New: newLRUOne, Bounds: ByBoth, Concurrent: true},
}

// stringHeader is what a V that is a string takes in an entry, in bytes.
const stringHeader = 16

type peerLRU struct {
	prompt

	items *lru.Cache[string]

	// prepaid is what an entry is charged for beside its value and is not to
	// count: only the sizes of objects bound a cache whose hit ratio is compared.
	prepaid int64
}

func newLRU(c Config) (Store, error) { return makeLRU(c, 0) }

func newLRUOne(c Config) (Store, error) { return makeLRU(c, 1) }

func makeLRU(c Config, shards int) (Store, error) {
	s := &peerLRU{}
	maxBytes := c.Bytes
	switch {
	case c.Entries > 0:
		maxBytes = lruBytes(c.spare(), c.KeySize, c.ValueSize)
	case !c.Whole:
		s.prepaid = int64(c.KeySize) + stringHeader + lru.Overhead
	}
	s.items = lru.New(lru.Options[string]{MaxBytes: maxBytes, Shards: shards})
	return s, nil
}

// lruBytes is the MaxBytes that n entries of these sizes fill exactly.
func lruBytes(n, keySize, valueSize int) int64 {
	return int64(n) * (int64(keySize) + stringHeader + int64(valueSize) + lru.Overhead)
}

func (s *peerLRU) Get(key string) (int, bool) {
	v, ok := s.items.Get(key, 0)
	return len(v), ok
}

// Set charges an entry that is smaller than its prepaid share with that share: the
// comparison errs against this library.
func (s *peerLRU) Set(key, value string) {
	size := stringHeader + int64(len(value)) - s.prepaid
	s.items.Set(key, 0, value, lru.Terms{Size: max(size, 0), Expires: math.MaxInt64})
}

func (s *peerLRU) Bytes() int64 { return s.items.Bytes() }
