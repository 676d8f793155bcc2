package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// goodOutcome is a run in which every promise held. Three nodes, in their lives
// 1, 2 and 3, loaded a, b and c; after their restarts they are 4, 5 and 6, and
// gave each other what they had. Life 5 was killed with b and e; b was asked for
// again at once and e only after the join. Life 7 joined and owns a, which it was
// given.
func goodOutcome() *outcome {
	set := func(keys string) map[string]bool {
		asked := make(map[string]bool)
		for _, key := range keys {
			asked[string(key)] = true
		}
		return asked
	}
	return &outcome{
		phases: [phases]phaseTally{
			steady: {
				requests:  100,
				latencies: []time.Duration{time.Millisecond, 3 * time.Millisecond, 2 * time.Millisecond},
				asked:     set("abc"),
				loads:     map[string][]int{"a": {1}, "b": {2}, "c": {3}},
			},
			restart: {
				requests: 100,
				asked:    set("abde"),
				loads:    map[string][]int{"d": {4}, "e": {5}},
				owners:   map[string]int{"a": 1, "b": 2, "c": 3},
			},
			kill: {
				requests: 50,
				retries:  1,
				asked:    set("abf"),
				loads:    map[string][]int{"b": {6}, "f": {6}},
				owners:   map[string]int{"a": 4, "b": 5, "c": 6, "d": 4, "e": 5},
			},
			join: {
				requests: 50,
				asked:    set("aceg"),
				loads:    map[string][]int{"e": {6}, "g": {7}},
				owners:   map[string]int{"a": 4, "b": 6, "c": 6, "d": 4, "e": 6, "f": 6},
			},
		},
		owned:    map[string]int{"a": 7, "b": 6, "c": 6, "d": 4, "e": 6, "f": 6, "g": 7},
		compared: 3,
		killed:   snapshot{id: 2, life: 5, state: killed},
		joined:   snapshot{id: 4, life: 7, state: live},
		handed:   5,
		nodes:    3,
		wanted:   3,
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
	for name, c := range map[string]struct {
		spoil func(o *outcome)
		want  [phases]cost
	}{
		"entries moved": {
			func(*outcome) {},
			[phases]cost{restart: {bare: 2}, kill: {again: 2, bare: 2}, join: {bare: 1}},
		},
		"they did not": {
			func(o *outcome) {
				o.phases[restart].loads["a"], o.phases[restart].loads["b"] = []int{2, 4}, []int{5}
				o.phases[join].loads["a"] = []int{7}
			},
			[phases]cost{restart: {again: 3, bare: 2}, kill: {again: 2, bare: 2}, join: {again: 1, bare: 1}},
		},
		"a new key was loaded twice in one phase": {
			func(o *outcome) { o.phases[join].loads["g"] = []int{6, 7} },
			[phases]cost{restart: {bare: 2}, kill: {again: 2, bare: 2}, join: {again: 1, bare: 1}},
		},
		"what died was loaded twice after the join": {
			func(o *outcome) { o.phases[join].loads["e"] = []int{6, 7} },
			[phases]cost{restart: {bare: 2}, kill: {again: 2, bare: 2}, join: {again: 1, bare: 1}},
		},
		"what died was answered from a copy, and loaded after the join": {
			func(o *outcome) {
				delete(o.phases[kill].loads, "b")
				o.phases[join].asked["b"], o.phases[join].loads["b"] = true, []int{6}
			},
			[phases]cost{restart: {bare: 2}, kill: {again: 2, bare: 2}, join: {bare: 1}},
		},
		"replicas were there": {
			func(o *outcome) {
				delete(o.phases[kill].loads, "b")
				delete(o.phases[join].loads, "e")
			},
			[phases]cost{restart: {bare: 2}, kill: {bare: 2}, join: {bare: 1}},
		},
		"the killed node had just loaded a key": {
			func(o *outcome) { o.phases[kill].loads["f"] = []int{5, 6} },
			[phases]cost{restart: {bare: 2}, kill: {again: 3, bare: 3}, join: {bare: 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := goodOutcome()
			c.spoil(o)
			var got [phases]cost
			for p := range phases {
				got[p] = o.cost(p)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(cost{})); diff != "" {
				t.Errorf("costs (-want +got):\n%s", diff)
			}
		})
	}
}

// again has n more keys loaded a second time in a phase.
func again(p phase, n int) func(o *outcome) {
	return func(o *outcome) {
		for i := range n {
			key := fmt.Sprint("key-", i)
			o.phases[steady].asked[key] = true
			o.phases[steady].loads[key] = []int{1}
			o.phases[p].loads[key] = []int{6}
		}
	}
}

func TestBoundsAllowStraysAndAShare(t *testing.T) {
	for name, c := range map[string]struct {
		check func(o *outcome) check
		phase phase
		most  int // what the good outcome may have of more
	}{
		"restart": {(*outcome).restartCost, restart, stray},
		"kill":    {(*outcome).killCost, kill, stray}, // and two that were lost
		"join":    {(*outcome).joinCost, join, stray},
	} {
		o := goodOutcome()
		if again(c.phase, c.most)(o); !c.check(o).ok {
			t.Errorf("%s: %d more loads fail: %s", name, c.most, c.check(o).detail)
		}
		if again(c.phase, c.most+1)(o); c.check(o).ok {
			t.Errorf("%s: %d more loads pass: %s", name, c.most+1, c.check(o).detail)
		}
	}
	if got := atMost(mostAgain, 1000); got != 100+stray {
		t.Errorf("atMost(%v, 1000) = %d, want %d", mostAgain, got, 100+stray)
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
			func(o *outcome) { o.phases[kill].failures, o.errs = 1, []string{"net/http: connection reset"} },
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
			"a key was loaded twice while all was well",
			func(o *outcome) { o.phases[steady].loads["a"] = []int{1, 2} },
			"one load per key while all is well", "3 keys were asked for, 4 loads in all; 1 keys loaded more than once, 0 never",
		},
		{
			"a key was never loaded",
			func(o *outcome) { o.phases[steady].asked["x"] = true },
			"one load per key while all is well", "1 never",
		},
		{
			"a key was loaded that nobody asked for",
			func(o *outcome) { o.phases[steady].loads["x"] = []int{1} },
			"one load per key while all is well", "3 keys were asked for, 4 loads in all",
		},
		{
			"an entry was evicted",
			func(o *outcome) { o.evictions = 1 },
			"one load per key while all is well", "1 evicted",
		},
		{
			"a key was loaded twice since a peer was silent",
			func(o *outcome) { o.phases[steady].loads["a"], o.peerErrors = []int{1, 2}, 1 },
			"one load per key while all is well", "too busy",
		},
		{
			"the counters differ",
			func(o *outcome) { o.miscounted = errors.New("node 1 counts 2 loads, its loader ran 3 times") },
			"the nodes count rightly", "node 1 counts 2",
		},
		{
			"the restarts lost entries",
			again(restart, stray+1),
			"restarting all nodes cost 11 loads", "at most 10 are allowed; 2 keys",
		},
		{
			"nothing was handed over",
			func(o *outcome) { o.handed = 0 },
			"restarting all nodes cost 0 loads", "0 entries were handed over",
		},
		{
			"survivors loaded again what they had",
			again(kill, stray+1),
			"the kill cost 13 loads", "at most 12 are allowed; of the keys asked for node 2 owned 2, without",
		},
		{
			"replicas were lost",
			func(o *outcome) { again(kill, stray-1)(o); o.replicas = 1 },
			"the kill cost 11 loads", "at most 10 are allowed; of the keys asked for node 2 owned 2, of which others",
		},
		{
			"the join lost entries",
			again(join, stray+1),
			"the join cost 11 loads", "at most 10 are allowed; of the keys asked for 1 had",
		},
		{
			"the nodes disagree at the end of a phase",
			func(o *outcome) { o.disagreed = []phase{restart} },
			"one cluster after each phase", "1 [rolling restart]",
		},
		{
			"a node is missing at the end",
			func(o *outcome) { o.nodes = 2 },
			"one cluster after each phase", "2 of 3 nodes are alive",
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
	o.disagreed = []phase{join}
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

	o.disagreed = nil
	out.Reset()
	writeSummary(&out, o, o.checks(), plain)
	for _, want := range []string{
		"steady                 100       0       3       0       0    2.0 ms    3.0 ms    3.0 ms\n",
		"kill -9                 50       0       2       2       2    0.0 ms    0.0 ms    0.0 ms\n",
		"\nEvery promise held.\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("summary =\n%s\nwant in it\n%s", out.String(), want)
		}
	}
}
