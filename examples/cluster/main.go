// The cluster example is five real processes that share one cache, under load,
// with one of them killed on the way. One command does it all:
//
//	go run ./examples/cluster
//
// What the processes cache is slow to make: the documentation of Go's standard
// library, parsed from the sources below GOROOT each time. A key is a package or
// something that it exports, such as net/http, net/http.Client or
// net/http.Client.Do. Each process is a node of the cluster and a web server;
// the program asks them all for thousands of keys, some far more often than
// others. Half way it kills one process with SIGKILL, later it starts a new one.
// At the end it checks what the library promises: no request failed, every
// answer was right, and before the kill each key was loaded exactly once in the
// whole cluster. Its exit status is 0 only if all that held.
//
// The files: flags.go is the command line, main.go the run; node.go is one node
// and what it serves, docs.go what it loads, process.go a node seen from
// outside; keys.go lists what there is to ask for, drive.go asks, tally.go
// counts; table.go shows it and summary.go judges it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/build"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Exit statuses.
const (
	exitBroken      = 1   // a promise was broken, or the run could not be made
	exitUsage       = 2   // the flags make no sense
	exitInterrupted = 130 // by Ctrl-C, as of a shell
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		if err := runNode(os.Args[2:], os.Stdin, os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitBroken)
		}
		return
	}
	os.Exit(run(os.Args[1:]))
}

// run is the whole program, as its driver. It returns the exit status.
func run(args []string) int {
	c, err := parseFlags(args, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	}

	// The second Ctrl-C ends the driver at once; the nodes notice.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	ok, err := play(ctx, c)
	switch {
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return exitBroken
	case !ok:
		return exitBroken
	}
	return 0
}

// play makes one run: it starts the cluster, drives the phases, judges, and ends
// all processes. It reports whether every promise held.
func play(ctx context.Context, c config) (ok bool, err error) {
	if c.goroot, err = findGoroot(ctx, c.goroot); err != nil {
		return false, err
	}
	keys, pkgs, err := allKeys(ctx, c.goroot)
	if err != nil {
		return false, err
	}
	command, err := selfCommand(c)
	if err != nil {
		return false, err
	}

	terminal := func() (width, height int, ok bool) {
		if c.verbose || os.Getenv("TERM") == "dumb" {
			return 0, 0, false
		}
		return terminalSize(os.Stdout)
	}
	_, _, tty := terminal()
	counts := newTally()
	t := &trial{
		config: c,
		driver: &driver{
			cluster: &cluster{
				command: command,
				onLoad:  func(p *process, key string) { counts.loaded(p.id, key) },
			},
			tally:    counts,
			client:   newClient(c.inFlight),
			keys:     byPopularity(keys, c.seed),
			zipf:     c.zipf,
			seed:     c.seed,
			inFlight: c.inFlight,
		},
		display: &display{out: os.Stdout, terminal: terminal, paint: newPainter(tty, os.Getenv("NO_COLOR"))},
	}
	if c.verbose {
		t.cluster.echo = func(id int, line []byte) { fmt.Fprintf(os.Stderr, "node %d: %s\n", id, line) }
	}
	defer func() {
		if ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "\nending all processes")
		}
		// ctx may have ended: the nodes still get the time to leave.
		left := t.cluster.stop(context.WithoutCancel(ctx))
		if left != nil && errors.Is(err, context.Canceled) {
			err = left // more than an interruption
			return
		}
		err = errors.Join(err, left)
	}()

	fmt.Printf("%d processes share one cache: %s texts about the %d packages in %s\n\n",
		c.nodes, count(len(keys)), pkgs, filepath.Join(c.goroot, "src"))
	if err := t.assemble(ctx); err != nil {
		return false, err
	}
	o, err := t.drive(ctx)
	if err != nil {
		return false, err
	}
	checks := o.checks()
	fmt.Println()
	writeSummary(os.Stdout, o, checks, t.display.paint)
	if c.serve {
		t.serve(ctx)
	}
	return held(checks), nil
}

// findGoroot returns the directory to document.
func findGoroot(ctx context.Context, dir string) (string, error) {
	if dir == "" {
		out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if dir = strings.TrimSpace(string(out)); err != nil || dir == "" {
			dir = build.Default.GOROOT // no go command here: where this program was built
		}
	}
	if dir == "" {
		return "", errors.New("no GOROOT: -goroot names one")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "src", "builtin", "builtin.go")); err != nil {
		return "", fmt.Errorf("%s is no GOROOT with sources: %w", dir, err)
	}
	return dir, nil
}

// A trial is one run of the cluster under load.
type trial struct {
	*driver
	config  config
	display *display
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

// drive is the load with its three phases.
func (t *trial) drive(ctx context.Context) (*outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	began := time.Now()
	watching.Go(func() { t.watch(ctx, began) })

	var o outcome
	half, quarter := t.config.duration/2, t.config.duration/4
	t.display.say("%d requests in flight, all nodes well", t.inFlight)
	t.run(ctx, before, half)
	o.miscounted = t.settle(ctx)
	for _, p := range t.cluster.all() {
		st := p.snapshot().stats
		o.evictions += st.Evictions
		o.peerErrors += st.PeerErrors
	}

	victim := t.cluster.pick(rand.New(rand.NewPCG(t.seed, 1)))
	if victim == nil {
		return nil, errNoNode
	}
	err := t.during(ctx, afterKill, quarter, func() error {
		select {
		case <-time.After(warmUp):
		case <-ctx.Done():
			return ctx.Err()
		}
		err := t.killBusy(ctx, victim)
		t.display.say("node %d was killed", victim.id)
		return err
	})
	if err != nil {
		return nil, err
	}
	o.miscounted = errors.Join(o.miscounted, t.settle(ctx))

	var joiner *process
	err = t.during(ctx, afterJoin, t.config.duration-half-quarter, func() (err error) {
		if joiner, err = t.cluster.start(t.cluster.seeds()); err != nil {
			return err
		}
		t.display.say("node %d was killed, node %d is new", victim.id, joiner.id)
		return joiner.wait(ctx, joiner.ready)
	})
	if err != nil {
		return nil, err
	}
	o.miscounted = errors.Join(o.miscounted, t.settle(ctx))
	o.agreed = t.agree(ctx, startup)
	o.nodes, o.wanted = len(t.cluster.live()), t.config.nodes
	o.compared, o.different = t.compare(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	o.killed, o.joined = victim.snapshot(), joiner.snapshot()
	t.tally.report(&o)
	t.frame(began) // the last word before the summary
	return &o, nil
}

// warmUp is how long the load has been back on when the kill comes, so that it
// hits a cluster at work. Arbitrary.
const warmUp = 200 * time.Millisecond

// during drives one phase while event happens.
func (t *trial) during(ctx context.Context, p phase, d time.Duration, event func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		err := event()
		if err != nil {
			cancel()
		}
		failed <- err
	}()
	t.run(ctx, p, d)
	return <-failed
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
	f := frame{progress: t.tally.progress(), elapsed: min(time.Since(began), t.config.duration), total: t.config.duration}
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
