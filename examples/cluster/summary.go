package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// An outcome is everything that the checks at the end of a run judge.
type outcome struct {
	phases     [phases]phaseTally
	wrong      int      // answers that differed from an earlier one for the same key
	errs       []string // the first few failed requests
	compared   int      // answers compared with what the driver renders itself
	different  int      // of them, those that were not the same
	killed     snapshot // the node that was killed
	joined     snapshot // the node that was started last
	evictions  int64    // entries that nodes dropped for lack of room, before the kill
	peerErrors int64    // requests to peers that failed or were not answered in time, before the kill
	miscounted error    // from driver.settle
	nodes      int      // nodes alive at the end of the load
	wanted     int      // and how many should be
	agreed     bool     // whether they named each other, and no others, as peers
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
	p := &o.phases[before]
	loads, never, again := 0, 0, 0
	for key := range p.owners {
		if p.loads[key] == 0 {
			never++
		}
	}
	for _, n := range p.loads {
		loads += n
		if n > 1 {
			again++
		}
	}
	c := check{
		ok:    len(p.owners) > 0 && never == 0 && again == 0 && loads == len(p.owners) && o.evictions == 0,
		claim: "one load per key before the kill",
		detail: fmt.Sprintf("%s keys were asked for, %s loads in all; %s keys loaded more than once, %s never; %s evicted",
			count(len(p.owners)), count(loads), count(again), count(never), count(o.evictions)),
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

// A node that is killed takes with it what it held. That, and no more, is loaded
// again, and only what is asked for again. The tolerance is for keys that are
// asked for while some nodes have noticed and others have not.
const tolerance = 1.1

// cost is how many loads of keys that had been loaded before an event led to.
type cost struct {
	kill, join int
	lost       int // keys that the killed node had loaded and that were asked for after
	moved      int // keys loaded before the join, asked for after it, and then owned by the new node
}

func (o *outcome) cost() cost {
	var c cost
	loaded := func(key string, until phase) bool {
		for p := range until {
			if o.phases[p].loads[key] > 0 {
				return true
			}
		}
		return false
	}
	lost := make(map[string]bool)
	for _, p := range o.phases[:afterJoin] {
		maps.Copy(lost, p.byNode[o.killed.id])
	}
	for key := range lost {
		_, soon := o.phases[afterKill].owners[key]
		_, late := o.phases[afterJoin].owners[key]
		if soon || late {
			c.lost++
		}
	}
	for key, n := range o.phases[afterKill].loads {
		if loaded(key, afterKill) {
			c.kill += n
		} else {
			c.kill += n - 1
		}
	}
	for key, n := range o.phases[afterJoin].loads {
		switch {
		case !loaded(key, afterJoin):
			c.join += n - 1
		case lost[key] && o.phases[afterKill].loads[key] == 0:
			// The first time since the kill that somebody wanted it.
			c.kill++
			c.join += n - 1
		default:
			c.join += n
		}
	}
	for key, owner := range o.phases[afterJoin].owners {
		if owner == o.joined.url && loaded(key, afterJoin) {
			c.moved++
		}
	}
	return c
}

func (o *outcome) killCost() check {
	c := o.cost()
	return check{
		ok:    float64(c.kill) <= tolerance*float64(c.lost),
		claim: fmt.Sprintf("the kill cost %s loads", count(c.kill)),
		detail: fmt.Sprintf("node %d took %s keys with it that were asked for again",
			o.killed.id, count(c.lost)),
	}
}

func (o *outcome) joinCost() check {
	c := o.cost()
	return check{
		ok:    float64(c.join) <= tolerance*float64(c.moved),
		claim: fmt.Sprintf("the join cost %s loads", count(c.join)),
		detail: fmt.Sprintf("%s of the keys asked for had been loaded and belong to node %d now",
			count(c.moved), o.joined.id),
	}
}

func (o *outcome) oneCluster() check {
	c := check{
		ok:     o.agreed && o.nodes == o.wanted,
		claim:  "one cluster at the end",
		detail: fmt.Sprintf("%d nodes name each other as peers, node %d among them and node %d not", o.nodes, o.joined.id, o.killed.id),
	}
	if !c.ok {
		c.detail = fmt.Sprintf("of %d nodes %d are alive; they name the same peers: %t", o.wanted, o.nodes, o.agreed)
	}
	return c
}

// held reports whether every check is ok.
func held(checks []check) bool {
	return !slices.ContainsFunc(checks, func(c check) bool { return !c.ok })
}

// writeSummary writes what happened, phase by phase, and the checks.
func writeSummary(w io.Writer, o *outcome, checks []check, paint painter) {
	fmt.Fprintf(w, "%-16s %9s %8s %7s %7s %9s %9s %9s\n", "", "requests", "failed", "keys", "loads", "p50", "p99", "max")
	for i := range o.phases {
		p := &o.phases[i]
		loads := 0
		for _, n := range p.loads {
			loads += n
		}
		fmt.Fprintf(w, "%-16s %9s %8s %7s %7s %9s %9s %9s\n", phase(i),
			count(p.requests), count(p.failures), count(len(p.owners)), count(loads),
			latency(quantile(p.latencies, 0.5)), latency(quantile(p.latencies, 0.99)), latency(quantile(p.latencies, 1)))
	}
	fmt.Fprintln(w)
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
