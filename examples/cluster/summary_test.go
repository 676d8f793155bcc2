package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// goodOutcome is a run in which every promise held. Node 2 had loaded b and c
// and was killed; b was asked for again at once and c only after the join. Node 4
// joined and got a, which costs a load.
func goodOutcome() *outcome {
	const first, fourth = "http://127.0.0.1:1", "http://127.0.0.1:4"
	return &outcome{
		phases: [phases]phaseTally{
			before: {
				requests:  100,
				latencies: []time.Duration{time.Millisecond, 3 * time.Millisecond, 2 * time.Millisecond},
				owners:    map[string]string{"a": first, "b": "http://127.0.0.1:2", "c": "http://127.0.0.1:2"},
				loads:     map[string]int{"a": 1, "b": 1, "c": 1},
				byNode:    map[int]map[string]bool{1: {"a": true}, 2: {"b": true, "c": true}},
			},
			afterKill: {
				requests: 50,
				retries:  1,
				owners:   map[string]string{"a": first, "b": first, "d": first},
				loads:    map[string]int{"b": 1, "d": 1},
				byNode:   map[int]map[string]bool{1: {"b": true, "d": true}},
			},
			afterJoin: {
				requests: 50,
				owners:   map[string]string{"a": fourth, "c": first, "e": fourth},
				loads:    map[string]int{"a": 1, "c": 1, "e": 1},
				byNode:   map[int]map[string]bool{1: {"c": true}, 4: {"a": true, "e": true}},
			},
		},
		compared: 3,
		killed:   snapshot{id: 2, state: killed, url: "http://127.0.0.1:2"},
		joined:   snapshot{id: 4, state: live, url: fourth},
		nodes:    3,
		wanted:   3,
		agreed:   true,
	}
}

func TestGoodRunPassesEveryCheck(t *testing.T) {
	checks := goodOutcome().checks()
	for _, c := range checks {
		if !c.ok {
			t.Errorf("%s: %s", c.claim, c.detail)
		}
	}
	if !held(checks) {
		t.Error("held = false, want true")
	}
}

func TestCostTellsReloadsFromFirstLoads(t *testing.T) {
	if got, want := goodOutcome().cost(), (cost{kill: 2, join: 1, lost: 2, moved: 1}); got != want {
		t.Errorf("cost = %+v, want %+v", got, want)
	}
}

func TestBrokenPromiseFailsItsCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(o *outcome)
		claim  string // the check that fails, and the only one
		detail string // in its explanation
	}{
		{
			"a request failed",
			func(o *outcome) { o.phases[afterKill].failures, o.errs = 1, []string{"net/http: connection reset"} },
			"every request was answered", "net/http: connection reset",
		},
		{
			"nothing was asked",
			func(o *outcome) {
				for i := range o.phases {
					o.phases[i].requests = 0
				}
			},
			"every request was answered", "0 requests",
		},
		{
			"an answer changed",
			func(o *outcome) { o.wrong = 1 },
			"every answer was right", "1 differed from an earlier one",
		},
		{
			"an answer is not what the driver renders",
			func(o *outcome) { o.different = 1 },
			"every answer was right", "1 of 3 texts differ",
		},
		{
			"no answer was compared",
			func(o *outcome) { o.compared = 0 },
			"every answer was right", "0 of 0",
		},
		{
			"a key was loaded twice before the kill",
			func(o *outcome) { o.phases[before].loads["a"] = 2 },
			"one load per key before the kill", "3 keys were asked for, 4 loads in all; 1 keys loaded more than once, 0 never",
		},
		{
			"a key was never loaded",
			func(o *outcome) { o.phases[before].owners["x"] = "" },
			"one load per key before the kill", "1 never",
		},
		{
			"a key was loaded that nobody asked for",
			func(o *outcome) { o.phases[before].loads["x"] = 1 },
			"one load per key before the kill", "3 keys were asked for, 4 loads in all",
		},
		{
			"an entry was evicted",
			func(o *outcome) { o.evictions = 1 },
			"one load per key before the kill", "1 evicted",
		},
		{
			"a key was loaded twice since a peer was silent",
			func(o *outcome) { o.phases[before].loads["a"], o.peerErrors = 2, 1 },
			"one load per key before the kill", "too busy",
		},
		{
			"the counters differ",
			func(o *outcome) { o.miscounted = errors.New("node 1 counts 2 loads, its loader ran 3 times") },
			"the nodes count rightly", "node 1 counts 2",
		},
		{
			"a survivor loaded again what it had",
			func(o *outcome) { o.phases[afterKill].loads["a"] = 1 },
			"the kill cost 3 loads", "2 keys",
		},
		{
			"two survivors loaded what the dead node had",
			func(o *outcome) { o.phases[afterKill].loads["b"] = 2 },
			"the kill cost 3 loads", "2 keys",
		},
		{
			"a key that was new after the join was loaded twice",
			func(o *outcome) { o.phases[afterJoin].loads["e"] = 2 },
			"the join cost 2 loads", "1 of the keys",
		},
		{
			"a key that did not move was loaded again",
			func(o *outcome) { o.phases[afterJoin].loads["d"] = 1 },
			"the join cost 2 loads", "1 of the keys",
		},
		{
			"the nodes disagree at the end",
			func(o *outcome) { o.agreed = false },
			"one cluster at the end", "they name the same peers: false",
		},
		{
			"a node is missing at the end",
			func(o *outcome) { o.nodes = 2 },
			"one cluster at the end", "of 3 nodes 2 are alive",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := goodOutcome()
			c.spoil(o)
			checks := o.checks()
			var failed []string
			for _, check := range checks {
				if check.ok {
					continue
				}
				failed = append(failed, check.claim)
				if !strings.Contains(check.detail, c.detail) {
					t.Errorf("detail = %q, want %q in it", check.detail, c.detail)
				}
			}
			if diff := cmp.Diff([]string{c.claim}, failed); diff != "" {
				t.Errorf("failed checks (-want +got):\n%s", diff)
			}
			if held(checks) {
				t.Error("held = true, want false")
			}
		})
	}
}

func TestSummarySaysOkOrFailedForEachCheck(t *testing.T) {
	o := goodOutcome()
	o.agreed = false
	checks := o.checks()
	var out strings.Builder
	writeSummary(&out, o, checks, plain)
	oks, failures := strings.Count(out.String(), "\nok      "), strings.Count(out.String(), "\nFAILED  ")
	if oks != len(checks)-1 || failures != 1 {
		t.Errorf("%d lines are ok and %d FAILED, want %d and 1:\n%s", oks, failures, len(checks)-1, out.String())
	}
	if !strings.HasSuffix(out.String(), "\nA promise was broken.\n") {
		t.Errorf("the summary does not end with its verdict:\n%s", out.String())
	}

	o.agreed = true
	out.Reset()
	writeSummary(&out, o, o.checks(), plain)
	for _, want := range []string{
		"before the kill        100        0       3       3    2.0 ms    3.0 ms    3.0 ms\n",
		"\nEvery promise held.\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("summary =\n%s\nwant in it\n%s", out.String(), want)
		}
	}
}
