package peercache

import (
	"cmp"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// All orders of few steps, where a random schedule is one order of many. How a run goes is
// in schedule_trial_internal_test.go; here is how all are gone through, which scopes there
// are, and what is claimed of them.

var exhaust = flag.Duration("exhaust", 0, "how long to try the orders of larger scopes; 0 is not at all")

// A search tries the orders of a scope. Each run begins anew: it repeats the last one up to
// the last branch where something is left to be tried, and from there on takes what comes.
//
// Of orders that differ only in how steps that commute follow each other one is tried, for
// each process sees the same in all of them, and so do the checks. Two steps of a run that
// do not commute are a race if the later could have come before the earlier: then the branch
// of the earlier one is left in a way that leads to that, too. What was tried at a branch,
// with all that can follow, sleeps while another way is gone, until a step is taken with
// which it does not commute: before that it leads to what it has led to. These are the
// source sets and sleep sets of Abdulla, Aronis, Jonsson and Sagonas, Optimal Dynamic Partial
// Order Reduction (POPL 2014), for systems in which no step prevents another.
type search struct {
	scope scope
	full  bool         // all orders, also those that differ in nothing
	each  func(*trial) // called after each run, if it is not nil

	path     []*branch
	complete bool // nothing is left to be tried
	runs     int  // that came to their end
	cut      int  // that found all that was possible asleep
	longest  int
	took     time.Duration
}

// A branch is a place in a run.
type branch struct {
	steps  []step // that are possible
	todo   []step // those to be tried, the current one first
	asleep []step // those that need not be: they were tried, here or before
	did    step   // the current one, with all that it touched
	before []bool // at which branches what was done had to come before that
}

// maxSteps is how many steps a run takes at most (arbitrary: some times what scopes take).
const maxSteps = 200

// all does all runs that are left to be done, until the limit is over or one goes wrong,
// which it returns.
func (x *search) all(t *testing.T, limit time.Duration) (wrong *trial) {
	t.Helper()
	const together = 50 // a bubble costs something too
	slotTables()
	start := time.Now()
	for !x.complete && wrong == nil && time.Since(start) < limit {
		synctest.Test(t, func(*testing.T) {
			for i := 0; i < together && !x.complete; i++ {
				r := x.run()
				if r != nil && len(r.problems) > 0 {
					wrong = r
					return
				}
				if r != nil && x.each != nil {
					x.each(r)
				}
				x.complete = !x.next()
			}
		})
	}
	x.took += time.Since(start)
	return wrong
}

// run does one run. It returns nil if that was cut short.
func (x *search) run() *trial {
	r := newTrial(x.scope)
	defer r.stop()
	var asleep []step
	for depth := 0; len(r.problems) == 0; depth++ {
		options := r.options()
		if depth == len(x.path) {
			if len(options) == 0 {
				r.finish()
				break
			}
			b := x.newBranch(options, asleep)
			if len(b.todo) == 0 {
				x.cut++
				return nil
			}
			x.path = append(x.path, b)
		}
		b := x.path[depth]
		if depth == maxSteps || !slices.EqualFunc(options, b.steps, func(o option, a step) bool { return o.same(a) }) {
			r.problem("the run has no end, or what was possible before is not now: %v, %v", b.steps, options)
			break
		}
		b.did = r.take(options[slices.IndexFunc(options, func(o option) bool { return o.same(b.todo[0]) })])
		if depth == len(x.path)-1 {
			x.findRaces(depth)
		}
		asleep = slices.DeleteFunc(slices.Clone(b.asleep), func(a step) bool { return x.full || !a.commutes(b.did) })
	}
	x.runs++
	x.longest = max(x.longest, len(x.path))
	return r
}

func (x *search) newBranch(options []option, asleep []step) *branch {
	b := &branch{asleep: asleep}
	for _, o := range options {
		b.steps = append(b.steps, o.step)
		if !slices.ContainsFunc(asleep, o.same) && (x.full || len(b.todo) == 0) {
			b.todo = append(b.todo, o.step)
		}
	}
	return b
}

// findRaces finds what had to come before the last step, and what that raced with.
func (x *search) findRaces(last int) {
	b := x.path[last]
	cause := last - 1 // of its being possible; -1 if it was from the beginning
	for cause >= 0 && slices.ContainsFunc(x.path[cause].steps, b.did.same) {
		cause--
	}
	b.before = make([]bool, last)
	for i := last - 1; i >= 0; i-- {
		if b.before[i] || i != cause && x.path[i].did.commutes(b.did) {
			continue
		}
		b.before[i] = true
		for j, is := range x.path[i].before {
			b.before[j] = b.before[j] || is
		}
		if i != cause {
			x.reverse(i, last)
		}
	}
}

// reverse has the last step be tried before an earlier one that it raced with. For that any
// step will do that can be the first of those that lead to the last and not to the earlier.
func (x *search) reverse(earlier, last int) {
	from := x.path[earlier]
	var way []int
	for i := earlier + 1; i <= last; i++ {
		b := x.path[i]
		if i < last && b.before[earlier] {
			continue
		}
		first := !slices.ContainsFunc(way, func(j int) bool { return b.before[j] })
		if first && (slices.ContainsFunc(from.todo, b.did.same) || slices.ContainsFunc(from.asleep, b.did.same)) {
			return
		}
		way = append(way, i)
	}
	from.todo = append(from.todo, x.path[way[0]].did)
}

// next goes back to the last branch where something is left to be tried, and reports
// whether there is one.
func (x *search) next() bool {
	for len(x.path) > 0 {
		b := x.path[len(x.path)-1]
		b.asleep = append(b.asleep, b.did)
		if b.todo = b.todo[1:]; len(b.todo) > 0 {
			return true
		}
		x.path = x.path[:len(x.path)-1]
	}
	return false
}

// Scopes are made of others by adding to them.
type scopes []scope

// with has one of some things begin, at each process.
func (all scopes) with(whats ...string) (more scopes) {
	for _, c := range all {
		for _, what := range whats {
			for at := range 3 {
				st := start{what, at}
				if i := len(c.starts) - 1; i >= 0 && slices.Contains(whats, c.starts[i].what) && c.starts[i].after(st) {
					continue // the two are there the other way round
				}
				added := c
				added.starts = append(slices.Clip(c.starts), st)
				more = append(more, added)
			}
		}
	}
	return more
}

// and has something else begin at one process.
func (all scopes) and(what string, at int) scopes {
	all = slices.Clone(all)
	for i, c := range all {
		all[i].starts = append(slices.Clip(c.starts), start{what, at})
	}
	return all
}

func (st start) after(o start) bool {
	return cmp.Or(cmp.Compare(st.what, o.what), cmp.Compare(st.at, o.at)) > 0
}

// spoiled has one of the messages that there are in each scope be lost, or late.
func (all scopes) spoiled(t *testing.T) (more scopes) {
	t.Helper()
	for _, c := range all {
		var found []step
		x := &search{scope: c, each: func(r *trial) {
			for of, named := range r.names {
				m, ok := of.(*message)
				if !ok || slices.ContainsFunc(found, func(a step) bool { return a.name == named }) {
					continue
				}
				found = append(found, step{name: named, verb: "lost"})
				if m.only == nil {
					found = append(found, step{name: named, verb: "late"})
				}
			}
		}}
		if wrong := x.all(t, time.Minute); wrong != nil || !x.complete {
			t.Fatalf("%v: cannot find out which messages there are", c)
		}
		slices.SortFunc(found, func(a, b step) int { return strings.Compare(a.String(), b.String()) })
		for _, c.spoiled = range found {
			more = append(more, c)
		}
	}
	return more
}

// waiting has some time pass once.
func (all scopes) waiting(d time.Duration) scopes {
	all = slices.Clone(all)
	for i := range all {
		all[i].wait = d
	}
	return all
}

// otherRings has one process go by another ring than the others.
func otherRings(sets ...slots) (all scopes) {
	for odd := range 3 {
		for _, set := range sets {
			var c scope
			c.rings[odd] = set
			all = append(all, c)
		}
	}
	return all
}

// The key's owners are 0, 2 and 1, in this order.
var (
	cold     = scopes{{}}
	warm     = scopes{{warm: only(0)}, {warm: 7}}
	anyhow   = slices.Concat(cold, warm)
	replica  = scopes{{replicas: 1}, {replicas: 1, falling: true}}
	peeked   = scopes{{before: only(1), warm: only(1)}} // the owner asks process 1 for what that has
	pushed   = scopes{{before: only(1), warm: only(1)}, {before: only(1), warm: only(1), falling: true}}.and("Push", 1)
	turning  = scopes{{rings: [3]slots{2, 2, 2}, warm: only(1)}}.and("Turn", 0).and("Turn", 1).and("Turn", 2)
	strange  = scopes{{views: [3]slots{3}}, {views: [3]slots{5}}, {views: [3]slots{0, 3}}, {views: [3]slots{0, 6}}}
	missed   = scopes{{missed: only(0), warm: 7}, {missed: only(2), warm: 7}}
	unlogged = scopes{{missed: only(0), warm: 7, unlogged: true}, {missed: only(2), warm: 7, unlogged: true}}
)

// A family is scopes of a kind.
type family struct {
	name   string
	scopes scopes
}

// smallFamilies are tried by each run of the tests.
func smallFamilies(t *testing.T) []family {
	t.Helper()
	return []family{
		{"two Gets", cold.with("Remove", "Set").with("Get").with("Get")},
		{"two Gets of what all have", warm[1:].with("Remove", "Set").with("Get").with("Get")},
		{"Clear", anyhow.with("Clear").with("Get")},
		{"callers that do not wait", anyhow.with(hasty+"Remove", hasty+"Set").with("Get")},
		{"a replica", slices.Concat(replica.with("Set"), replica.with("Remove").with("Get"))},
		{"rings that differ", otherRings(1, 2, 4, 6).with("Remove", "Set").with("Get")},
		{"views that differ", strange.with("Remove", "Set").with("Get")},
		{"a process that forgets another", warm[1:].with("Forget").with("Remove").with("Get")},
		{"a ring that turns", turning.with("Remove").with("Get")},
		{"peeks", peeked.with("Remove", "Set").with("Get")},
		{"pushes", pushed.and("Get", 0).with("Remove")},
		{"a process that compares itself", warm[1:].and("Get", 1).with("Remove").with("Compare")},
		{"a Remove that was missed", missed.with("Get").with("Get")},
		{"a Remove that was missed and is in no log", unlogged[1:].with("Compare").with("Get")},
		{"a message that is lost or late", cold.and("Get", 1).with("Remove", "Set").spoiled(t)},
	}
}

// largerFamilies are tried for as long as a flag says.
func largerFamilies(t *testing.T) []family {
	t.Helper()
	return []family{
		{"two Gets", anyhow.with("Remove", "Set", "Clear").with("Get").with("Get")},
		{"three Gets", anyhow.with("Remove", "Set").with("Get").with("Get").with("Get")},
		{"two invalidations", anyhow.with("Remove", "Set", hasty+"Remove", hasty+"Set").with("Remove", "Set").with("Get")},
		{"two invalidations and two Gets", anyhow.with("Remove", hasty+"Remove").with("Remove", "Set").with("Get").with("Get")},
		{"callers that do not wait", anyhow.with(hasty+"Remove", hasty+"Set").with("Get").with("Get")},
		{"callers that wait in vain", anyhow.with("Remove", "Set").with("Get").waiting(confirmTimeout)},
		{"replicas", slices.Concat(replica, scopes{{replicas: 2}}).with("Remove", "Set", hasty+"Set").with("Get").with("Get")},
		{"rings that differ", otherRings(1, 2, 3, 4, 5, 6).with("Remove", "Set", hasty+"Set").with("Get").with("Get")},
		{"views that differ", strange.with("Remove", "Set", hasty+"Set").with("Get").with("Get")},
		{"a process that forgets another", anyhow.with("Forget").with("Remove", "Set").with("Get").with("Get")},
		{"a process that meets another", strange.with("Meet").with("Remove", "Set").with("Get")},
		{"a ring that turns", turning.with("Remove", "Set", hasty+"Set").with("Get").with("Get")},
		{"peeks", peeked.with("Remove", "Set", hasty+"Set").with("Get").with("Get")},
		{"pushes", pushed.with("Remove", "Set", hasty+"Set").with("Get").with("Get")},
		{"a process that compares itself", anyhow.with("Remove", "Set", hasty+"Set").with("Compare").with("Get")},
		{"a Remove that was missed", missed.with("Remove", "Set", hasty+"Set").with("Get")},
		{"a Remove that was missed and is in no log", unlogged.with("Compare").with("Remove", "Set").with("Get")},
		{"a message that is lost or late", anyhow.with("Remove", "Set", hasty+"Set").with("Get").spoiled(t)},
		{"the same, and time for another try", cold.with("Remove", "Set").with("Get").spoiled(t).waiting(deliverFirst)},
		{"the same, with two Gets", cold.with("Remove", "Set").with("Get").with("Get").spoiled(t)},
		{"the same, with a replica", replica.with("Remove", "Set").with("Get").spoiled(t)},
		{"the same, with a push", pushed.with("Remove", "Set").with("Get").spoiled(t)},
		{"the same, with rings that differ", otherRings(1, 2, 4, 6).with("Remove", "Set").with("Get").spoiled(t)},
	}
}

// tryAll tries all orders of scopes, or as many as the limit leaves time for: those of each
// scope for a moment, and then for longer and longer, so that small ones are done first. It
// reports whether that were all.
func tryAll(t *testing.T, families []family, limit time.Duration) (complete bool) {
	t.Helper()
	searches := make([][]*search, len(families))
	for i, f := range families {
		for _, c := range f.scopes {
			searches[i] = append(searches[i], &search{scope: c})
		}
	}
	end := time.Now().Add(limit)
	for turn := 10 * time.Millisecond; !complete && time.Now().Before(end); turn *= 2 {
		complete = true
		for _, x := range slices.Concat(searches...) {
			if wrong := x.all(t, min(turn, time.Until(end))); wrong != nil {
				t.Fatalf("%v: %s\n%s", x.scope, wrong.problems[0], wrong.schedule)
			}
			complete = complete && x.complete
		}
	}
	for i, f := range families {
		var sum search
		done := 0
		for _, x := range searches[i] {
			sum.runs, sum.cut, sum.took = sum.runs+x.runs, sum.cut+x.cut, sum.took+x.took
			sum.longest = max(sum.longest, x.longest)
			if x.complete {
				done++
			}
		}
		t.Logf("%s: %d of %d scopes, %d orders of up to %d steps, %d cut short, %v",
			f.name, done, len(f.scopes), sum.runs, sum.longest, sum.cut, sum.took.Round(time.Millisecond))
	}
	return complete
}

func TestAllOrdersOfFewStepsReadNothingThatWasInvalidated(t *testing.T) {
	families := smallFamilies(t)
	if Race { // it looks for what happens within a step
		for i, f := range families {
			families[i].scopes = f.scopes[:min(len(f.scopes), 3)]
		}
	}
	if !tryAll(t, families, time.Hour) {
		t.Error("not all were tried")
	}
}

func TestOrdersOfMoreStepsReadNothingThatWasInvalidated(t *testing.T) {
	if *exhaust == 0 {
		t.Skip("-exhaust says for how long they are to be tried")
	}
	tryAll(t, largerFamilies(t), *exhaust)
}

// Each part of the algorithm that few steps need is switched off in turn: then an order of
// some scope goes wrong, and none does if nothing is.
func TestSearchNoticesWhatIsSwitchedOff(t *testing.T) {
	lost := step{name: name{"invalidate", 1, 0, 1}, verb: "lost"}
	for what, c := range map[string]scope{
		"flights stay attached":                   {fault: keepsFlights, starts: []start{{"Remove", 1}, {"Get", 2}}},
		"a fetch does not say what it needs":      {fault: sendsNoNeeds, starts: []start{{"Remove", 1}, {"Get", 1}}, warm: only(0)},
		"only the last id of a key is remembered": {fault: keepsOneID, starts: []start{{"Remove", 2}, {"Get", 0}, {hasty + "Remove", 1}, {"Get", 1}}, warm: 7},
		"a peer does not say that it is behind":   {fault: sendsNoAged, starts: []start{{"Get", 1}}, missed: only(0), warm: 7},
		"a lost message is not repeated":          {fault: toldOnce, starts: []start{{"Remove", 1}, {"Get", 2}}, spoiled: lost},
		"whom others know is not told":            {fault: hashesAlike, starts: []start{{"Remove", 0}, {"Get", 2}}, views: [3]slots{3}, warm: 7},
		"what nobody can tell is not dropped for": {fault: keepsAll, starts: []start{{"Compare", 0}, {"Get", 1}}, missed: only(0), unlogged: true, warm: 7},
		"a value's birth ids are not looked at":   {fault: bornNow, starts: []start{{"Push", 1}, {"Remove", 2}, {"Get", 0}}, before: only(1), warm: only(1)},
	} {
		t.Run(what, func(t *testing.T) {
			x := &search{scope: c}
			wrong := x.all(t, time.Minute)
			if wrong == nil {
				t.Fatalf("%d runs have noticed nothing", x.runs)
			}
			t.Logf("noticed by run %d: %s", x.runs, wrong.problems[0])
			c.fault = sound
			x = &search{scope: c}
			if wrong = x.all(t, time.Second); wrong != nil {
				t.Errorf("with nothing switched off: %s\n%s", wrong.problems[0], wrong.schedule)
			}
		})
	}
}

// order is the steps of the last run, each with what had to come before it: the same for
// orders that differ in nothing.
func (x *search) order() string {
	var lines []string
	for _, b := range x.path {
		var before []string
		for i, is := range b.before {
			if is {
				before = append(before, x.path[i].did.String())
			}
		}
		slices.Sort(before)
		lines = append(lines, fmt.Sprint(b.did, before))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestSearchTriesEachOrderThatDiffersOnce(t *testing.T) {
	late := step{name: name{"invalidate", 1, 0, 1}, verb: "late"}
	for _, c := range []scope{
		{starts: []start{{"Remove", 0}, {"Get", 2}}},
		{starts: []start{{"Set", 1}, {"Get", 2}}, warm: 7},
		{starts: []start{{"Remove", 1}, {"Get", 1}}, warm: 7, spoiled: late},
	} {
		t.Run(c.String(), func(t *testing.T) {
			returned := make(map[string]string) // by order
			x := &search{scope: c, full: true}
			x.each = func(r *trial) {
				order, all := x.order(), r.returned()
				if was, known := returned[order]; known && was != all {
					t.Errorf("orders that differ in nothing have led to\n%sand\n%s", was, all)
				}
				returned[order] = all
			}
			if x.all(t, time.Minute); !x.complete {
				t.Fatalf("%d orders are not all", x.runs)
			}
			t.Logf("%d of %d orders differ", len(returned), x.runs)

			x = &search{scope: c}
			x.each = func(*trial) {
				if _, left := returned[x.order()]; !left {
					t.Errorf("tried once more, or not to be found:\n%s", x.order())
				}
				delete(returned, x.order())
			}
			x.all(t, time.Minute)
			for order := range returned {
				t.Errorf("not tried:\n%s", order)
			}
		})
	}
}
