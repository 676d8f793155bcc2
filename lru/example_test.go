package lru_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/peercache/peercache/lru"
)

// base is where the examples' clock starts. Differences of time.Time are taken
// on the monotonic clock, which nobody can set.
var base = time.Now()

func nanos() int64 { return int64(time.Since(base)) }

func Example() {
	users := lru.New[string](lru.Options[string]{MaxBytes: 64 << 20})

	now := nanos()
	name := "Ada Lovelace"
	const header = 16 // of a string: the V itself
	users.Set("ada", now, name, lru.Terms{Size: header + int64(len(name)), Expires: now + int64(time.Minute)})

	fmt.Println(users.Get("ada", nanos()))
	_, ok := users.Get("ada", now+int64(time.Minute))
	fmt.Println(ok)
	// Output:
	// Ada Lovelace true
	// false
}

func ExampleNew() {
	entry := int64(len("a")) + 8 + lru.Overhead
	c := lru.New[int](lru.Options[int]{MaxBytes: 2 * entry, Shards: 1})
	c.Set("a", 0, 1, lru.Terms{Size: 8, Expires: 100})
	c.Set("b", 0, 2, lru.Terms{Size: 8, Expires: 100})
	c.Get("a", 0)
	c.Set("c", 0, 3, lru.Terms{Size: 8, Expires: 100}) // b makes room: nobody has asked for it

	fmt.Println(c.Peek("a", 0))
	fmt.Println(c.Peek("b", 0))
	fmt.Println(c.Bytes() == 2*entry)
	// Output:
	// 1 true
	// 0 false
	// true
}

func ExampleOptions_onDeparture() {
	c := lru.New[int](lru.Options[int]{
		MaxBytes: 1 << 20,
		OnDeparture: func(key string, v int, cause lru.Cause) {
			fmt.Println(key, v, cause)
		},
	})
	terms := lru.Terms{Size: 8, Expires: 100}
	c.Set("a", 0, 1, terms)
	c.Set("a", 0, 2, terms)
	c.Set("b", 0, 3, terms)
	c.Remove("a")
	c.Get("b", 100)
	// Output:
	// a 1 replaced
	// a 2 removed
	// b 3 expired
}

func ExampleCause_String() {
	fmt.Println(lru.Evicted, lru.Expired, lru.Removed, lru.Replaced, lru.Cleared)
	// Output: evicted expired removed replaced cleared
}

func ExampleCache_Get() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, lru.Terms{Size: 8, Expires: 100})
	fmt.Println(c.Get("k", 99))
	fmt.Println(c.Get("k", 100))
	// Output:
	// 1 true
	// 0 false
}

func ExampleCache_GetTerms() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, lru.Terms{Size: 8, Expires: 100})
	v, expires, ok := c.GetTerms("k", 70)
	fmt.Println(v, expires-70, ok)
	// Output: 1 30 true
}

func ExampleCache_Peek() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, lru.Terms{Size: 8, Expires: 100})
	fmt.Println(c.Peek("k", 99))
	fmt.Println(c.Stats().Hits)
	// Output:
	// 1 true
	// 0
}

func ExampleCache_PeekTerms() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, lru.Terms{Size: 8, Expires: 100})
	fmt.Println(c.PeekTerms("k", 0))
	// Output: 1 100 true
}

func ExampleCache_Set() {
	c := lru.New[string](lru.Options[string]{MaxBytes: 1024})
	fmt.Println(c.Set("k", 0, "small", lru.Terms{Size: 16 + 5, Expires: 100}))
	fmt.Println(c.Set("k", 0, "pretends to be large", lru.Terms{Size: 4096, Expires: 100}))
	fmt.Println(c.Len()) // what k was before is gone, too
	// Output:
	// true
	// false
	// 0
}

func ExampleCache_Update() {
	c := lru.New[string](lru.Options[string]{MaxBytes: 1024})
	c.Set("k", 0, "v", lru.Terms{Size: 16 + 1, Expires: 100})
	shorten := func(v string, t lru.Terms) (string, lru.Terms) {
		t.Expires = min(t.Expires, 10)
		return v, t
	}
	fmt.Println(c.Update("k", 0, shorten))
	_, ok := c.Get("k", 10)
	fmt.Println(ok)
	// Output:
	// true
	// false
}

