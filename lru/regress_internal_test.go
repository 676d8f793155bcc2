package lru

import (
	"strconv"
	"testing"
	"unsafe"
)

// What cannot be seen from outside: layout, and what the parts promise each other.

func TestHitWritesOneCacheLine(t *testing.T) {
	if strconv.IntSize != 64 {
		t.Skip("the padding is for 64 bits")
	}
	const line = 64
	var s shard[string]
	if size := unsafe.Sizeof(s); size%line != 0 {
		t.Errorf("a shard has %d bytes, want whole lines of %d", size, line)
	}
	for _, base := range []uintptr{0, 8} { // behind a line's begin
		on := func(offset uintptr) uintptr { return (base + offset) / line }
		if first, last := on(unsafe.Offsetof(s.mu)), on(unsafe.Offsetof(s.misses)+7); first != last {
			t.Errorf("a hit writes to lines %d to %d of a shard at %d, want one", first, last, base)
		}
		if first, last := on(unsafe.Offsetof(s.index)), on(unsafe.Offsetof(s.slab)+unsafe.Sizeof(s.slab.pages)-1); first != last {
			t.Errorf("a hit reads lines %d to %d of a shard at %d, want one", first, last, base)
		}
		if last, next := on(unsafe.Offsetof(s.watched)), on(unsafe.Sizeof(s)); last == next {
			t.Errorf("shards at %d share a line with the next", base)
		}
	}
}
