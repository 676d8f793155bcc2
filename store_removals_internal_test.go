package peercache

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// What says that it has seen a Clear is not from before it: a peer that asks would keep it
// for good, and who pushes it brings it back. So whoever sees the id of a Clear finds
// nothing in memory that is older.
func TestWhoSeesThatAllWasClearedFindsNothingFromBefore(t *testing.T) {
	s := newStore(0, (&Options{}).withDefaults(), nil)
	s.age = func(ids) {}
	for i := range 2000 { // flights, which a Clear detaches, take it some time
		if _, _, started, err := s.join(loadFlight, fmt.Sprint("other-", i), 0, true); !started || err != nil {
			t.Fatal(err)
		}
	}
	const key, rounds = "k", 300
	var cleared atomic.Uint64 // the Clear that the item has not seen yet
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := uint64(1); n <= rounds; n++ {
			s.set(key, item{bytes: "v", size: 1, retry: uint32(n), expires: never})
			for i := range 200 {
				_, _, _, _ = s.join(loadFlight, fmt.Sprint("other-", n, "-", i), 0, true)
			}
			s.clear(ids{{1, n}})
			cleared.Store(n)
		}
	})
	for cleared.Load() < rounds && !t.Failed() {
		birth := s.known(key)
		it, _, ok := s.look(key)
		if seen := birth.of(1); ok && uint64(it.retry) <= seen {
			t.Errorf("an item from before Clear %d is there for who has seen Clear %d", it.retry, seen)
		}
	}
	wg.Wait()
}
