package lru

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// slabKey returns key number i: of a length that begins or ends a class, or any.
func slabKey(r *rand.Rand, i int) string {
	lengths := []int{0, 1, 8, 9, 16, 17, 24, 25, 32, 33, 48, 49, 64, 65, 96, 97, 128, 129, 255, 256, 257, 258, 5000}
	n := r.IntN(64)
	if r.IntN(2) == 0 {
		n = lengths[r.IntN(len(lengths))]
	}
	s := fmt.Sprint(i)
	return strings.Repeat("k", max(0, n-len(s))) + s[:min(n, len(s))]
}

// TestSlabIsAMapOfPlaces adds and drops in tides, so that pages fill, empty, are
// given back and made again: every key stays where it was put, with what was put
// beside it.
func TestSlabIsAMapOfPlaces(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var s slab[int]
	type entry struct {
		key string
		v   int
	}
	held := map[ref]entry{}
	var refs []ref
	most := 0
	check := func() {
		t.Helper()
		if err := s.audit(); err != nil {
			t.Fatal(err)
		}
		found := 0
		s.inUse(0, len(s.pages), func(r ref, n *node[int]) {
			if e, ok := held[r]; !ok || n.v != e.v {
				t.Fatalf("%d has %d, want %d, %t", r, n.v, e.v, ok)
			}
			found++
		})
		if found != len(held) {
			t.Fatalf("%d nodes are in use, want %d", found, len(held))
		}
		for at, e := range held {
			if s.used(at) == nil || s.key(at) != e.key || s.keyBytes(at) != len(e.key) || !s.holds(at, e.key) || s.holds(at, e.key+"k") {
				t.Fatalf("%d has the key %q of %d bytes, want %q", at, s.key(at), s.keyBytes(at), e.key)
			}
			if n := len(e.key); n > 0 && (s.holds(at, e.key[:n-1]) || s.holds(at, e.key[:n-1]+"\x00")) {
				t.Fatalf("%d takes another key for %q", at, e.key)
			}
		}
	}
	for i := range 60_000 {
		grow := 90 // of a hundred
		if i/6000%2 == 1 {
			grow = 8
		}
		if r.IntN(100) < grow {
			e := entry{slabKey(r, i), i + 1}
			at := s.add(e.key)
			if _, taken := held[at]; taken || at == 0 {
				t.Fatalf("add gives %d, which is taken", at)
			}
			s.node(at).v = e.v
			held[at] = e
			refs = append(refs, at)
		} else if len(refs) > 0 {
			at := r.IntN(len(refs))
			s.drop(refs[at])
			delete(held, refs[at])
			refs[at] = refs[len(refs)-1]
			refs = refs[:len(refs)-1]
		}
		most = max(most, len(s.pages))
		if i%1000 == 0 {
			check()
		}
	}
	for len(refs) > 0 {
		at := refs[len(refs)-1]
		refs = refs[:len(refs)-1]
		s.drop(at)
		delete(held, at)
	}
	check()
	if most < 150 {
		t.Errorf("%d pages at most, want enough of them for the directory to be cut", most)
	}
	inUse := 0
	for i := range s.pages {
		if s.pages[i].nodes != nil {
			inUse++
		}
	}
	if inUse > len(keyRoom) {
		t.Errorf("%d pages are left of %d without entries, want at most one a class", inUse, most)
	}
}

func TestSlabGivesTheDirectoryBack(t *testing.T) {
	const pages = 1000
	var s slab[int]
	var refs []ref
	for range pages * pageNodes {
		refs = append(refs, s.add("key"))
	}
	if len(s.pages) != pages+1 {
		t.Fatalf("%d pages for %d keys, want %d, with the one that is none", len(s.pages), len(refs), pages+1)
	}
	s.drop(refs[0]) // the page with room that stays

	// An entry at the end keeps what is before it.
	for _, r := range refs[pageNodes : len(refs)-1] {
		s.drop(r)
	}
	if err := s.audit(); err != nil || len(s.pages) != pages+1 || len(s.unused) != pages-2 {
		t.Errorf("%d pages, %d of them unused, %v, want %d, %d", len(s.pages), len(s.unused), err, pages+1, pages-2)
	}
	s.drop(refs[len(refs)-1])
	if err := s.audit(); err != nil || len(s.pages) != 2 || cap(s.pages) > 4 || len(s.unused) != 0 {
		t.Errorf("%d pages, room for %d, %d unused, %v, want the first and the one that is none", len(s.pages), cap(s.pages), len(s.unused), err)
	}

	// What was cut off is made again, and what was used before is not lost.
	for range 200 * pageNodes {
		s.add("key")
	}
	for _, r := range refs[1:pageNodes] {
		if !s.holds(r, "key") {
			t.Errorf("%d is lost", r)
		}
	}
	if err := s.audit(); err != nil || len(s.pages) != 202 {
		t.Errorf("%d pages, %v, want 202", len(s.pages), err)
	}
}

// TestSlabKeepsOneEmptyPage: entries that come and go one by one would make a page and
// drop it each time.
func TestSlabKeepsOneEmptyPage(t *testing.T) {
	for _, key := range []string{"", "key", strings.Repeat("k", 128)} {
		var s slab[[4]int]
		if n := testing.AllocsPerRun(100, func() { s.drop(s.add(key)) }); n != 0 {
			t.Errorf("a key of %d bytes that comes and goes allocates %v times, want 0", len(key), n)
		}
	}
}

func TestSlabCopiesKeys(t *testing.T) {
	for _, n := range []int{1, 8, 256, 257, 5000} {
		var s slab[int]
		key := []byte(strings.Repeat("a", n))
		var at ref
		func(alias string) { at = s.add(alias) }(string(key))
		got := s.key(at)
		s.drop(at)
		s.add(strings.Repeat("b", n))
		if got != string(key) {
			t.Errorf("the key of %d bytes that was returned has changed with its node", n)
		}
	}
}

func TestKeysFillTheRoomOfTheirClass(t *testing.T) {
	longKey := int(keyRoom[longClass-1]) + 1
	for n := range longKey + 10 {
		class := keyClass(n)
		switch {
		case n >= longKey:
			if class != longClass {
				t.Errorf("a key of %d bytes is of class %d, want that of the long ones, %d", n, class, longClass)
			}
		case int(keyRoom[class]) < n || class > 0 && int(keyRoom[class-1]) >= n:
			t.Errorf("a key of %d bytes is of class %d with room for %d, want the smallest that fits", n, class, keyRoom[class])
		}
	}
}
