package main

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLoadIsRepeatedWhileWhatWasLoadedLives(t *testing.T) {
	l := ledger{life: time.Minute}
	for i, c := range []struct {
		key      uint32
		at       time.Duration
		repeated bool
	}{
		{key: 1, at: 0, repeated: false},
		{key: 2, at: time.Second, repeated: false},
		{key: 1, at: 59 * time.Second, repeated: true},
		{key: 1, at: 118 * time.Second, repeated: true}, // lives since the last load
		{key: 2, at: 61 * time.Second, repeated: false}, // has expired
		{key: 2, at: 62 * time.Second, repeated: true},
	} {
		if got := l.load(c.key, c.at); got != c.repeated {
			t.Errorf("load %d, of key %d at %v: repeated = %v, want %v", i, c.key, c.at, got, c.repeated)
		}
	}
}

func TestExtraLoadsAreThoseBeyondWhatIsUsual(t *testing.T) {
	for _, c := range []struct {
		repeated int
		span     time.Duration
		usual    []float64
		want     int
	}{
		{repeated: 500, span: 30 * time.Second, usual: []float64{0, 0}, want: 500},
		{repeated: 500, span: 30 * time.Second, usual: []float64{2, 0}, want: 440},  // before the event
		{repeated: 500, span: 30 * time.Second, usual: []float64{2, 10}, want: 200}, // without one
		{repeated: 5, span: 30 * time.Second, usual: []float64{1, 0}, want: 0},      // fewer than usual are not less than none
		{repeated: 5, span: 500 * time.Millisecond, usual: []float64{0.9}, want: 5}, // rounded: half a load is none
		{repeated: 5, span: 500 * time.Millisecond, usual: []float64{1.1}, want: 4},
	} {
		if got := extraLoads(c.repeated, c.span, c.usual...); got != c.want {
			t.Errorf("extraLoads(%d, %v, %v) = %d, want %d", c.repeated, c.span, c.usual, got, c.want)
		}
	}
}

func TestReportsOfAllProcessesComeTogether(t *testing.T) {
	r := newRecorder(time.Second, 10*time.Second)
	r.add(report{Ticks: []tick{
		{Tick: 0, Loads: []uint32{7, 8}, Micros: []uint32{5000, 5100}, Keys: []uint32{7, 8}},
		{Tick: 2, Micros: []uint32{100, 200_000}, Keys: []uint32{7, 8}, Failed: 1},
	}, Error: "late"})
	r.add(report{Ticks: []tick{
		{Tick: 2, Loads: []uint32{7, 9}, Micros: []uint32{5200, 5300}, Keys: []uint32{7, 9}}, // 7 was lost
		{Tick: 11, Loads: []uint32{8}, Micros: []uint32{5400}, Keys: []uint32{8}},            // 8 has expired
	}})
	want := summary{
		span: 12 * time.Second, gets: 7, failed: 1, slow: 1, loads: 5, repeated: 1,
		p50: 5200 * time.Microsecond, p99: 200 * time.Millisecond, lowest: 0,
	}
	if d := cmp.Diff(want, summarize(r.part(0, 12), r.width), cmp.AllowUnexported(summary{})); d != "" {
		t.Errorf("summary of all (-want +got):\n%s", d)
	}
	if got := summarize(r.part(2, 3), r.width); got.gets != 4 || got.loads != 2 || got.lowest != 0.5 {
		t.Errorf("%d Gets and %d loads in a tick, hit ratio %v, want 4, 2, 0.5", got.gets, got.loads, got.lowest)
	}
	if got, want := r.failure(), "late"; got != want {
		t.Errorf("failure = %q, want %q", got, want)
	}
}

func TestTicksWithoutGetsHaveNoHitRatio(t *testing.T) {
	r := newRecorder(time.Second, time.Hour)
	quiet := r.part(3, 5)
	if len(quiet) != 2 || quiet[0].Tick != 3 {
		t.Fatalf("ticks %v, want 3 and 4", quiet)
	}
	s := summarize(quiet, r.width)
	if !math.IsNaN(s.lowest) || s.p99 != 0 || s.span != 2*time.Second {
		t.Errorf("hit ratio %v, p99 %v, span %v, want NaN, 0, 2s", s.lowest, s.p99, s.span)
	}
	// One quiet tick does not hide what is beside it.
	if s := summarize([]tick{{}, {Micros: make([]uint32, 4), Loads: make([]uint32, 1)}, {}}, r.width); s.lowest != 0.75 {
		t.Errorf("lowest hit ratio = %v, want 0.75", s.lowest)
	}
}

func TestSlowIsLongerThan100Milliseconds(t *testing.T) {
	s := summarize([]tick{{Micros: []uint32{100_001, 99_999, 100_000, 5_000_000}}}, time.Second)
	if s.slow != 2 {
		t.Errorf("slow = %d, want 2", s.slow)
	}
}

func TestQuantilesAreTimesThatWereMeasured(t *testing.T) {
	var micros []uint32
	for i := range uint32(1000) {
		micros = append(micros, i+1)
	}
	for part, want := range map[float64]time.Duration{0: 1, 0.5: 500, 0.99: 990, 1: 1000} {
		if got := quantile(micros, part); got != want*time.Microsecond {
			t.Errorf("quantile(%v) = %v, want %v", part, got, want*time.Microsecond)
		}
	}
}

func TestAskedCountsEachOfTheKeysOnce(t *testing.T) {
	ticks := []tick{{Keys: []uint32{1, 2, 1, 9}}, {Keys: []uint32{1, 3}}}
	if got := asked(ticks, []uint32{1, 3, 4}); got != 2 {
		t.Errorf("asked = %d, want 2", got)
	}
}
