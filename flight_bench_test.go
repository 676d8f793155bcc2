package peercache

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sync/singleflight"
)

// A flight alone, around a function that returns at once, beside x/sync: Do runs
// it on the caller's goroutine, so that no caller can leave, DoChan on one of its
// own. Loads are the like of the second; a flight by itself needs none, whoever has
// the outcome ends it.
//
//	go test -run '^$' -bench FlightAlone -count 7 .
func BenchmarkFlightAlone(b *testing.B) {
	b.Run("flight", func(b *testing.B) { benchmarkFlight(b, (*store).end) })
	b.Run("flight with a goroutine", func(b *testing.B) {
		benchmarkFlight(b, func(s *store, f *flight, out outcome) bool {
			go s.end(f, out)
			return true
		})
	})
	b.Run("singleflight.DoChan", func(b *testing.B) {
		var g singleflight.Group
		b.ReportAllocs()
		for b.Loop() {
			r := <-g.DoChan("key", func() (any, error) { return nil, nil })
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	})
	b.Run("singleflight.Do", func(b *testing.B) {
		var g singleflight.Group
		b.ReportAllocs()
		for b.Loop() {
			if _, err, _ := g.Do("key", func() (any, error) { return nil, nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchmarkFlight(b *testing.B, run func(*store, *flight, outcome) bool) {
	s := newStore(0, Options{}, nil)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, f, started, err := s.join(loadFlight, "key", 0, true)
		if err != nil || !started {
			b.Fatal("the flight was not new")
		}
		run(s, f, outcome{item: item{fleeting: true}})
		if out := f.wait(ctx); out.err != nil {
			b.Fatal(out.err)
		}
	}
}

// A whole load of a cache without a node: flight, gate, context, loader.
func BenchmarkLoad(b *testing.B) {
	c := New("c", func(context.Context, string) (string, time.Duration, error) { return "v", -1, nil }, nil)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Get(ctx, "key"); err != nil {
			b.Fatal(err)
		}
	}
}
