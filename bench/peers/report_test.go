package main

import (
	"bytes"
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache/bench/internal/table"
)

// sampleOf is a burst of a second with so many Gets, each taking that long.
func sampleOf(gets int64, latency time.Duration) sample {
	s := sample{Gets: gets, Seconds: 1, CPU: 2}
	s.Latency.add(latency)
	return s
}

func TestRowHoldsMediansAndTheMedianOfRatios(t *testing.T) {
	mine := series{name: "mine", samples: []sample{
		sampleOf(100, 64*time.Microsecond), sampleOf(400, 64*time.Microsecond), sampleOf(300, 64*time.Microsecond),
	}}
	reference := []sample{sampleOf(100, 1), sampleOf(100, 1), sampleOf(200, 1)}
	want := []string{"mine", "300", "1.50", "64", "64", "7.5e+03"}
	if d := cmp.Diff(want, mine.cells(reference)); d != "" {
		t.Errorf("cells (-want +got):\n%s", d)
	}
	mine.samples[0].Failed = 8
	for i := range mine.samples {
		mine.samples[i].CPU = 0
	}
	want = []string{"mine (0.99 % failed)", "300", "", "64", "64", ""}
	if d := cmp.Diff(want, mine.cells(nil)); d != "" {
		t.Errorf("cells (-want +got):\n%s", d)
	}
}

func TestGoalsAreHeldAgainstTheBestOfEachRound(t *testing.T) {
	r := results{"64KiBx64": {
		{name: ours, samples: []sample{sampleOf(300, 1), sampleOf(300, 1), sampleOf(300, 1)}},
		{name: "a", samples: []sample{sampleOf(100, 1), sampleOf(200, 1), sampleOf(100, 1)}},
		{name: "b", samples: []sample{sampleOf(200, 1), sampleOf(100, 1), sampleOf(150, 1)}},
	}}
	g := goal{row: "64KiBx64", mine: ours, others: []string{"a", "b"}, bound: 1.5, note: "so far"}
	measured, ok := g.measured(r)
	if !ok || measured != 1.5 {
		t.Errorf("measured = %v, %v, want 1.5, true", measured, ok)
	}
	want := []string{"64KiBx64: Gets per second of peercache to the best of a, b (so far)", "≥ 1.5", "1.50", "yes"}
	if d := cmp.Diff(want, g.cells(measured)); d != "" {
		t.Errorf("cells (-want +got):\n%s", d)
	}
	if got := g.cells(1.4)[3]; got != "no" {
		t.Errorf("met = %q with less than is wanted, want no", got)
	}
	for _, lacking := range []goal{
		{row: "100Bx1", mine: ours, others: []string{"a"}},
		{row: "64KiBx64", mine: oursTLS, others: []string{"a"}},
		{row: "64KiBx64", mine: ours, others: []string{"a", "c"}},
	} {
		if measured, ok := lacking.measured(r); ok {
			t.Errorf("%+v is measured as %v, want not at all", lacking, measured)
		}
	}
}

func TestGoalOfLatencyIsMetByLess(t *testing.T) {
	r := results{"100Bx1": {
		{name: ours, samples: []sample{sampleOf(1, 60*time.Nanosecond)}},
		{name: rueidisName, samples: []sample{sampleOf(9, 50*time.Nanosecond)}},
	}}
	g := goal{row: "100Bx1", mine: ours, others: []string{rueidisName}, bound: 1.25, latency: true}
	measured, ok := g.measured(r)
	if !ok || math.Abs(measured-1.2) > 1e-9 {
		t.Errorf("measured = %v, %v, want 1.2, true", measured, ok)
	}
	want := []string{"100Bx1: p50 of peercache to rueidis", "≤ 1.25", "1.20", "yes"}
	if d := cmp.Diff(want, g.cells(measured)); d != "" {
		t.Errorf("cells (-want +got):\n%s", d)
	}
	if got := g.cells(1.3)[3]; got != "no" {
		t.Errorf("met = %q with more than is wanted, want no", got)
	}
}

func TestGoalsNameRowsAndAlternativesThatExist(t *testing.T) {
	for _, g := range goals {
		rs, err := named(rows, g.row)
		if err != nil {
			t.Errorf("%+v: %v", g, err)
			continue
		}
		as, err := named(alternatives, strings.Join(append([]string{g.mine}, g.others...), ","))
		if err != nil {
			t.Errorf("%+v: %v", g, err)
		}
		for _, a := range as {
			if a.sealed && !rs[0].sealed {
				t.Errorf("%+v: %s is not in that row", g, a.name)
			}
		}
	}
}

func TestGoalsThatWereMeasuredArePrinted(t *testing.T) {
	var out bytes.Buffer
	p := &plan{out: &out}
	p.printGoals(results{})
	if out.Len() > 0 {
		t.Errorf("without measurements it prints %q", out.String())
	}
	p.printGoals(results{"1MiBx1": {{name: ours, samples: []sample{sampleOf(4, 1)}}, {name: goRedis, samples: []sample{sampleOf(2, 1)}}}})
	if row := cells(t, out.String(), "1MiBx1: Gets per second of peercache to go-redis"); row[2] != "2.00" || row[3] != "yes" {
		t.Errorf("goal: %q, want 2.00 and yes", row)
	}
}

func TestMedian(t *testing.T) {
	for want, xs := range map[float64][]float64{2: {3, 1, 2}, 2.5: {4, 1, 3, 2}, 7: {7}} {
		if got := table.Median(xs, func(x float64) float64 { return x }); got != want {
			t.Errorf("table.Median(%v) = %v, want %v", xs, got, want)
		}
	}
}

func TestProgramThatDoesNotListenSaysWhy(t *testing.T) {
	_, err := serveDaemon(t.Context(), "sh", func(string) []string { return []string{"-c", "echo no room; exit 1"} })
	if err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("serveDaemon = %v, want what the program said", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := serveDaemon(ctx, "sh", func(string) []string { return nil }); err == nil {
		t.Error("serveDaemon = nil after its context has ended, want an error")
	}
}

func TestEachValueIsLoadedOnce(t *testing.T) {
	load := loadOnce(job{Size: 3})
	if got, err := load("k"); got != "vvv" || err != nil {
		t.Errorf("load = %q, %v, want vvv", got, err)
	}
	if got, err := load("k"); err == nil {
		t.Errorf("load = %q again, want an error", got)
	}
}

func TestHopRefusesUpgradesOnly(t *testing.T) {
	h := refuseUpgrades(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for upgrade, want := range map[string]int{"": http.StatusTeapot, "peercache/1": http.StatusForbidden} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		if upgrade != "" {
			r.Header.Set("Upgrade", upgrade)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("Upgrade %q is answered with %d, want %d", upgrade, w.Code, want)
		}
	}
}
