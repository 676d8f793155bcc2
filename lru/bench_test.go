package lru_test

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/peercache/peercache/lru"
)

const benchKeys = 1 << 16

func benchCache(b *testing.B, maxBytes int64) (*lru.Cache[record], []string, record, int64) {
	b.Helper()
	c := lru.New[record](lru.Options[record]{MaxBytes: maxBytes})
	keys := make([]string, benchKeys)
	v, size := newRecord(100)
	for i := range keys {
		keys[i] = "user:" + strconv.Itoa(i)
		c.Set(keys[i], 0, v, major(size, never))
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	b.ReportAllocs()
	return c, keys, v, size
}

// BenchmarkHit reads keys in random order; "few" stay in the processor's cache.
func BenchmarkHit(b *testing.B) {
	for name, n := range map[string]int{"few": 1 << 10, "many": benchKeys} {
		b.Run(name, func(b *testing.B) {
			c, keys, _, _ := benchCache(b, 1<<30)
			for i := 0; b.Loop(); i++ {
				if _, ok := c.Get(keys[i&(n-1)], 0); !ok {
					b.Fatal("miss")
				}
			}
		})
	}
}

func BenchmarkHitParallel(b *testing.B) {
	c, keys, _, _ := benchCache(b, 1<<30)
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(benchKeys); pb.Next(); i++ {
			if _, ok := c.Get(keys[i&(benchKeys-1)], 0); !ok {
				b.Error("miss")
				return
			}
		}
	})
}

func BenchmarkMiss(b *testing.B) {
	c, keys, _, _ := benchCache(b, 0)
	for i := 0; b.Loop(); i++ {
		c.Get(keys[i&(benchKeys-1)], 0)
	}
}

// BenchmarkSet replaces entries where there is room, and evicts one for each
// where there is not.
func BenchmarkSet(b *testing.B) {
	for name, maxBytes := range map[string]int64{"replace": 1 << 30, "evict": 1 << 22} {
		b.Run(name, func(b *testing.B) {
			c, keys, v, size := benchCache(b, maxBytes)
			for i := 0; b.Loop(); i++ {
				c.Set(keys[i&(benchKeys-1)], 0, v, major(size, never))
			}
		})
	}
}

// BenchmarkSetBoth has room for an eighth of the entries it sets. A major one
// then looks for minor ones in all the shards: "few" has one in a hundred, "half"
// has enough in each shard.
func BenchmarkSetBoth(b *testing.B) {
	for name, n := range map[string]int{"few": 100, "half": 2} {
		b.Run(name, func(b *testing.B) {
			c, keys, v, size := benchCache(b, 1<<21)
			for i := 0; b.Loop(); i++ {
				c.Set(keys[i&(benchKeys-1)], 0, v, lru.Terms{Size: size, Expires: never, Minor: i%n == 0})
			}
		})
	}
}

func BenchmarkSetParallel(b *testing.B) {
	c, keys, v, size := benchCache(b, 1<<22)
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(benchKeys); pb.Next(); i++ {
			c.Set(keys[i&(benchKeys-1)], 0, v, major(size, never))
		}
	})
}
