package consistenthash

// This file turns names, keys and slots into well-mixed 64-bit numbers. What
// they mean for owners is decided elsewhere.

import "github.com/zeebo/xxh3"

// Slots is the number of slots of a [Table]: enough for a slot to be a small
// part of a node's share in any cluster (256 slots with 256 nodes), and few
// enough for the owners of all to stay in a processor's cache (512 KiB).
const Slots = 1 << slotBits

const (
	slotBits = 16

	// nodeSeed keeps the hashes of node IDs apart from those of keys; gamma
	// (2^64 divided by the golden ratio, odd) spreads counters over 64 bits
	// before mix. Both arbitrary, both part of the protocol.
	nodeSeed = 0x70656572_63616368
	gamma    = 0x9e3779b97f4a7c15
)

// Seed returns the seed for [Hash] that belongs to a cache of that name.
// Caches with different names place the same key on different nodes, so that
// a key popular in all of them does not load one node. It does not allocate.
func Seed(name string) uint64 { return xxh3.HashString(name) }

// Hash returns the hash of key: XXH3 with 64 bits (Yann Collet,
// https://xxhash.com) and the given seed, the same on every machine. It does
// not allocate.
func Hash(seed uint64, key string) uint64 { return xxh3.HashStringSeed(key, seed) }

// Slot returns the slot of a key with the given hash: its top 16 bits, a
// number from 0 to [Slots]-1. The other bits are free for other uses.
func Slot(hash uint64) int { return int(hash >> (64 - slotBits)) }

// slotKey returns the number that stands for a slot in scores.
func slotKey(slot int) uint64 { return mix(uint64(slot+1) * gamma) }

// mix is a bijection of 64-bit numbers in which every input bit affects every
// output bit: the finalizer of MurmurHash3 with the constants that David
// Stafford found ("Better Bit Mixing", 2011, variant 13).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
