package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A trial is one run of the cluster under load.
type trial struct {
	*driver
	config   config
	schedule schedule
	display  *display

	owned map[string]int // from driver.owners, when the last phase ended
	out   outcome        // what there is to judge; report adds what is in the tally
}

// A schedule is how long the parts of a run take.
type schedule struct {
	steady, kill, join time.Duration
	pause              time.Duration // after each restart, before the next one
	total              time.Duration // about
}

const (
	// restartTime is about what a restart takes however short the run: two
	// seconds for which a node that leaves goes on answering, some tenths for it
	// to tell the others, and some for its new life to find them.
	restartTime = 3 * time.Second

	// minPause is for the others to see the new life and send it what it owns
	// (they wait for half a second, in case more changes follow).
	minPause = 200 * time.Millisecond

	// minKill is what the survivors need to notice a death.
	minKill = 3 * time.Second
)

// newSchedule gives half of the time to the restarts, a quarter to the time
// before, and an eighth each to the kill and the join.
func newSchedule(c config) schedule {
	s := schedule{
		steady: c.duration / 4,
		pause:  max(minPause, c.duration/2/time.Duration(c.nodes)-restartTime),
		kill:   max(minKill, c.duration/8),
		join:   c.duration / 8,
	}
	s.total = s.steady + time.Duration(c.nodes)*(restartTime+s.pause) + s.kill + s.join
	return s
}

// assemble starts the processes and waits until they are one cluster.
func (t *trial) assemble(ctx context.Context) error {
	t.display.say("starting %d processes", t.config.nodes)
	// The first one starts alone, then the others find it.
	first, err := t.cluster.start(nil)
	if err != nil {
		return err
	}
	if err := first.wait(ctx, first.ready); err != nil {
		return err
	}
	seeds := t.cluster.seeds()
	for range t.config.nodes - 1 {
		if _, err := t.cluster.start(seeds); err != nil {
			return err
		}
	}
	for _, p := range t.cluster.all() {
		if err := p.wait(ctx, p.ready); err != nil {
			return err
		}
	}
	if !t.agree(ctx, startup) {
		if err := ctx.Err(); err != nil {
			return err
		}
		return fmt.Errorf("the nodes do not agree who is there after %v", startup)
	}
	return nil
}

