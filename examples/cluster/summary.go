package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// An outcome is everything that the checks at the end of a run judge.
type outcome struct {
	phases     [phases]phaseTally
	owned      map[string]int // as phaseTally.owners, at the end
	wrong      int            // answers that differed from an earlier one for the same key
	errs       []string       // the first few failed requests
	compared   int            // answers compared with what the driver renders itself
	different  int            // of them, those that were not the same
	killed     snapshot       // the process that was killed
	joined     snapshot       // the one that was started last
	evictions  int64          // entries that nodes dropped for lack of room, in the steady phase
	peerErrors int64          // requests to peers that failed or were not answered in time, in the steady phase
	handed     int64          // entries that nodes gave to others until the end of the restarts
	miscounted error          // where a node's counters are not what its driver has counted
	disagreed  []phase        // at whose end the live nodes did not name each other, and no others, as peers
	nodes      int            // nodes alive at the end of the load
	wanted     int            // and how many should be
	replicas   int
}

// A check is one promise and whether it held.
type check struct {
	ok     bool
	claim  string
	detail string
}

// checks judges the outcome.
func (o *outcome) checks() []check {
	return []check{
		o.answered(),
		o.right(),
		o.loadedOnce(),
		o.counted(),
		o.restartCost(),
		o.killCost(),
		o.joinCost(),
		o.oneCluster(),
	}
}

func (o *outcome) answered() check {
	var requests, failures, retries int
	for _, p := range o.phases {
		requests += p.requests
		failures += p.failures
		retries += p.retries
	}
	c := check{
		ok:    failures == 0 && requests > 0,
		claim: "every request was answered",
		detail: fmt.Sprintf("%s requests, %s failed, %s sent again because their node was killed under them",
			count(requests), count(failures), count(retries)),
	}
	for _, err := range o.errs {
		c.detail += "\n" + err
	}
	return c
}

func (o *outcome) right() check {
	return check{
		ok:    o.wrong == 0 && o.different == 0 && o.compared > 0,
		claim: "every answer was right",
		detail: fmt.Sprintf("%s differed from an earlier one; %s of %s texts differ from the driver's own rendering",
			count(o.wrong), count(o.different), count(o.compared)),
	}
}

// loadedOnce is the promise that gives the library its reason: as long as the
// nodes agree who owns what, a key is loaded once in the whole cluster.
func (o *outcome) loadedOnce() check {
	p := &o.phases[steady]
	asked, loads := len(p.asked), p.loadCount()
	never, again := 0, 0
	for key := range p.asked {
		if len(p.loads[key]) == 0 {
			never++
		}
	}
	for _, lives := range p.loads {
		if len(lives) > 1 {
			again++
		}
	}
	c := check{
		ok:    asked > 0 && never == 0 && again == 0 && loads == asked && o.evictions == 0,
		claim: "one load per key while all is well",
		detail: fmt.Sprintf("%s keys were asked for, %s loads in all; %s keys loaded more than once, %s never; %s evicted",
			count(asked), count(loads), count(again), count(never), count(o.evictions)),
	}
	if again > 0 && o.peerErrors > 0 {
		c.detail += fmt.Sprintf("\n%s requests to a peer had no sign of life in time: is the machine too busy?", count(o.peerErrors))
	}
	return c
}

func (o *outcome) counted() check {
	c := check{
		ok:     o.miscounted == nil,
		claim:  "the nodes count rightly",
		detail: "each counts as many loads as its loader ran, after each phase",
	}
	if !c.ok {
		c.detail = o.miscounted.Error()
	}
	return c
}

// What is taken for "next to nothing". The library does better where each
// process gets the processor when it needs it; here they share one machine with
// whatever else it does.
const (
	// mostAgain is the share of entries that may be loaded again although they
	// could have been moved.
	mostAgain = 0.10

	// mostLost is how many loads a key may cost on average that died with its
	// node: one, and now and then a second while some nodes have noticed and
	// others have not.
	mostLost = 1.1

	// stray is how many keys may be on their way at the moment when something
	// happens, whatever the shares. Arbitrary.
	stray = 10
)

