package main

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTallyKeepsPhasesApart(t *testing.T) {
	c := newTally()
	c.enter(before)
	c.loaded(1, "a")
	c.answered("a", "text of a", "one", time.Millisecond, 0)
	c.enter(afterKill)
	c.answered("a", "text of a", "two", 2*time.Millisecond, 1)
	c.failed("b", errors.New("gone"), 3*time.Millisecond, 2)

	var o outcome
	c.report(&o)
	want := [phases]phaseTally{
		before: {
			requests: 1, latencies: []time.Duration{time.Millisecond}, owners: map[string]string{"a": "one"},
			loads: map[string]int{"a": 1}, byNode: map[int]map[string]bool{1: {"a": true}},
		},
		afterKill: {
			requests: 2, failures: 1, retries: 3, latencies: []time.Duration{2 * time.Millisecond, 3 * time.Millisecond},
			owners: map[string]string{"a": "two", "b": ""}, loads: map[string]int{}, byNode: map[int]map[string]bool{},
		},
		afterJoin: {owners: map[string]string{}, loads: map[string]int{}, byNode: map[int]map[string]bool{}},
	}
	if diff := cmp.Diff(want, o.phases, cmp.AllowUnexported(phaseTally{})); diff != "" {
		t.Errorf("phases (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b: gone"}, o.errs); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	if got, want := c.progress(), (progress{phase: afterKill, requests: 3, failures: 1, retries: 3, loads: 1, keys: 1}); got != want {
		t.Errorf("progress = %+v, want %+v", got, want)
	}
}

func TestAnswerThatDiffersFromTheFirstIsWrong(t *testing.T) {
	c := newTally()
	for _, text := range []string{"one", "one", "other", "one"} {
		c.answered("a", text, "", 0, 0)
	}
	c.answered("b", "other", "", 0, 0)
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
	if n := len(o.phases[before].loads); n != 0 {
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
