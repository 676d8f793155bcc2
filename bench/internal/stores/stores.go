// Package stores puts peercache and the libraries it is compared with behind one
// interface, so that a measurement is written once. Every library is used as its
// users would: by its plain Get and Set, with its defaults where there is no
// reason against them. What it costs to go through the interface, a few
// nanoseconds for each call, is the same for all.
//
// This file is the interface and the list; each library has a file of its own.
package stores

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"
)

// A Store is one cache of one library.
//
// Values are strings, which are as immutable as what a cache shares among its
// callers has to be, and which nobody needs to copy. Libraries that keep bytes
// of their own copy them in and out.
type Store interface {
	// Get looks a key up and returns the length of its value. It counts as a
	// use of the entry. A store that is read-through loads what it misses by
	// Config.Load and then has it.
	Get(key string) (size int, ok bool)

	// Set stores a value, which the library may refuse. Of a store that can be
	// filled by loads only it fills the key by one.
	Set(key, value string)

	// Flush returns when what Get and Set have put off has been done.
	Flush()

	// Close ends what the store has running. It must not be used any more.
	Close()
}

// An Accountant is a Store that knows the bytes it holds by its own count.
type Accountant interface {
	// Bytes returns what is held now.
	Bytes() int64
}

// A Config is what a store is to be. Exactly one of Entries and Bytes is set.
type Config struct {
	// Entries is the capacity in entries of KeySize and ValueSize bytes.
	Entries            int
	KeySize, ValueSize int

	// Roomy says that the entries must all fit. Libraries that divide their
	// capacity evenly among shards, which keys are not, get some more of it.
	Roomy bool

	// Bytes is the capacity in bytes. They are those of the values alone unless
	// Whole is set; then they are what the library counts by itself, and keys
	// and values where that is left to its user.
	Bytes int64
	Whole bool

	// Serial says that one goroutine uses the store and that what it does
	// should depend on nothing else: one shard, and housekeeping on the calling
	// goroutine, where the library gives the choice.
	Serial bool

	// Load produces what read-through stores miss. The others ignore it.
	Load func(key string) string
}

// spare is the capacity of libraries that divide it: a quarter more than the
// entries. Of 50,000 in 256 shards, the most that is in use here, the fullest shard
// has a fifth more than the mean.
func (c Config) spare() int {
	if !c.Roomy {
		return c.Entries
	}
	return c.Entries + c.Entries/4
}

// payload is the capacity in bytes of keys and values, for stores that know no
// entries.
func (c Config) payload(overhead int) int64 {
	if c.Bytes > 0 {
		return c.Bytes
	}
	return int64(c.spare()) * int64(c.KeySize+c.ValueSize+overhead)
}

// objects estimates how many entries there will be, for what has to be sized
// ahead. That values have a kilobyte on average where nothing else is known is
// arbitrary.
func (c Config) objects() int {
	if c.Entries > 0 {
		return c.Entries
	}
	return max(int(c.Bytes>>10), 1)
}

// weight is what an entry counts against Bytes, for libraries that leave it to
// their user.
func (c Config) weight(key, value string) int64 {
	switch {
	case c.Bytes == 0:
		return 1
	case c.Whole:
		return int64(len(key) + len(value))
	}
	return max(int64(len(value)), 1) // otter never evicts what weighs nothing
}

// A Library is one way of using one library.
type Library struct {
	Name string
	New  func(Config) (Store, error)

	// Bounds are the kinds of capacity that the library can be given.
	Bounds Bound

	// Concurrent says that many goroutines may use a store.
	Concurrent bool
}

// A Bound is a set of kinds of capacity.
type Bound uint8

// The kinds of capacity.
const (
	ByEntries Bound = 1 << iota
	ByBytes
	ByBoth = ByEntries | ByBytes
)

// ttl is how long entries live where they have to or are meant to expire; longer
// than any measurement.
const ttl = time.Hour

// Names of the libraries that programs here refer to by themselves.
const (
	Cache   = "peercache"       // Cache[ByteView] without a node
	LRU     = "peercache/lru"   // its store alone
	LRUOne  = "peercache/lru-1" // with one shard
	Classic = "golang-lru"      // least recently used and nothing else
)

// all is every library, ours first.
var all = slices.Concat(
	peercacheLibraries,
	lruLibraries,
	[]Library{
		{Name: "otter", New: newOtter, Bounds: ByBoth, Concurrent: true},
		{Name: "otter-ttl", New: newOtterTTL, Bounds: ByBoth, Concurrent: true},
		{Name: "theine", New: newTheine, Bounds: ByBoth, Concurrent: true},
		{Name: "ristretto", New: newRistretto, Bounds: ByBoth, Concurrent: true},
		{Name: Classic, New: newClassic, Bounds: ByBoth, Concurrent: true},
		{Name: "2q", New: newTwoQueue, Bounds: ByEntries, Concurrent: true},
		{Name: "arc", New: newARC, Bounds: ByEntries, Concurrent: true},
		{Name: "sturdyc", New: newSturdyc, Bounds: ByEntries, Concurrent: true},
		{Name: "bigcache", New: newBigcache, Bounds: ByBytes, Concurrent: true},
		{Name: "freecache", New: newFreecache, Bounds: ByBytes, Concurrent: true},
		{Name: "groupcache-view", New: newGroupView, Bounds: ByBytes, Concurrent: true},
		{Name: "groupcache-bytes", New: newGroupBytes, Bounds: ByBytes, Concurrent: true},
		{Name: "groupcache/lru", New: newGroupLRU, Bounds: ByBoth},
		{Name: "map", New: newMap, Bounds: ByEntries},
	},
)

// All returns every library, ours first.
func All() []Library { return slices.Clone(all) }

// Named returns the libraries of these names, in that order. It fails if there is
// none of a name.
func Named(names ...string) ([]Library, error) {
	libs := make([]Library, 0, len(names))
	for _, name := range names {
		i := slices.IndexFunc(all, func(l Library) bool { return l.Name == name })
		if i < 0 {
			known := make([]string, len(all))
			for i := range all {
				known[i] = all[i].Name
			}
			return nil, fmt.Errorf("no library %q; there are %s", name, strings.Join(known, ", "))
		}
		libs = append(libs, all[i])
	}
	return libs, nil
}

// prompt is embedded by stores that put nothing off and have nothing running.
type prompt struct{}

func (prompt) Flush() {}
func (prompt) Close() {}

// bytesOf returns the bytes of s without copying them. Libraries that take keys
// and values as bytes copy them and write to none, and would else be charged with
// a conversion that their users need not make.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
