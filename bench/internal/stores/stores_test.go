package stores_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/peercache/peercache/bench/internal/stores"
)

const (
	keySize   = 8
	valueSize = 100
)

func key(i int) string { return fmt.Sprintf("%0*d", keySize, i) }

func value(i int) string { return strings.Repeat(string(rune('a'+i%26)), valueSize) }

// open returns a store that ends with the test.
func open(t *testing.T, lib stores.Library, c stores.Config) stores.Store {
	t.Helper()
	c.KeySize, c.ValueSize = keySize, valueSize
	s, err := lib.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// configs are the capacities of about a thousand entries that a library takes.
func configs(lib stores.Library) map[string]stores.Config {
	all := make(map[string]stores.Config)
	for _, serial := range []bool{false, true} {
		suffix := map[bool]string{true: ", serial"}[serial]
		all["roomy"+suffix] = stores.Config{Entries: 1000, Roomy: true, Serial: serial}
		if lib.Bounds&stores.ByEntries != 0 {
			all["entries"+suffix] = stores.Config{Entries: 1000, Serial: serial}
		}
		if lib.Bounds&stores.ByBytes != 0 {
			all["bytes"+suffix] = stores.Config{Bytes: 1000 * valueSize, Serial: serial}
			all["whole"+suffix] = stores.Config{Bytes: 1000 * (keySize + valueSize), Whole: true, Serial: serial}
		}
	}
	return all
}

func TestEveryStoreReturnsWhatWasSet(t *testing.T) {
	for _, lib := range stores.All() {
		for name, c := range configs(lib) {
			t.Run(lib.Name+"/"+name, func(t *testing.T) {
				c.Load = func(string) string { return value(0) }
				s := open(t, lib, c)
				for i := range 10 {
					s.Set(key(i), value(i))
				}
				s.Flush()
				for i := range 10 {
					if size, ok := s.Get(key(i)); size != valueSize || !ok {
						t.Errorf("Get(%s) = %d, %v, want %d, true", key(i), size, ok, valueSize)
					}
				}
			})
		}
	}
}

func TestNothingIsThereThatWasNotSet(t *testing.T) {
	for _, lib := range stores.All() {
		if strings.HasPrefix(lib.Name, "groupcache-") {
			continue // loads
		}
		t.Run(lib.Name, func(t *testing.T) {
			s := open(t, lib, stores.Config{Entries: 1000})
			s.Set(key(1), value(1))
			s.Flush()
			if size, ok := s.Get(key(2)); ok {
				t.Errorf("Get of an unknown key = %d, true", size)
			}
		})
	}
}

func TestReadThroughStoresLoadWhatTheyMiss(t *testing.T) {
	libs, err := stores.Named(stores.Cache, "peercache-string", "peercache-node-struct", "groupcache-view", "groupcache-bytes")
	if err != nil {
		t.Fatal(err)
	}
	for _, lib := range libs {
		t.Run(lib.Name, func(t *testing.T) {
			var loaded []string
			s := open(t, lib, stores.Config{Entries: 1000, Load: func(k string) string {
				loaded = append(loaded, k)
				return "loaded"
			}})
			for range 2 {
				if size, ok := s.Get(key(1)); size != len("loaded") || !ok {
					t.Errorf("Get = %d, %v, want %d, true", size, ok, len("loaded"))
				}
			}
			if !slices.Equal(loaded, []string{key(1)}) {
				t.Errorf("loaded %q, want one key once", loaded)
			}
		})
	}
}

func TestStoresWithoutALoaderRefuseToBeReadThrough(t *testing.T) {
	libs, err := stores.Named("groupcache-view")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := libs[0].New(stores.Config{Entries: 1}); err == nil {
		t.Error("groupcache without Load = nil, want an error")
	}
}

// held counts the first n keys that are there.
func held(s stores.Store, n int) int {
	there := 0
	for i := range n {
		if _, ok := s.Get(key(i)); ok {
			there++
		}
	}
	return there
}

func TestARoomyStoreHoldsEveryEntry(t *testing.T) {
	const entries = 50_000
	for _, lib := range stores.All() {
		if strings.HasPrefix(lib.Name, "groupcache-") {
			continue // would load what is not there
		}
		t.Run(lib.Name, func(t *testing.T) {
			s := open(t, lib, stores.Config{Entries: entries, Roomy: true})
			for i := range entries {
				s.Set(key(i), value(i))
				if i%256 == 0 {
					s.Flush()
				}
			}
			s.Flush()
			if n := held(s, entries); n != entries {
				t.Errorf("holds %d entries, want all %d", n, entries)
			}
		})
	}
}

func TestASerialStoreKeepsToItsCapacity(t *testing.T) {
	const capacity, entries = 500, 5_000
	for _, lib := range stores.All() {
		switch {
		case strings.HasPrefix(lib.Name, "groupcache-"), lib.Name == "map":
			continue
		case lib.Name == "peercache-node-struct":
			continue // charges an entry in full once it has been read, and has room for more before
		}
		for name, c := range map[string]stores.Config{
			"entries": {Entries: capacity, Serial: true},
			"bytes":   {Bytes: capacity * valueSize, Serial: true},
		} {
			bound := map[string]stores.Bound{"entries": stores.ByEntries, "bytes": stores.ByBytes}[name]
			if lib.Bounds&bound == 0 || lib.Name == "bigcache" || lib.Name == "freecache" {
				continue // both have more room than was asked for, if that was little
			}
			t.Run(lib.Name+"/"+name, func(t *testing.T) {
				s := open(t, lib, c)
				for i := range entries {
					s.Set(key(i), value(i))
					s.Flush()
				}
				if n := held(s, entries); n == 0 || n > capacity {
					t.Errorf("holds %d entries, want 1 to %d", n, capacity)
				}
			})
		}
	}
}

func TestLRUWithOneShardHoldsAsManyEntriesAsItIsGiven(t *testing.T) {
	const capacity = 100
	libs, err := stores.Named(stores.LRUOne)
	if err != nil {
		t.Fatal(err)
	}
	const size = 1_000 // more than an entry is charged for beside its value, which cannot be prepaid
	for name, c := range map[string]stores.Config{
		"entries":         {Entries: capacity},
		"bytes of values": {Bytes: capacity * size},
	} {
		t.Run(name, func(t *testing.T) {
			c.KeySize, c.ValueSize = keySize, size
			s, err := libs[0].New(c)
			if err != nil {
				t.Fatal(err)
			}
			for i := range capacity {
				s.Set(key(i), strings.Repeat("v", size))
			}
			if n := held(s, capacity); n != capacity {
				t.Errorf("holds %d entries, want %d", n, capacity)
			}
			s.Set(key(capacity), strings.Repeat("v", size))
			if n := held(s, capacity+1); n > capacity {
				t.Errorf("holds %d entries, want at most %d", n, capacity)
			}
		})
	}
}

func TestBytesOfStoresCountedHereFollowWhatTheyHold(t *testing.T) {
	libs, err := stores.Named(stores.Classic)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, libs[0], stores.Config{Bytes: 100})
	account, ok := s.(stores.Accountant)
	if !ok {
		t.Fatal("golang-lru bounded by bytes has no account")
	}
	for _, step := range []struct {
		key  string
		size int
		want int64
	}{
		{"a", 60, 60},
		{"a", 30, 30}, // replaced
		{"b", 70, 100},
		{"c", 40, 40}, // a and then b make room
		{"d", 101, 40},
		{"c", 101, 0}, // too large, but what it replaces is outdated
	} {
		s.Set(step.key, strings.Repeat("v", step.size))
		if got := account.Bytes(); got != step.want {
			t.Errorf("after %s of %d bytes: Bytes = %d, want %d", step.key, step.size, got, step.want)
		}
	}
}

func TestNamedRefusesNamesItDoesNotKnow(t *testing.T) {
	if libs, err := stores.Named(stores.LRU, "otterly"); err == nil || !strings.Contains(err.Error(), `"otterly"`) {
		t.Errorf("Named = %v, %v, want an error about otterly", libs, err)
	}
}