func ExampleCache_Remove() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, lru.Terms{Size: 8, Expires: 100})
	fmt.Println(c.Remove("k"), c.Remove("k"))
	// Output: true false
}

func ExampleCache_RemoveFunc() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	for _, key := range []string{"user:1", "user:2", "file:1"} {
		c.Set(key, 0, 1, lru.Terms{Size: 8, Expires: 100})
	}
	fmt.Println(c.RemoveFunc(func(key string, _ int) bool { return strings.HasPrefix(key, "user:") }))
	fmt.Println(c.Peek("file:1", 0))
	// Output:
	// 2
	// 1 true
}

func ExampleCache_Clear() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, lru.Terms{Size: 8, Expires: 100})
	c.Clear()
	fmt.Println(c.Len(), c.Bytes())
	// Output: 0 0
}

func ExampleCache_Resize() {
	entry := int64(len("a")) + 8 + lru.Overhead
	c := lru.New[int](lru.Options[int]{MaxBytes: 10 * entry})
	for key := range strings.SplitSeq("abcdefghij", "") {
		c.Set(key, 0, 1, lru.Terms{Size: 8, Expires: 100})
	}
	fmt.Println(c.Len())
	c.Resize(4*entry, 0)
	fmt.Println(c.Len())
	// Output:
	// 10
	// 4
}

func ExampleCache_All() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("a", 0, 1, lru.Terms{Size: 8, Expires: 100})
	c.Set("b", 0, 2, lru.Terms{Size: 8, Expires: 200})
	for k, v := range c.All(100) { // a has expired
		fmt.Println(k, v)
	}
	// Output: b 2
}

func ExampleCache_Hottest() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	for i, key := range []string{"cold", "warm", "hot"} {
		c.Set(key, 0, i, lru.Terms{Size: 8, Expires: 100})
		for range i {
			c.Get(key, 0)
		}
	}
	for _, e := range c.Hottest(2, 0) { // to hand over, or to keep for the next start
		fmt.Println(e.Key, e.Value, e.Terms.Expires)
	}
	// Output:
	// hot 2 100
	// warm 1 100
}

func ExampleCache_Len() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("a", 0, 1, lru.Terms{Size: 8, Expires: 100})
	c.Set("b", 0, 2, lru.Terms{Size: 8, Expires: 100})
	fmt.Println(c.Len())
	// Output: 2
}

func ExampleCache_Bytes() {
	c := lru.New[[]byte](lru.Options[[]byte]{MaxBytes: 1 << 20})
	v := []byte("value")
	const header = 24 // of a slice: the V itself
	size := header + int64(cap(v))
	c.Set("key", 0, v, lru.Terms{Size: size, Expires: 100})
	fmt.Println(c.Bytes() == int64(len("key"))+size+lru.Overhead)
	// Output: true
}

func ExampleCache_MinorBytes() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("a", 0, 1, lru.Terms{Size: 8, Expires: 100})
	c.Set("b", 0, 2, lru.Terms{Size: 8, Expires: 100, Minor: true})
	fmt.Println(c.MinorBytes() == int64(len("b"))+8+lru.Overhead)
	// Output: true
}

func ExampleTerms() {
	entry := int64(len("a")) + 8 + lru.Overhead
	c := lru.New[int](lru.Options[int]{MaxBytes: 2 * entry, MinorBytes: entry})
	terms := lru.Terms{Size: 8, Expires: 100}
	c.Set("a", 0, 1, terms)

	terms.Minor = true
	c.Set("b", 0, 2, terms)
	terms.Minor = false
	c.Set("c", 0, 3, terms) // b makes room, although a is older

	_, ok := c.Get("b", 0)
	fmt.Println(ok)
	fmt.Println(c.Get("a", 0))
	// Output:
	// false
	// 1 true
}

func ExampleCache_Stats() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("a", 0, 1, lru.Terms{Size: 8, Expires: 100})
	c.Set("b", 0, 2, lru.Terms{Size: 8, Expires: 100})
	c.Get("a", 50)
	c.Get("a", 100) // expired
	c.Remove("b")
	st := c.Stats()
	fmt.Println(st.Hits, st.Misses, st.Expirations, st.Removals)
	// Output: 1 1 1 1
}