// drive is the load with its phases.
func (t *trial) drive(ctx context.Context) (*outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	began := time.Now()
	watching.Go(func() { t.watch(ctx, began) })

	t.display.say("%d requests in flight, all nodes well", t.inFlight)
	nothing := func(context.Context) error { return nil }
	if err := t.during(ctx, steady, t.schedule.steady, nothing); err != nil {
		return nil, err
	}
	for _, p := range t.cluster.all() {
		st := p.snapshot().stats
		t.out.evictions += st.Evictions
		t.out.peerErrors += st.PeerErrors
	}
	if err := t.during(ctx, restart, 0, t.restartAll); err != nil {
		return nil, err
	}
	for _, p := range t.cluster.all() {
		t.out.handed += p.snapshot().stats.Handed // those of the lives before are in
	}
	if err := t.during(ctx, kill, t.schedule.kill, t.killOne); err != nil {
		return nil, err
	}
	if err := t.during(ctx, join, t.schedule.join, t.startOne); err != nil {
		return nil, err
	}

	o := &t.out
	o.nodes, o.wanted, o.replicas = len(t.cluster.live()), t.config.nodes, t.config.replicas
	o.compared, o.different = t.compare(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o.owned = t.owned
	t.tally.report(o)
	t.frame(began) // the last word before the summary
	return o, nil
}

// during drives one phase while event happens, and at least for d. Afterwards
// it waits until the nodes agree and all loads are counted.
func (t *trial) during(ctx context.Context, p phase, d time.Duration, event func(context.Context) error) error {
	t.tally.enter(p, t.owned)
	over := make(chan struct{})
	var err error
	go func() {
		defer close(over)
		began := time.Now()
		if err = event(ctx); err == nil {
			err = wait(ctx, d-time.Since(began))
		}
	}()
	t.run(ctx, p, over)
	if <-over; err != nil {
		return err
	}
	if !t.agree(ctx, startup) {
		t.out.disagreed = append(t.out.disagreed, p)
	}
	t.out.miscounted = errors.Join(t.out.miscounted, t.settle(ctx))
	t.owned, err = t.owners(ctx)
	return err
}

// restartAll restarts all nodes, as a deployment does: one after the other, each
// once the one before is ready and has had a little time.
func (t *trial) restartAll(ctx context.Context) error {
	for _, p := range t.cluster.all() {
		t.display.say("node %d gets SIGTERM and is started again", p.id)
		if err := t.restart(ctx, p); err != nil {
			return err
		}
		if err := wait(ctx, t.schedule.pause); err != nil {
			return err
		}
	}
	return nil
}

// balancerLag is how long users are still sent to a node that has been told to
// end: a load balancer hears of it later. Arbitrary; it has to be less than the
// two seconds for which a node that leaves goes on serving.
const balancerLag = time.Second

// restart ends the process of a node gracefully, and starts a new one.
func (t *trial) restart(ctx context.Context, p *process) error {
	if err := p.terminate(); err != nil {
		return err
	}
	if err := wait(ctx, balancerLag); err != nil {
		return err
	}
	p.retire()
	st, err := p.waitLeft(ctx)
	if err != nil {
		return err
	}
	if n := p.snapshot().loads; n != st.Loads {
		t.out.miscounted = errors.Join(t.out.miscounted, miscounted(p.id, st.Loads, n))
	}
	t.out.handed += st.Handed
	again, err := t.cluster.startAgain(p, t.cluster.seeds())
	if err != nil {
		return err
	}
	return again.wait(ctx, again.ready)
}

// warmUp is how long the load has been back on when the kill comes, so that it
// hits a cluster at work. Arbitrary.
const warmUp = 200 * time.Millisecond

// killOne kills the node whose restart is the longest ago, which is at work: what
// it owns was with others while it was away, and those that were restarted after
// it have forgotten that. The last one could be killed for almost nothing.
func (t *trial) killOne(ctx context.Context) error {
	nodes := t.cluster.live()
	if len(nodes) == 0 {
		return errNoNode
	}
	victim := nodes[0]
	if err := wait(ctx, warmUp); err != nil {
		return err
	}
	err := t.killBusy(ctx, victim)
	t.out.killed = victim.snapshot()
	t.display.say("node %d was killed", victim.id)
	return err
}

// startOne starts a node that was not there before.
func (t *trial) startOne(ctx context.Context) error {
	joiner, err := t.cluster.start(t.cluster.seeds())
	if err != nil {
		return err
	}
	t.display.say("node %d was killed, node %d is new", t.out.killed.id, joiner.id)
	err = joiner.wait(ctx, joiner.ready)
	t.out.joined = joiner.snapshot()
	return err
}

// wait lets a time pass, unless ctx ends before.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// compare renders some of the keys that were asked for itself, and counts the
// answers that were something else.
func (t *trial) compare(ctx context.Context) (compared, different int) {
	const most = 50 // arbitrary: well under a second
	asked := byPopularity(t.tally.asked(), t.seed)
	for _, key := range asked[:min(most, len(asked))] {
		text, err := library{t.config.goroot}.text(ctx, key)
		compared++
		if err != nil || !t.tally.answer(key, text) {
			different++
		}
	}
	return compared, different
}

// watch draws the display until ctx ends.
func (t *trial) watch(ctx context.Context, began time.Time) {
	const interval = 250 * time.Millisecond // arbitrary: alive, and not much work
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		t.frame(began)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, p := range t.cluster.live() {
			_, _ = t.status(ctx, p) // a node that does not answer keeps its last numbers
		}
	}
}

// frame draws the display once.
func (t *trial) frame(began time.Time) {
	f := frame{progress: t.tally.progress(), elapsed: min(time.Since(began), t.schedule.total), total: t.schedule.total}
	for _, p := range t.cluster.all() {
		f.nodes = append(f.nodes, p.snapshot())
	}
	t.display.show(f)
}

// serve keeps the processes running until ctx ends.
func (t *trial) serve(ctx context.Context) {
	fmt.Printf("\nServing until Ctrl-C. Try for example\n\n")
	for _, p := range t.cluster.live() {
		fmt.Printf("  curl -i %s/doc/net/http.Client\n", p.snapshot().url)
	}
	<-ctx.Done()
}
