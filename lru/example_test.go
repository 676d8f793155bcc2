package lru_test

import (
	"fmt"
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
	users.Set("ada", now, name, lru.Terms{Size: int64(len(name)), Expires: now + int64(time.Minute)})

	fmt.Println(users.Get("ada", nanos()))
	_, ok := users.Get("ada", now+int64(time.Minute))
	fmt.Println(ok)
	// Output:
	// Ada Lovelace true
	// false
}

func ExampleNew() {
	// With one shard the order of eviction is exactly the order of use.
	entry := int64(len("a")) + 8 + lru.Overhead
	c := lru.New[int](lru.Options[int]{MaxBytes: 2 * entry, Shards: 1})
	c.Set("a", 0, 1, lru.Terms{Size: 8, Expires: 100})
	c.Set("b", 0, 2, lru.Terms{Size: 8, Expires: 100})
	c.Get("a", 0)
	c.Set("c", 0, 3, lru.Terms{Size: 8, Expires: 100}) // b makes room
	for k, v := range c.All(0) {
		fmt.Println(k, v)
	}
	// Output:
	// c 3
	// a 1
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

func ExampleCache_Peek() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, lru.Terms{Size: 8, Expires: 100})
	fmt.Println(c.Peek("k", 99))
	// Output: 1 true
}

func ExampleCache_Set() {
	c := lru.New[string](lru.Options[string]{MaxBytes: 1024})
	fmt.Println(c.Set("k", 0, "small", lru.Terms{Size: 5, Expires: 100}))
	fmt.Println(c.Set("k", 0, "pretends to be large", lru.Terms{Size: 4096, Expires: 100}))
	fmt.Println(c.Len()) // what k was before is gone, too
	// Output:
	// true
	// false
	// 0
}

func ExampleCache_Update() {
	c := lru.New[string](lru.Options[string]{MaxBytes: 1024})
	c.Set("k", 0, "v", lru.Terms{Size: 1, Expires: 100})
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

func ExampleCache_Clear() {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, lru.Terms{Size: 8, Expires: 100})
	c.Clear()
	fmt.Println(c.Len(), c.Bytes())
	// Output: 0 0
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
	c.Get("a", 100)
	fmt.Printf("%+v\n", c.Stats())
	// Output: {Evictions:0 Expirations:1}
}
