package peercache

import (
	"testing"
	"time"
)

// A node that is to hold a replica asks the owner for the key:
//
//  1. the fetch flight begins here, and the owner loads;
//  2. the owner sends the replica, which arrives;
//  3. the answer to the fetch arrives, which is kept as a copy.
//
// The copy lives for seconds and is not handed on, so that it must not take the place of
// the replica.
func TestCopyDoesNotReplaceWhatWasPushedMeanwhile(t *testing.T) {
	for name, fetched := range map[string]outcome{
		"a copy is kept":     {item: item{bytes: "v", size: 1, copied: true, expires: after(now(), time.Second)}},
		"no copies are kept": {item: item{bytes: "v", size: 1, copied: true, fleeting: true}},
	} {
		t.Run(name, func(t *testing.T) {
			opts := (&Options{StaleFor: time.Second}).withDefaults()
			s := newStore(0, opts, nil)
			_, f, started, err := s.join(fetchFlight, "k", 0, false)
			if !started || err != nil {
				t.Fatalf("join = %t, %v, want a new flight", started, err)
			}
			pushed := item{bytes: "v", size: 1, expires: after(now(), time.Hour)}
			if !s.receive("k", nil, pushed) {
				t.Fatal("receive = false, want the item kept")
			}
			if !s.end(f, fetched) {
				t.Fatal("end = false, want the flight ended")
			}
			it, stale, ok := s.look("k")
			if !ok || stale || it.copied || it.expires != pushed.expires {
				t.Errorf("held: %+v, %t, %t, want what was pushed", it, stale, ok)
			}
			if f.outcome.item.bytes != "v" {
				t.Errorf("who waited got %q, want %q", f.outcome.item.bytes, "v")
			}
		})
	}
}
