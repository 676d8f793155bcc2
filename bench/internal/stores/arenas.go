package stores

import (
	"context"
	"fmt"

	"github.com/allegro/bigcache/v3"
	"github.com/coocood/freecache"
)

// The libraries that keep entries in large buffers without pointers. They are
// bounded by the bytes of these; a capacity in entries is turned into bytes with
// what an entry takes there beside key and value.

type bigcacheStore struct{ cache *bigcache.BigCache }

// bigcacheOverhead is the header of an entry and its length before it, in bytes.
const bigcacheOverhead = 18 + 2

// newBigcache gives capacity in whole mebibytes, which is all that bigcache takes.
func newBigcache(c Config) (Store, error) {
	shards := 256
	if c.Serial {
		shards = 1
	}
	config := bigcache.Config{
		Shards:             shards,
		LifeWindow:         ttl,
		MaxEntriesInWindow: c.objects(),
		MaxEntrySize:       max(c.KeySize+c.ValueSize+bigcacheOverhead, 64),
		HardMaxCacheSize:   max(int((c.payload(bigcacheOverhead)+1<<20-1)>>20), 1),
	}
	cache, err := bigcache.New(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("bigcache: %w", err)
	}
	return bigcacheStore{cache}, nil
}

func (s bigcacheStore) Get(key string) (int, bool) {
	v, err := s.cache.Get(key)
	return len(v), err == nil
}

func (s bigcacheStore) Set(key, value string) {
	// An error says that the value is too large for a shard: it was refused.
	_ = s.cache.Set(key, bytesOf(value))
}

func (s bigcacheStore) Flush() {}

func (s bigcacheStore) Close() {
	_ = s.cache.Close() // never fails
}

type freecacheStore struct {
	prompt

	cache *freecache.Cache
}

// freecacheOverhead is the header of an entry, in bytes.
const freecacheOverhead = 24

func newFreecache(c Config) (Store, error) {
	return freecacheStore{cache: freecache.NewCache(int(c.payload(freecacheOverhead)))}, nil
}

func (s freecacheStore) Get(key string) (int, bool) {
	v, err := s.cache.Get(bytesOf(key))
	return len(v), err == nil
}

func (s freecacheStore) Set(key, value string) {
	// An error says that the value is larger than 1/1024 of the cache: it was
	// refused.
	_ = s.cache.Set(bytesOf(key), bytesOf(value), 0)
}
