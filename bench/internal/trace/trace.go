// Package trace reads records of what programs have asked their caches for, makes
// artificial ones, and computes how often the best cache possible would have had
// the answer.
//
// This file is the type and its builder; read.go knows the formats of files,
// synthetic.go the artificial traces, belady.go the optimum.
package trace

import "math"

// A Trace is a sequence of accesses to objects, which are numbered in the order
// in which they first occur.
type Trace struct {
	Name     string
	Accesses []uint32 // objects, in the order of their use
	Objects  int

	// Sizes has the bytes of each object; nil if the trace does not tell.
	Sizes []uint32
}

// Head returns the trace of the first n accesses, or t if n is 0 or there are no
// more. It shares t's memory.
func (t Trace) Head(n int) Trace {
	if n <= 0 || n >= len(t.Accesses) {
		return t
	}
	t.Accesses = t.Accesses[:n]
	t.Objects = 0
	for _, object := range t.Accesses {
		t.Objects = max(t.Objects, int(object)+1) // numbered in the order in which they occur
	}
	if t.Sizes != nil {
		t.Sizes = t.Sizes[:t.Objects]
	}
	return t
}

// A name is what a trace calls an object. Where objects have sizes, the same key
// of another size is another object: its content has changed.
type name struct {
	key  uint64
	size uint32
}

// A builder makes a trace of accesses by key.
type builder struct {
	numbers map[name]uint32
	trace   Trace
}

func newBuilder(title string) *builder {
	return &builder{numbers: make(map[name]uint32), trace: Trace{Name: title}}
}

// unsized is the size of an object of which none is known. A trace with one is
// a trace without sizes.
const unsized = math.MaxUint32

func (b *builder) add(key uint64, size uint32) {
	object, seen := b.numbers[name{key, size}]
	if !seen {
		object = uint32(len(b.numbers))
		b.numbers[name{key, size}] = object
		if size != unsized {
			b.trace.Sizes = append(b.trace.Sizes, size)
		}
	}
	b.trace.Accesses = append(b.trace.Accesses, object)
}

func (b *builder) finish() Trace {
	b.trace.Objects = len(b.numbers)
	if len(b.trace.Sizes) != b.trace.Objects {
		b.trace.Sizes = nil
	}
	return b.trace
}
