package consistenthash_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/peercache/peercache/consistenthash"
)

// The values in this file are the protocol: processes that compute others do
// not agree with those in production. A test here that fails asks for a new
// version of the protocol, never for new values.

func TestHashesAreFrozen(t *testing.T) {
	for _, test := range []struct {
		name, key  string
		seed, hash uint64
		slot       int
	}{
		{"", "", 0x2d06800538d394c2, 0x412f1275e10017f3, 16687},
		{"users", "", 0x4ce8a257f7c83669, 0x4fb0b340cc1e0693, 20400},
		{"users", "42", 0x4ce8a257f7c83669, 0xb538783cf3a08805, 46392},
		{"users", "user-0001", 0x4ce8a257f7c83669, 0x6c91de64c3918225, 27793},
		{"sessions", "user-0001", 0x4e76b61ad7e92501, 0x2daae24561f715a8, 11690},
		{"sessions", "Füße\x00\xff", 0x4e76b61ad7e92501, 0x540be1154b5128b2, 21515},
		{"sessions", fmt.Sprintf("%0300d", 7), 0x4e76b61ad7e92501, 0xbff4ef6964f25a53, 49140}, // another algorithm beyond 240 bytes
	} {
		seed := consistenthash.Seed(test.name)
		hash := consistenthash.Hash(seed, test.key)
		if slot := consistenthash.Slot(hash); seed != test.seed || hash != test.hash || slot != test.slot {
			t.Errorf("{%q, %.20q}: seed, hash, slot = %#x, %#x, %d, want %#x, %#x, %d",
				test.name, test.key, seed, hash, slot, test.seed, test.hash, test.slot)
		}
	}
}

func TestScoresAreFrozen(t *testing.T) {
	for _, test := range []struct {
		id           string
		weight, slot int
		score        uint64
	}{
		{"a", 1, 0, 0x2851540fdd40000},
		{"a", 1, 65535, 0x7d3d9634f10000},
		{"a", 3, 65535, 0x29bf3211a50000},
		{"http://10.0.0.5:8080", 100, 4711, 0x7ce039f980000},
	} {
		got := consistenthash.Score(consistenthash.Node{ID: test.id, Weight: test.weight}, test.slot)
		if got != test.score {
			t.Errorf("score of %q, weight %d, in slot %d = %#x, want %#x", test.id, test.weight, test.slot, got, test.score)
		}
	}
}

func TestTablesAreFrozen(t *testing.T) {
	for _, test := range []struct {
		name   string
		nodes  []consistenthash.Node
		digest uint64
		owners []int // of slot 4711
	}{
		{"none", nil, 0, nil},
		{"1", members(1), 0xd4419f4fbdce5cfd, []int{0}},
		{"3", members(3), 0x2e479f7872962060, []int{1, 0, 2}},
		{"5", members(5), 0x89cc0d63169517df, []int{1, 0, 2, 3, 4}},
		{"40", members(40), 0x6c173d5e56615d8b, []int{21, 27, 22, 24, 30, 10}},
		{"40Weighted", weighted(members(40)), 0x3ca3a680b2511df0, []int{21, 27, 22, 24, 30, 13}},
		{"40In3Zones", inZones(members(40), 3), 0xfb95180a839942f7, []int{21, 22, 10, 27, 24, 30}},
		{"40WeightedIn7Zones", inZones(weighted(members(40)), 7), 0xb4c54f4cbf4df98a, []int{21, 27, 24, 30, 13, 3}},
		{"300", members(300), 0xc489f06af5061f4e, []int{50, 163, 122, 187, 292, 208}},
	} {
		t.Run(test.name, func(t *testing.T) {
			table := consistenthash.New(test.nodes)
			if got := table.Digest(); got != test.digest {
				t.Errorf("Digest() = %#x, want %#x", got, test.digest)
			}
			if got := table.AppendOwners(nil, 4711, 6); !slices.Equal(got, test.owners) {
				t.Errorf("AppendOwners(nil, 4711, 6) = %v, want %v", got, test.owners)
			}
		})
	}
}
