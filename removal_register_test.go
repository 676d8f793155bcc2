package peercache_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// A register holds the origin's values: how often each key has changed. It knows which
// changes everybody must have seen.
type register struct {
	mu   sync.Mutex // guards the fields below
	keys map[string]*registered
	owed []revision // that somebody has not confirmed
}

type registered struct {
	changes int            // begun so far
	floor   int            // the last one that nobody may be without
	floors  map[string]int // the same, of those who made changes that not all have confirmed
	over    map[int]int    // of each Set that has returned, how many changes had begun then; -1 before it has
}

// A revision is the nth change of a key, and whose it was.
type revision struct {
	key, node string
	n         int
	set       bool
}

func (r *register) ofLocked(key string) *registered {
	k := r.keys[key]
	if k == nil {
		k = &registered{floors: make(map[string]int), over: make(map[int]int)}
		if r.keys == nil {
			r.keys = make(map[string]*registered)
		}
		r.keys[key] = k
	}
	return k
}

// load is what the origin says.
func (r *register) load(_ context.Context, key string) (string, time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint("loaded ", r.ofLocked(key).changes), time.Hour, nil
}

// begin changes a key at the origin. A Remove, or a Set of value, follows.
func (r *register) begin(node, key string, set bool) (c revision, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.ofLocked(key)
	k.changes++
	if set {
		k.over[k.changes] = -1
	}
	return revision{key, node, k.changes, set}, fmt.Sprint("set ", k.changes)
}

// end notes that the Set or Remove has returned: to all, or to some only.
func (r *register) end(c revision, toAll bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.ofLocked(c.key)
	if c.set {
		k.over[c.n] = k.changes
	}
	if toAll {
		k.floor = max(k.floor, c.n)
		return
	}
	k.floors[c.node] = max(k.floors[c.node], c.n)
	r.owed = append(r.owed, c)
}

// deliver notes that all have heard by now of what these nodes had to deliver.
func (r *register) deliver(owed []revision, nodes map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range owed {
		if nodes[c.node] {
			k := r.ofLocked(c.key)
			k.floor = max(k.floor, c.n)
		}
	}
}

// takeOwed returns the changes that not all have confirmed, once.
func (r *register) takeOwed() []revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	owed := r.owed
	r.owed = nil
	return owed
}

// floor returns the change before which a Get of key that begins now may return nothing.
func (r *register) floor(node, key string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.ofLocked(key)
	return max(k.floor, k.floors[node])
}

// floors returns the changes before which a process may serve nothing, by key.
func (r *register) floors(node string) map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	floors := make(map[string]int, len(r.keys))
	for key, k := range r.keys {
		floors[key] = max(k.floor, k.floors[node])
	}
	return floors
}

// judge says what is wrong with a value that a Get returned; "" if nothing is. What a Set
// supplied that had not returned when a later change began may be there after that.
func (r *register) judge(key, value string, floor int) string {
	kind, number, _ := strings.Cut(value, " ")
	var n int
	if _, err := fmt.Sscan(number, &n); err != nil {
		return fmt.Sprintf("%s = %q, which nobody supplied", key, value)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.ofLocked(key)
	over, set := k.over[n]
	switch {
	case n > k.changes, kind == "set" && !set, kind != "set" && kind != "loaded":
		return fmt.Sprintf("%s = %q, which nobody supplied", key, value)
	case n >= floor, kind == "set" && (over < 0 || over >= floor):
		return ""
	}
	return fmt.Sprintf("%s = %q, and change %d had been made known to all of %d", key, value, floor, k.changes)
}
