// Deploys measures what deploys and deaths of processes do to a cache that they share,
// to peercache and to groupcache, and prints it as tables in Markdown:
//
//	go run ./deploys             # all scenarios, in about ten minutes
//	go run ./deploys -svg DIR    # and pictures and series over time, two files for each
//	go run ./deploys -short      # does everything still work? less than 30 seconds
//	go run ./deploys -only kill,join -rate 4000
//
// # What runs
//
// Every node is a process of its own on loopback. It takes its share of the Gets, which
// come at their time whatever became of those before (an open loop), for keys by a Zipf
// distribution with s = 0.99. Their time counts from when they were meant to begin, so
// that nothing is left out while a process hangs. It contains how late the process is
// woken for them: a program of Go that has nothing else to do sleeps whole milliseconds,
// so that half of one is in most times, whatever the library. A Get fails if it brings
// an error, nothing within 2 seconds, or another value than the key's. A load takes 5
// milliseconds. At the start every key is asked for once, so that the cache holds them
// all; nothing is evicted, and nothing expires.
//
// Who stops or starts a process also moves its share of the Gets to the others, as a
// load balancer does: at once if it was killed, within a second of the SIGTERM if it
// goes by itself, when it is ready if it comes.
//
// The nodes of peercache find each other by gossip. groupcache has no membership: its
// peers are set from outside, as early as its users can. All are told before a process
// is stopped, when one listens, and -notice after one was killed, which is what gossip
// takes; to be told by an orchestrator takes longer.
//
// # What is counted
//
// A run has three parts: 10 seconds before the event; the event, from when it begins
// until 3 seconds after it has begun, or until it is over if that is later; and -after
// from then on.
//
// A load is repeated if the key was loaded before and the life of that entry has not
// ended. Had nothing happened there would be none, or some, at a steady rate: where two
// nodes disagree for a moment, where something was evicted after all. That rate is
// measured, both in the part before the event and in the scenario none, which is a run
// without an event. Extra loads are the repeated ones from the event on, less what the
// greater of the two rates makes in that time. They are compared with the entries
// that the event concerns: those of the node that was killed, those that the new node
// owns, or all of them, since a rolling restart restarts every owner. Of these, asked
// for are those of which there was a Get from the event on: without a copy elsewhere each
// of them has to be loaded again at least once.
//
// The hit ratio is the share of the Gets that cost the origin nothing: one less the
// loads by the Gets, in the second they fall into.
//
// The files: scenario.go is what happens, and cluster.go to whom; child.go is a process
// as its parent sees it, process.go what it does, load.go the Gets in it; library.go is
// what is compared, a library being peercache.go or groupcache.go; record.go counts,
// report.go prints, and series.go writes what -svg asks for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if isChild() {
		if err := work(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "deploys:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "deploys:", err)
		}
		os.Exit(1)
	}
}

// A plan is what the command line asks for.
type plan struct {
	out, warn io.Writer
	scenarios []scenario
	libraries []library
	nodes     int
	keys      int
	size      int // of values, in bytes
	rate      float64
	replicas  int
	directory string // of pictures and series, "" for none
	together  bool   // the libraries run at once: they are not compared

	warm   time.Duration // before it counts
	before time.Duration // the event
	during time.Duration // at least
	after  time.Duration
	settle time.Duration // between two restarts
	lag    time.Duration // of the load balancer
	notice time.Duration // of a death, where nobody gossips
	tick   time.Duration // of the series
}

// full is the run that is asked for by default: a cluster that two cores bear, and parts
// that hold enough Gets for a p99.
func full() plan {
	return plan{
		nodes: 5, keys: 100_000, size: 1 << 10, rate: 8000,
		warm: 5 * time.Second, before: 10 * time.Second, during: 3 * time.Second, after: 27 * time.Second,
		settle: 3 * time.Second, lag: time.Second, notice: 3 * time.Second, tick: time.Second,
	}
}

// shorten makes it a smoke test.
func (p *plan) shorten() {
	p.nodes, p.keys, p.rate, p.together = 3, 500, 300, true
	p.warm, p.before, p.during, p.after = 200*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond
	p.settle, p.lag, p.notice, p.tick = 100*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond, 100*time.Millisecond
}

