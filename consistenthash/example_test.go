package consistenthash_test

import (
	"fmt"

	"github.com/peercache/peercache/consistenthash"
)

func Example() {
	table := consistenthash.New([]consistenthash.Node{
		{ID: "http://10.0.0.4:8080", Zone: "a"},
		{ID: "http://10.0.0.5:8080", Zone: "b"},
		{ID: "http://10.0.0.6:8080", Zone: "b"},
	})
	seed := consistenthash.Seed("users") // once for a cache

	slot := consistenthash.Slot(consistenthash.Hash(seed, "gopher"))
	fmt.Println("owner:", table.Nodes()[table.Owner(slot)].ID)
	for _, i := range table.AppendOwners(nil, slot, 3)[1:] {
		fmt.Println("then: ", table.Nodes()[i].ID)
	}
	// Output:
	// owner: http://10.0.0.6:8080
	// then:  http://10.0.0.4:8080
	// then:  http://10.0.0.5:8080
}

func ExampleSeed() {
	fmt.Printf("%#x\n", consistenthash.Seed("users"))
	// Output:
	// 0x4ce8a257f7c83669
}

func ExampleHash() {
	fmt.Printf("%#x\n", consistenthash.Hash(consistenthash.Seed("users"), "gopher"))
	fmt.Printf("%#x\n", consistenthash.Hash(consistenthash.Seed("sessions"), "gopher"))
	// Output:
	// 0x607442ec45fa043a
	// 0x2d43386e6ed40c58
}

func ExampleSlot() {
	fmt.Println(consistenthash.Slot(0x0003_ffff_ffff_ffff))
	// Output:
	// 3
}

func ExampleNew() {
	a := consistenthash.New([]consistenthash.Node{{ID: "a"}, {ID: "b"}, {ID: "c", Weight: 2}})
	b := consistenthash.New([]consistenthash.Node{{ID: "c", Weight: 2}, {ID: "b"}, {ID: "a"}, {ID: "a"}, {}})
	fmt.Println(a.Len(), b.Len(), a.Digest() == b.Digest())
	// Output:
	// 3 3 true
}

func ExampleTable_With() {
	nodes := []consistenthash.Node{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	two := consistenthash.New(nodes[:2])
	three := two.With(nodes) // c joins
	fmt.Println(three.Digest() == consistenthash.New(nodes).Digest())
	fmt.Println(three.With(nodes[:2]).Digest() == two.Digest()) // c leaves
	// Output:
	// true
	// true
}

func ExampleTable_Nodes() {
	table := consistenthash.New([]consistenthash.Node{{ID: "b", Weight: 500}, {ID: "a", Zone: "west"}})
	for i, n := range table.Nodes() {
		fmt.Printf("%d: %+v\n", i, n)
	}
	// Output:
	// 0: {ID:a Zone:west Weight:1}
	// 1: {ID:b Zone: Weight:100}
}

func ExampleTable_Len() {
	fmt.Println(consistenthash.New([]consistenthash.Node{{ID: "a"}, {ID: "b"}}).Len())
	// Output:
	// 2
}

func ExampleTable_Owner() {
	table := consistenthash.New([]consistenthash.Node{{ID: "a"}, {ID: "b"}, {ID: "c"}})
	for slot := range 5 {
		fmt.Println(slot, table.Nodes()[table.Owner(slot)].ID)
	}
	fmt.Println(consistenthash.New(nil).Owner(0))
	// Output:
	// 0 b
	// 1 a
	// 2 b
	// 3 c
	// 4 a
	// -1
}

func ExampleTable_AppendOwners() {
	table := consistenthash.New([]consistenthash.Node{
		{ID: "a", Zone: "east"}, {ID: "b", Zone: "east"}, {ID: "c", Zone: "east"}, {ID: "d", Zone: "west"},
	})
	var owners []int
	for slot := range 5 {
		owners = table.AppendOwners(owners[:0], slot, 3) // d, alone in its zone, is first or second
		fmt.Printf("%d: %s, then", slot, table.Nodes()[owners[0]].ID)
		for _, i := range owners[1:] {
			fmt.Print(" ", table.Nodes()[i].ID)
		}
		fmt.Println()
	}
	// Output:
	// 0: d, then b a
	// 1: a, then d c
	// 2: b, then d c
	// 3: c, then d a
	// 4: a, then d b
}

func ExampleTable_Digest() {
	here := consistenthash.New([]consistenthash.Node{{ID: "a"}, {ID: "b"}})
	there := consistenthash.New([]consistenthash.Node{{ID: "b"}, {ID: "a"}})
	fmt.Println(here.Digest() == there.Digest())
	fmt.Println(here.Digest() == there.With(there.Nodes()[:1]).Digest())
	// Output:
	// true
	// false
}

func ExampleTable_Diff() {
	old := consistenthash.New([]consistenthash.Node{{ID: "a"}, {ID: "b"}, {ID: "c"}})
	table := old.With([]consistenthash.Node{{ID: "a"}, {ID: "c"}})
	moved := map[consistenthash.Move]int{}
	for m := range table.Diff(old) {
		moved[consistenthash.Move{From: m.From, To: m.To}]++
	}
	for m, n := range moved {
		fmt.Println(n, "slots from", m.From, "to", m.To)
	}
	// Unordered output:
	// 10771 slots from b to a
	// 10945 slots from b to c
}

func ExampleTable_Share() {
	table := consistenthash.New([]consistenthash.Node{{ID: "small"}, {ID: "big", Weight: 3}})
	fmt.Printf("%.2f %.2f %.2f\n", table.Share("small"), table.Share("big"), table.Share("other"))
	// Output:
	// 0.25 0.75 0.00
}
