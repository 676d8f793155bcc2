package main

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTallyKeepsPhasesApart(t *testing.T) {
	c := newTally()
	c.enter(steady, nil)
	c.loaded(1, "a")
	c.answered("a", "text of a", time.Millisecond, 0)
	c.enter(restart, map[string]int{"a": 1})
	c.answered("a", "text of a", 2*time.Millisecond, 1)
	c.loaded(2, "b")
	c.loaded(3, "b")
	c.failed("b", errors.New("gone"), 3*time.Millisecond, 2)

	var o outcome
	c.report(&o)
	want := [phases]phaseTally{
		steady: {
			requests: 1, latencies: []time.Duration{time.Millisecond},
			asked: map[string]bool{"a": true}, loads: map[string][]int{"a": {1}},
		},
		restart: {
			requests: 2, failures: 1, retries: 3, latencies: []time.Duration{2 * time.Millisecond, 3 * time.Millisecond},
			asked: map[string]bool{"a": true, "b": true}, loads: map[string][]int{"b": {2, 3}}, owners: map[string]int{"a": 1},
		},
		kill: {asked: map[string]bool{}, loads: map[string][]int{}},
		join: {asked: map[string]bool{}, loads: map[string][]int{}},
	}
	if diff := cmp.Diff(want, o.phases, cmp.AllowUnexported(phaseTally{})); diff != "" {
		t.Errorf("phases (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b: gone"}, o.errs); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	if got, want := c.progress(), (progress{phase: restart, requests: 3, failures: 1, retries: 3, loads: 3, keys: 1}); got != want {
		t.Errorf("progress = %+v, want %+v", got, want)
	}
}

func TestAnswerThatDiffersFromTheFirstIsWrong(t *testing.T) {
	c := newTally()
	for _, text := range []string{"one", "one", "other", "one"} {
		c.answered("a", text, 0, 0)
	}
	c.answered("b", "other", 0, 0)
	var o outcome
	if c.report(&o); o.wrong != 1 {
		t.Errorf("%d wrong answers, want 1", o.wrong)
	}
	if !c.answer("a", "one") || c.answer("a", "other") || c.answer("c", "one") {
		t.Error("answer does not tell the first text from others")
	}
}

func TestLoadsAfterTheReportDoNotCount(t *testing.T) {
	c := newTally()
	var o outcome
	c.report(&o)
	c.loaded(1, "a")
	if n := len(o.phases[steady].loads); n != 0 {
		t.Errorf("%d keys loaded, want 0", n)
	}
}

func TestQuantileIsTheNearestRank(t *testing.T) {
	var ds []time.Duration
	for i := range 100 {
		ds = append(ds, time.Duration(100-i))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(ds, q); got != want {
			t.Errorf("quantile(%v) = %d, want %d", q, got, want)
		}
	}
	if got := quantile(ds[:1], 0.99); got != 1 {
		t.Errorf("quantile of one = %d, want it", got)
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of none = %d, want 0", got)
	}
}
