// Peers compares what it costs peercache to fetch a value from a peer with what it
// costs others to fetch one from a server, and prints what it measures as tables in
// Markdown:
//
//	go run ./peers          # all rows, in about three minutes
//	go run ./peers -short   # does everything still work? some seconds
//	go run ./peers -rows 100Bx256,100Bx64 -stores peercache,rueidis
//
// A row is a size of values and a number of callers. Each alternative has two
// processes on loopback, one that holds the values and one that asks for them, so
// that nobody pays for another's garbage. What asks keeps nothing. All alternatives
// take turns: in each round each of them runs for a moment, while the others wait.
// Printed are medians over the rounds, and the ratio to rueidis, which is the median
// of the ratios within rounds: on a noisy machine the times move, and the ratios much
// less. The last table holds the ratios against those that peercache is meant to
// reach.
//
// redis-server and memcached are started from where PATH has them. Without them the
// program says so and leaves out what needs them.
//
// The files: alternatives.go is what is compared, and the files it names are one
// alternative each; child.go is a process that serves or asks, and the parent's end of
// it; callers.go is what asking processes do, histogram.go and cpu.go how that is
// measured; rows.go is what is measured, report.go how it is printed, goals.go what
// is asked of the ratios.
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
	"syscall"
	"time"
)

func main() {
	if isChild() {
		if err := work(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "peers:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "peers:", err)
		}
		os.Exit(1)
	}
}

// A plan is what the command line asks for.
type plan struct {
	out, warn io.Writer
	rows      []row
	stores    []alternative
	rounds    int
	burst     time.Duration
	heap      int // MiB
}

const (
	// Seven rounds have a median that one or two bad ones do not move. A turn of
	// 0.3 s is many times longer than what a scheduler or a collector does at once.
	defaultRounds = 7
	defaultBurst  = 300 * time.Millisecond

	// defaultHeap is what a process has in memory that only fetches values: the
	// default of Options.MaxBytes. With next to nothing in it, the runtime collects
	// after every 4 MiB, which is four Gets of 1 MiB, and of large values that would
	// be most of what is measured.
	defaultHeap = 64
)

func run(ctx context.Context, args []string, out, warn io.Writer) error {
	p := &plan{out: out, warn: warn}
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.SetOutput(warn)
	rowNames := flags.String("rows", "", "`rows` to measure, separated by commas: "+strings.Join(names(rows), ", ")+"; default all")
	storeNames := flags.String("stores", "", "`alternatives` to measure, separated by commas: "+strings.Join(names(alternatives), ", ")+"; default all")
	flags.IntVar(&p.rounds, "rounds", defaultRounds, "how often each alternative runs")
	flags.DurationVar(&p.burst, "time", defaultBurst, "how long it runs")
	flags.IntVar(&p.heap, "heap", defaultHeap, "`MiB` that each process has in memory beside what it serves or asks for")
	short := flags.Bool("short", false, "run everything once and for a moment: a smoke test")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *short {
		p.rounds, p.burst = 1, 20*time.Millisecond
	}
	if p.rounds < 1 || p.burst <= 0 {
		return errors.New("-rounds and -time must be positive")
	}
	if p.heap < 0 {
		return errors.New("-heap must not be negative")
	}
	var err error
	if p.rows, err = named(rows, *rowNames); err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	if p.stores, err = named(alternatives, *storeNames); err != nil {
		return fmt.Errorf("-stores: %w", err)
	}
	return p.measure(ctx)
}

// measure leaves out what this machine does not have, and does the rest.
func (p *plan) measure(ctx context.Context) error {
	p.stores = slices.DeleteFunc(p.stores, func(a alternative) bool {
		err := a.available()
		if err != nil {
			fmt.Fprintf(p.warn, "peers: NOT MEASURED: %s: %v\n", a.name, err)
			fmt.Fprintf(p.out, "\n**Not measured: %s: %v.**\n", a.name, err)
		}
		return err != nil
	})
	if len(p.stores) == 0 {
		return errors.New("there is nothing to measure")
	}
	results := make(results)
	for _, r := range p.rows {
		samples, err := p.turns(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name(), err)
		}
		results[r.name()] = samples
		p.print(r, samples)
	}
	p.printGoals(results)
	return nil
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
