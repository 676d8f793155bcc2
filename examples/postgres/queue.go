package main

import "sync"

// maxQueued is how many keys wait at most: beyond, all of the cache is dropped
// instead, which costs loads and needs no memory. Arbitrary: at 1,024 bytes a key
// they take 10 MB.
const maxQueued = 10_000

// A queue holds what has been notified and not been removed yet, so that the
// connection is read at all times, and what came in while one Remove was under way
// goes out with the next. It is safe for concurrent use; its zero value is not ready.
type queue struct {
	ready chan struct{} // holds a token while there is something to take

	mu   sync.Mutex // guards the fields below
	keys map[string]struct{}
	all  bool // every key there is; then keys is empty
}

func newQueue() *queue {
	return &queue{ready: make(chan struct{}, 1), keys: make(map[string]struct{})}
}

// add queues one key.
func (q *queue) add(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.all {
		return // the Clear has not begun: it is after this change too
	}
	q.keys[key] = struct{}{}
	if len(q.keys) > maxQueued {
		q.everythingLocked()
	}
	q.wakeLocked()
}

// addAll queues every key there is.
func (q *queue) addAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.everythingLocked()
	q.wakeLocked()
}

func (q *queue) everythingLocked() {
	q.all = true
	clear(q.keys)
}

func (q *queue) wakeLocked() {
	select {
	case q.ready <- struct{}{}:
	default: // there is a token
	}
}

// take empties the queue. A caller got the token of ready before.
func (q *queue) take() (keys []string, all bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all, q.all = q.all, false
	for key := range q.keys {
		keys = append(keys, key)
	}
	clear(q.keys)
	return keys, all
}
