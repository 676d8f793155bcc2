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
	users := lru.New[string](lru.Options{MaxBytes: 64 << 20})

	now := nanos()
	name := "Ada Lovelace"
	users.Set("ada", now, name, int64(len(name)), now+int64(time.Minute))

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
	c := lru.New[int](lru.Options{MaxBytes: 2 * entry, Shards: 1})
	c.Set("a", 0, 1, 8, 100)
	c.Set("b", 0, 2, 8, 100)
	c.Get("a", 0)
	c.Set("c", 0, 3, 8, 100) // b makes room
	for k, v := range c.All(0) {
		fmt.Println(k, v)
	}
	// Output:
	// c 3
	// a 1
}

func ExampleCache_Get() {
	c := lru.New[int](lru.Options{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, 8, 100)
	fmt.Println(c.Get("k", 99))
	fmt.Println(c.Get("k", 100))
	// Output:
	// 1 true
	// 0 false
}

func ExampleCache_Peek() {
	c := lru.New[int](lru.Options{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, 8, 100)
	fmt.Println(c.Peek("k", 99))
	// Output: 1 true
}

func ExampleCache_Set() {
	c := lru.New[string](lru.Options{MaxBytes: 1024})
	fmt.Println(c.Set("k", 0, "small", 5, 100))
	fmt.Println(c.Set("k", 0, "pretends to be large", 4096, 100))
	fmt.Println(c.Len()) // what k was before is gone, too
	// Output:
	// true
	// false
	// 0
}

func ExampleCache_Update() {
	c := lru.New[string](lru.Options{MaxBytes: 1024})
	c.Set("k", 0, "v", 1, 100)
	shorten := func(v string, size, expires int64) (string, int64, int64) {
		return v, size, min(expires, 10)
	}
	fmt.Println(c.Update("k", 0, shorten))
	_, ok := c.Get("k", 10)
	fmt.Println(ok)
	// Output:
	// true
	// false
}

func ExampleCache_Remove() {
	c := lru.New[int](lru.Options{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, 8, 100)
	fmt.Println(c.Remove("k"), c.Remove("k"))
	// Output: true false
}

func ExampleCache_Clear() {
	c := lru.New[int](lru.Options{MaxBytes: 1 << 20})
	c.Set("k", 0, 1, 8, 100)
	c.Clear()
	fmt.Println(c.Len(), c.Bytes())
	// Output: 0 0
}

func ExampleCache_All() {
	c := lru.New[int](lru.Options{MaxBytes: 1 << 20})
	c.Set("a", 0, 1, 8, 100)
	c.Set("b", 0, 2, 8, 200)
	for k, v := range c.All(100) { // a has expired
		fmt.Println(k, v)
	}
	// Output: b 2
}

func ExampleCache_Len() {
	c := lru.New[int](lru.Options{MaxBytes: 1 << 20})
	c.Set("a", 0, 1, 8, 100)
	c.Set("b", 0, 2, 8, 100)
	fmt.Println(c.Len())
	// Output: 2
}

func ExampleCache_Bytes() {
	c := lru.New[[]byte](lru.Options{MaxBytes: 1 << 20})
	v := []byte("value")
	const header = 24 // of a slice: the V itself
	size := header + int64(cap(v))
	c.Set("key", 0, v, size, 100)
	fmt.Println(c.Bytes() == int64(len("key"))+size+lru.Overhead)
	// Output: true
}

func ExampleCache_Stats() {
	c := lru.New[int](lru.Options{MaxBytes: 1 << 20})
	c.Set("a", 0, 1, 8, 100)
	c.Get("a", 100)
	fmt.Printf("%+v\n", c.Stats())
	// Output: {Evictions:0 Expirations:1}
}