func run(ctx context.Context, args []string, out, warn io.Writer) error {
	p := full()
	p.out, p.warn = out, warn
	flags := flag.NewFlagSet("deploys", flag.ContinueOnError)
	flags.SetOutput(warn)
	only := flags.String("only", "", "`scenarios` to measure, separated by commas: "+strings.Join(names(scenarios), ", ")+"; default all")
	stores := flags.String("stores", "", "`libraries` to measure, separated by commas: "+strings.Join(names(libraries), ", ")+"; default all")
	flags.IntVar(&p.nodes, "nodes", p.nodes, "how many `nodes` there are, at least 2")
	flags.IntVar(&p.keys, "keys", p.keys, "how many `keys` there are")
	flags.Float64Var(&p.rate, "rate", p.rate, "`Gets` per second, of all nodes together")
	flags.IntVar(&p.replicas, "replicas", 0, "Options.Replicas of peercache in all scenarios")
	flags.DurationVar(&p.after, "after", p.after, "how long it is measured after the event")
	flags.DurationVar(&p.settle, "settle", p.settle, "how long a rolling restart waits after a node is ready")
	flags.DurationVar(&p.notice, "notice", p.notice, "when groupcache is told of a death")
	flags.StringVar(&p.directory, "svg", "", "`directory` for a picture and the series of each scenario")
	short := flags.Bool("short", false, "run everything for a moment, with little load: a smoke test; only -only, -stores, -replicas and -svg count beside it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *short {
		p.shorten()
	}
	switch {
	case p.nodes < 2 || p.keys < 1 || p.rate <= 0:
		return errors.New("-nodes must be at least 2, and -keys and -rate positive")
	case p.after <= 0 || p.settle < 0 || p.notice < 0:
		return errors.New("-after must be positive, and -settle and -notice not negative")
	case p.replicas < 0:
		return errors.New("-replicas must not be negative")
	}
	if err := canReplicate(p.replicas); err != nil {
		return fmt.Errorf("-replicas: %w", err)
	}
	var err error
	if p.scenarios, err = named(scenarios, *only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if p.libraries, err = named(libraries, *stores); err != nil {
		return fmt.Errorf("-stores: %w", err)
	}
	if p.directory != "" {
		if err := os.MkdirAll(p.directory, 0o777); err != nil {
			return err
		}
	}
	return p.measure(ctx)
}

// measure runs all scenarios and prints each when it is over.
func (p *plan) measure(ctx context.Context) error {
	usual := make(map[string]float64) // repeated loads per second without an event, by library
	for _, s := range p.scenarios {
		libs := slices.DeleteFunc(slices.Clone(p.libraries), func(lib library) bool { return !lib.has(s) })
		replicas := s.with(p.replicas)
		if err := canReplicate(replicas); err != nil {
			fmt.Fprintf(p.warn, "deploys: NOT MEASURED: %s: %v\n", s.name, err)
			fmt.Fprintf(p.out, "\n**Not measured: %s: %v.**\n", s.name, err)
			continue
		}
		results, err := p.results(ctx, s, libs, replicas)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		for i := range results {
			r := &results[i]
			if s.event == nil {
				usual[r.library] = r.rest().rateOfRepeats()
			}
			r.extra = extraLoads(r.rest().repeated, r.rest().span, r.before.rateOfRepeats(), usual[r.library])
		}
		p.print(s, results)
		if p.directory != "" {
			if err := p.draw(s, results); err != nil {
				return err
			}
		}
	}
	return nil
}

// results runs one scenario with each library, one after the other or all at once.
func (p *plan) results(ctx context.Context, s scenario, libs []library, replicas int) ([]result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]result, len(libs))
	var wg sync.WaitGroup
	for i, lib := range libs {
		wg.Go(func() {
			var err error
			if results[i], err = p.once(ctx, s, lib, replicas); err != nil {
				cancel(fmt.Errorf("%s: %w", lib.name, err)) // the others need not go on
			}
		})
		if !p.together {
			wg.Wait()
		}
		if ctx.Err() != nil {
			break
		}
	}
	wg.Wait()
	return results, context.Cause(ctx)
}

// names returns the names of things.
func names[T interface{ label() string }](all []T) []string {
	labels := make([]string, len(all))
	for i, x := range all {
		labels[i] = x.label()
	}
	return labels
}

// named returns the things of these names, separated by commas, in the order of all;
// no names are all of them.
func named[T interface{ label() string }](all []T, list string) ([]T, error) {
	if list == "" {
		return slices.Clone(all), nil
	}
	wanted := strings.Split(list, ",")
	for _, name := range wanted {
		if !slices.Contains(names(all), name) {
			return nil, fmt.Errorf("there is no %q; there are %s", name, strings.Join(names(all), ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(x T) bool { return !slices.Contains(wanted, x.label()) }), nil
}
