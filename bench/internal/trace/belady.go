package trace

import (
	"container/heap"
	"math"
)

// Belady returns how many of the accesses hit in the best cache of so many
// entries: one that sees the future and, when it is full, does without the object
// that is used again last. That may be the one it was just asked for, since caches
// may refuse to keep what they have missed.
//
// L. A. Belady, A study of replacement algorithms for a virtual-storage computer,
// IBM Systems Journal 5 (1966).
func Belady(t Trace, entries int) int {
	next := nextUses(t)
	q := &byNextUse{at: make([]int, t.Objects), next: make([]uint32, t.Objects)}
	for object := range q.at {
		q.at[object] = absent
	}
	hits := 0
	for i, object := range t.Accesses {
		q.next[object] = next[i]
		if q.at[object] != absent {
			hits++
			heap.Fix(q, q.at[object])
			continue
		}
		heap.Push(q, object)
		if q.Len() > entries {
			heap.Pop(q)
		}
	}
	return hits
}

const (
	absent = -1
	never  = math.MaxUint32
)

// nextUses returns for each access when its object is accessed again.
func nextUses(t Trace) []uint32 {
	next := make([]uint32, len(t.Accesses))
	last := make([]uint32, t.Objects)
	for object := range last {
		last[object] = never
	}
	for i := len(next) - 1; i >= 0; i-- {
		object := t.Accesses[i]
		next[i] = last[object]
		last[object] = uint32(i)
	}
	return next
}

// byNextUse is a heap of objects with the one that is used again last on top.
type byNextUse struct {
	objects []uint32
	at      []int    // where an object is in objects
	next    []uint32 // when it is used again
}

func (q *byNextUse) Len() int { return len(q.objects) }

func (q *byNextUse) Less(i, j int) bool { return q.next[q.objects[i]] > q.next[q.objects[j]] }

func (q *byNextUse) Swap(i, j int) {
	q.objects[i], q.objects[j] = q.objects[j], q.objects[i]
	q.at[q.objects[i]], q.at[q.objects[j]] = i, j
}

func (q *byNextUse) Push(x any) {
	object := x.(uint32)
	q.at[object] = len(q.objects)
	q.objects = append(q.objects, object)
}

func (q *byNextUse) Pop() any {
	object := q.objects[len(q.objects)-1]
	q.objects = q.objects[:len(q.objects)-1]
	q.at[object] = absent
	return object
}
