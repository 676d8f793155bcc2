package main

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// asks notes when a generator asks, and when each was due.
type asks struct {
	mu        sync.Mutex
	due, late []time.Duration
}

func (a *asks) generator(takes time.Duration) *generator {
	begin := time.Now()
	return &generator{
		ranks: func() uint32 { return 0 },
		ask: func(_ uint32, meant time.Time) {
			a.mu.Lock()
			a.due = append(a.due, meant.Sub(begin))
			a.late = append(a.late, time.Since(meant))
			a.mu.Unlock()
			time.Sleep(takes)
		},
	}
}

func TestGetsComeAtTheirTimeWhateverBecameOfThoseBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a asks
		g := a.generator(time.Second)
		g.setRate(100)
		time.Sleep(105 * time.Millisecond)
		g.setRate(0)
		if got := len(a.due); got != 10 {
			t.Fatalf("%d Gets in 105 ms, want 10", got)
		}
		for i, due := range a.due {
			if want := time.Duration(i+1) * 10 * time.Millisecond; due != want || a.late[i] != 0 {
				t.Errorf("Get %d was due at %v and %v late, want %v and not at all", i, due, a.late[i], want)
			}
		}
	})
}

func TestRateOf0WaitsForTheLastGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a asks
		g := a.generator(time.Second)
		g.setRate(100)
		time.Sleep(15 * time.Millisecond)
		begin := time.Now()
		g.setRate(0)
		if took, want := time.Since(begin), 995*time.Millisecond; took != want {
			t.Errorf("setRate(0) takes %v, want %v", took, want)
		}
		g.setRate(1000)
		time.Sleep(10 * time.Millisecond)
		g.end()
		g.setRate(1000)
		time.Sleep(10 * time.Millisecond)
		if got := len(a.due); got < 10 || got > 11 {
			t.Errorf("%d Gets, want one, and nine or ten of the second rate, and none after the end", got)
		}
	})
}

// memberWith is one whose Gets do that.
func memberWith(get func(key string) (string, error)) *member {
	return &member{get: func(_ context.Context, key string) (string, error) { return get(key) }}
}

func TestFillAsksForEachKeyOnceAmongAll(t *testing.T) {
	j := job{Keys: 1000, Size: 30}
	var mu sync.Mutex
	times := make(map[string]int)
	m := memberWith(func(key string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		times[key]++
		return j.value(key), nil
	})
	for first := range 3 {
		if err := j.fill(t.Context(), m, fill{First: first, Step: 3}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range uint32(1000) {
		if got := times[newKey(n)]; got != 1 {
			t.Errorf("%s was asked for %d times, want once", newKey(n), got)
		}
	}
	if len(times) != j.Keys {
		t.Errorf("%d keys were asked for, want %d", len(times), j.Keys)
	}
	broken := errors.New("broken")
	if err := j.fill(t.Context(), memberWith(func(string) (string, error) { return "", broken }), fill{Step: 1}); !errors.Is(err, broken) {
		t.Errorf("fill = %v, want %v", err, broken)
	}
}

func TestValueOfAnotherKeyIsAFailure(t *testing.T) {
	j := job{Size: 30}
	for want, value := range map[bool]string{true: j.value(newKey(1)), false: j.value(newKey(2))} {
		err := j.get(t.Context(), memberWith(func(string) (string, error) { return value, nil }), 1)
		if (err == nil) != want {
			t.Errorf("get of the value %q = %v", value, err)
		}
	}
	if got := j.value(newKey(1)); len(got) != 30 {
		t.Errorf("a value has %d bytes, want 30", len(got))
	}
}

func TestOriginTakesItsTimeAndCountsItsLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSheet(time.Now().UnixNano(), time.Second)
		o := &origin{job: job{Size: 30}, sheet: s}
		begin := time.Now()
		if v, err := o.load(t.Context(), newKey(4)); v != o.job.value(newKey(4)) || err != nil {
			t.Errorf("load = %q, %v", v, err)
		}
		if took := time.Since(begin); took != loadTime {
			t.Errorf("load takes %v, want %v", took, loadTime)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := o.load(ctx, newKey(5)); !errors.Is(err, context.Canceled) {
			t.Errorf("load = %v, want %v", err, context.Canceled)
		}
		if _, err := o.load(t.Context(), "strange"); err == nil {
			t.Error("load of a key that there is not = nil, want an error")
		}
		want := report{Ticks: []tick{{Tick: 0, Loads: []uint32{4, 5}}}}
		if d := cmp.Diff(want, s.take(), cmp.AllowUnexported(tick{})); d != "" {
			t.Errorf("report (-want +got):\n%s", d)
		}
	})
}

func TestGetCountsInTheTickItWasMeantFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		time.Sleep(10 * time.Second) // the cluster is older than the process
		s := newSheet(begin.UnixNano(), time.Second)
		meant := time.Now().Add(900 * time.Millisecond)
		time.Sleep(2 * time.Second)
		s.got(3, meant, errors.New("late"))
		want := report{Ticks: []tick{{Tick: 10, Micros: []uint32{1_100_000}, Keys: []uint32{3}, Failed: 1}}, Error: "late"}
		if d := cmp.Diff(want, s.take(), cmp.AllowUnexported(tick{})); d != "" {
			t.Errorf("report (-want +got):\n%s", d)
		}
		if d := cmp.Diff(report{}, s.take()); d != "" {
			t.Errorf("a second report (-want +got):\n%s", d)
		}
	})
}

func TestKeysAreDrawnByTheirRank(t *testing.T) {
	const n, draws = 10, 200_000
	var counts [n]float64
	draw := zipf(rand.New(rand.NewPCG(1, 2)), n, 0.99)
	for range draws {
		counts[draw()]++
	}
	for k := 1; k < n; k++ {
		got, want := counts[k]/counts[0], math.Pow(float64(k+1), -0.99)
		if math.Abs(got-want) > 0.05*want {
			t.Errorf("rank %d is drawn %.4f times as often as the first, want %.4f", k, got, want)
		}
	}
}
