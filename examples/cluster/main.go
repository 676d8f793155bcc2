// The cluster example is five real processes that share one cache, under load,
// while they are restarted one after the other, one is killed and a new one
// joins. One command does it all:
//
//	go run ./examples/cluster
//	go run ./examples/cluster -replicas 1   # the kill costs next to nothing
//
// What the processes cache is slow to make: the documentation of Go's standard
// library, parsed from the sources below GOROOT each time. A key is a package or
// something that it exports, such as net/http, net/http.Client or
// net/http.Client.Do. Each process is a node of the cluster and a web server;
// the program asks them all for thousands of keys, some far more often than
// others. It does so in four phases:
//
//   - steady: all is well, and each key is loaded exactly once in the cluster;
//   - rolling restart: each process in its turn gets SIGTERM, leaves, ends and is
//     started again at the same ports;
//   - kill -9: one process is killed with SIGKILL, unprepared;
//   - join: a new one is started.
//
// At the end it prints what each phase cost: how many keys had to be loaded that
// had been loaded before, beside how many a cache would have loaded that does not
// move its entries. And it checks what the library promises: no request failed,
// every answer was right, a restart and a join cost next to no loads, and a kill
// no more than what the dead process alone had held. Its exit status is 0 only if
// all that held.
//
// The end of a process is worth copying. A service that ends in this order, on
// SIGTERM, costs its origin nothing when it is deployed; shutdown in node.go does
// it, as does the smaller example in ../service:
//
//	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
//	defer stop()
//	...                              // Serve, then Join
//	<-ctx.Done()
//	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
//	defer cancel()
//	err := node.Leave(leaving)       // entries move, and requests are still answered
//	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
//	defer cancel()
//	err = errors.Join(err, web.Shutdown(closing))
//
// The files: flags.go is the command line, main.go the program, trial.go the run
// with its phases; node.go is one node and what it serves, docs.go what it loads,
// process.go a node seen from outside, log.go what it logged; keys.go lists what
// there is to ask for, drive.go asks, tally.go counts; table.go shows it, cost.go
// reckons what the phases cost, and summary.go judges.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/build"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
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
		config:   c,
		schedule: newSchedule(c),
		driver: &driver{
			cluster: &cluster{
				command: command,
				onLoad:  func(p *process, key string) { counts.loaded(p.life, key) },
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
