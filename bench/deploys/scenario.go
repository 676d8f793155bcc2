package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// A scenario is what happens to a cluster.
type scenario struct {
	name  string
	title string

	// replicas is the least that the scenario makes sense with.
	replicas int

	// event has it happen, and returns the keys of the entries that it concerns. Nil:
	// nothing happens.
	event func(ctx context.Context, c *cluster) ([]uint32, error)
}

// scenarios is what is measured.
var scenarios = []scenario{
	{name: "none", title: "Nothing happens"},
	{name: "rolling", title: "Rolling restart of all nodes, by SIGTERM", event: restartAll},
	{name: "kill", title: "kill -9 of one node", event: killLast},
	{name: "join", title: "One more node joins", event: joinOne},
	{name: "kill-replica", title: "kill -9 of one node", event: killLast, replicas: 1},
}

func (s scenario) label() string { return s.name }

// with is how many replicas there are where so many are asked for.
func (s scenario) with(replicas int) int { return max(s.replicas, replicas) }

// heading is what stands above the table and the picture.
func (s scenario) heading(replicas int) string {
	if replicas = s.with(replicas); replicas > 0 {
		return fmt.Sprintf("%s, peercache with Options.Replicas = %d", s.title, replicas)
	}
	return s.title
}

// A result is what a run has come to.
type result struct {
	library               string
	before, during, after summary
	ticks                 []tick // of all three parts
	event                 int    // the index of the first tick of the event in these
	width                 time.Duration
	events                []happening // their ticks are counted from there
	concerned, asked      int         // entries
	extra                 int         // loads
	failure               string      // of one Get
}

// rest is all from the event on.
func (r *result) rest() summary { return summarize(r.ticks[r.event:], r.width) }

// once runs a scenario with a library, from the start of its processes to their end.
func (p *plan) once(ctx context.Context, s scenario, lib library, replicas int) (r result, err error) {
	// An entry ends up to 5 % early, at random.
	rec := newRecorder(p.tick, lifetime*95/100)
	c := &cluster{plan: p, lib: lib, replicas: replicas, recorder: rec}
	defer func() {
		err = errors.Join(err, c.close())
		if ctx.Err() != nil { // which is what all of it failed of
			err = ctx.Err()
		}
	}()
	if err := c.form(ctx, p.nodes); err != nil {
		return r, err
	}
	if err := c.balance(c.running(), p.rate); err != nil {
		return r, err
	}
	begin, err := c.pass(ctx, int(math.Ceil(c.at())), p.warm)
	if err != nil {
		return r, err
	}
	event, err := c.pass(ctx, begin, p.before)
	if err != nil {
		return r, err
	}
	keys, err := c.strike(ctx, s)
	if err != nil {
		return r, err
	}
	over, err := c.pass(ctx, event, p.during)
	if err != nil {
		return r, err
	}
	end, err := c.pass(ctx, over, p.after)
	if err != nil {
		return r, err
	}
	if err := c.balance(c.running(), 0); err != nil { // and each reports before it answers
		return r, err
	}
	r = result{library: lib.name, ticks: rec.part(begin, end), event: event - begin, width: p.tick, failure: rec.failure()}
	r.before = summarize(r.ticks[:event-begin], p.tick)
	r.during = summarize(r.ticks[event-begin:over-begin], p.tick)
	r.after = summarize(r.ticks[over-begin:], p.tick)
	r.concerned, r.asked = len(keys), asked(r.ticks[event-begin:], keys)
	for _, e := range c.events {
		r.events = append(r.events, happening{tick: e.tick - float64(event), name: e.name})
	}
	if r.before.gets == 0 {
		return r, errors.New("nobody asked for anything")
	}
	return r, nil
}

// pass lets time pass until so much has since a tick, or until the next one, if more has
// already. It returns the tick that begins then: parts are whole ticks.
func (c *cluster) pass(ctx context.Context, from int, d time.Duration) (tick int, err error) {
	tick = max(from+int(math.Ceil(float64(d)/float64(c.recorder.width))), int(math.Ceil(c.at())))
	return tick, sleep(ctx, time.Until(c.recorder.begin(tick)))
}

// at returns the present, in ticks.
func (c *cluster) at() float64 {
	return float64(time.Since(c.recorder.epoch)) / float64(c.recorder.width)
}

// sleep waits, unless ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	pause := time.NewTimer(d)
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// strike has the event of a scenario happen.
func (c *cluster) strike(ctx context.Context, s scenario) ([]uint32, error) {
	if s.event == nil {
		return nil, nil
	}
	return s.event(ctx, c)
}

// restartAll has one node after the other leave and start again, at the same addresses.
func restartAll(ctx context.Context, c *cluster) ([]uint32, error) {
	for _, n := range c.nodes {
		if err := c.restart(ctx, n); err != nil {
			return nil, fmt.Errorf("restart of node %d: %w", n.number, err)
		}
		if err := sleep(ctx, c.plan.settle); err != nil {
			return nil, err
		}
	}
	keys := make([]uint32, c.plan.keys)
	for i := range keys {
		keys[i] = uint32(i)
	}
	return keys, nil
}

func (c *cluster) restart(ctx context.Context, n *node) error {
	leaving := n.child
	n.child = nil
	others := c.running()
	if err := c.introduce(others); err != nil {
		n.child = leaving
		return err
	}
	c.note(fmt.Sprint("−", n.number))
	left := make(chan error, 1)
	go func() { left <- leaving.leave() }()
	err := sleep(ctx, c.plan.lag)
	if err == nil {
		err = c.balance(others, c.plan.rate)
	}
	if err = errors.Join(err, <-left); err != nil {
		return err
	}
	return c.enter(ctx, n)
}

// enter starts a node in a cluster that is at work.
func (c *cluster) enter(ctx context.Context, n *node) error {
	if err := c.start(ctx, n); err != nil {
		return err
	}
	if err := c.introduce(c.running()); err != nil {
		return err
	}
	c.note(fmt.Sprint("+", n.number))
	return c.balance(c.running(), c.plan.rate)
}

// killLast kills the node that started last.
func killLast(ctx context.Context, c *cluster) ([]uint32, error) {
	n := c.nodes[len(c.nodes)-1]
	owned, err := n.child.do(command{Owned: true})
	if err != nil {
		return nil, err
	}
	c.note(fmt.Sprint("kill ", n.number))
	n.child.kill()
	n.child = nil
	if err := c.balance(c.running(), c.plan.rate); err != nil || !c.lib.static {
		return owned.Owned, err
	}
	if err := sleep(ctx, c.plan.notice); err != nil {
		return nil, err
	}
	c.note("noticed")
	return owned.Owned, c.introduce(c.running())
}

// joinOne adds a node.
func joinOne(ctx context.Context, c *cluster) ([]uint32, error) {
	n, err := c.add(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.enter(ctx, n); err != nil {
		return nil, err
	}
	if err := c.all(c.running(), func(int) command { return command{Meet: len(c.running())} }); err != nil {
		return nil, err
	}
	owned, err := n.child.do(command{Owned: true})
	return owned.Owned, err
}