// atMost returns the bound that a share of n sets.
func atMost(share float64, n int) int { return int(share*float64(n)) + stray }

func (o *outcome) restartCost() check {
	c := o.cost(restart)
	entries := len(o.phases[kill].owners)
	most := atMost(mostAgain, entries)
	return check{
		ok:    c.again <= most && o.handed > 0,
		claim: fmt.Sprintf("restarting all nodes cost %s loads", count(c.again)),
		detail: fmt.Sprintf("at most %s are allowed; %s keys asked for had been loaded before, %s entries were handed over",
			count(most), count(c.bare), count(o.handed)),
	}
}

// A node that is killed takes with it what it alone held. That, and no more, is
// loaded again, and only what is asked for again.
func (o *outcome) killCost() check {
	c := o.cost(kill)
	most, held := atMost(mostLost, c.bare), "without replicas"
	if o.replicas > 0 {
		most, held = atMost(mostAgain, c.bare), "of which others have replicas"
	}
	return check{
		ok:    c.again <= most,
		claim: fmt.Sprintf("the kill cost %s loads", count(c.again)),
		detail: fmt.Sprintf("at most %s are allowed; of the keys asked for node %d owned %s, %s",
			count(most), o.killed.id, count(c.bare), held),
	}
}

func (o *outcome) joinCost() check {
	c := o.cost(join)
	most := atMost(mostAgain, c.bare)
	return check{
		ok:    c.again <= most,
		claim: fmt.Sprintf("the join cost %s loads", count(c.again)),
		detail: fmt.Sprintf("at most %s are allowed; of the keys asked for %s had been loaded and belong to node %d now",
			count(most), count(c.bare), o.joined.id),
	}
}

func (o *outcome) oneCluster() check {
	c := check{
		ok:     len(o.disagreed) == 0 && o.nodes == o.wanted,
		claim:  "one cluster after each phase",
		detail: fmt.Sprintf("at the end %d nodes name each other as peers, node %d among them and node %d not", o.nodes, o.joined.id, o.killed.id),
	}
	if !c.ok {
		c.detail = fmt.Sprintf("at the end %d of %d nodes are alive; phases after which they named other peers than each other: %d %v",
			o.nodes, o.wanted, len(o.disagreed), o.disagreed)
	}
	return c
}

// held reports whether every check is ok.
func held(checks []check) bool {
	return !slices.ContainsFunc(checks, func(c check) bool { return !c.ok })
}

// writeSummary writes what happened, phase by phase, and the checks.
func writeSummary(w io.Writer, o *outcome, checks []check, paint painter) {
	const row = "%-16s %9s %7s %7s %7s %7s %9s %9s %9s\n"
	fmt.Fprintf(w, row, "", "requests", "failed", "loads", "again", "bare", "p50", "p99", "max")
	for i := range o.phases {
		p, c := &o.phases[i], o.cost(phase(i))
		fmt.Fprintf(w, row, phase(i), count(p.requests), count(p.failures), count(p.loadCount()), count(c.again), count(c.bare),
			latency(quantile(p.latencies, 0.5)), latency(quantile(p.latencies, 0.99)), latency(quantile(p.latencies, 1)))
	}
	fmt.Fprint(w, `
again: loads of keys that had been loaded before.
bare:  what these would be if entries did not move: keys loaded before, asked for in
       the phase, and owned by another process after it.

`)
	for _, c := range checks {
		verdict := paint(green, "ok    ")
		if !c.ok {
			verdict = paint(red, "FAILED")
		}
		fmt.Fprintf(w, "%s  %s: %s\n", verdict, c.claim, strings.ReplaceAll(c.detail, "\n", "\n          "))
	}
	fmt.Fprintln(w)
	if held(checks) {
		fmt.Fprintln(w, "Every promise held.")
		return
	}
	fmt.Fprintln(w, paint(red, "A promise was broken."))
}

// latency prints a duration in milliseconds.
func latency(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
