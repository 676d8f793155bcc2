// Store compares peercache within one process with other libraries, and prints what
// it measures as tables in Markdown:
//
//	go run ./store                    # all tables, in about six minutes
//	go run ./store -only hit,memory   # some of them
//	go run ./store -short             # does everything still work? a few seconds each
//
// The tables are hit (what a Get of a cached key costs), mixed (Gets and Sets
// together, with and without evictions), memory (what an entry costs) and bound
// (whether limits in bytes hold).
//
// Every store lives in a process of its own, so that none pays for another's
// garbage or profits from the size of another's heap. All alternatives take turns:
// in each round each of them runs for a moment, while the others wait. Printed are
// medians over the rounds, and beside each the ratio to the first row, which is the
// median of the ratios within rounds: on a noisy machine the times move, and the
// ratios much less.
//
// The files: child.go is the process that holds a store, and the parent's end of
// it; speed.go measures Gets and Sets there, memory.go and bound.go the rest;
// tables.go is what is measured and how it is printed.
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
	"strconv"
	"strings"
	"time"

	"github.com/peercache/peercache/bench/internal/stores"
)

func main() {
	if isChild() {
		if err := serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "store:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "store:", err)
		}
		os.Exit(1)
	}
}

// A plan is what the command line asks for.
type plan struct {
	out    io.Writer
	stores []string // empty: all
	rounds int
	burst  time.Duration
	procs  []int // values of GOMAXPROCS
	short  bool
}

// pick returns a where a measurement is meant and b where a smoke test is.
func (p *plan) pick(a, b int) int {
	if p.short {
		return b
	}
	return a
}

// operations is the length of what a speedJob goes through.
func (p *plan) operations() int { return p.pick(1<<21, 1<<14) }

// libraries returns the libraries of these names that the plan has.
func (p *plan) libraries(names ...string) ([]stores.Library, error) {
	if len(p.stores) > 0 {
		names = slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(p.stores, name) })
	}
	return stores.Named(names...)
}

func run(ctx context.Context, args []string, out, warn io.Writer) error {
	p := &plan{out: out}
	flags := flag.NewFlagSet("store", flag.ContinueOnError)
	flags.SetOutput(warn)
	only := flags.String("only", strings.Join(tableNames(), ","), "`tables` to measure, separated by commas")
	names := flags.String("stores", "", "`libraries` to measure, separated by commas; default all")
	procs := flags.String("procs", "1,2", "`values` of GOMAXPROCS, each with as many goroutines, separated by commas")
	flags.IntVar(&p.rounds, "rounds", 11, "how often each alternative runs; many short rounds bear more noise than a few long ones")
	flags.DurationVar(&p.burst, "time", 120*time.Millisecond, "how long it runs")
	flags.BoolVar(&p.short, "short", false, "run everything once, small and for a moment: a smoke test")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if p.short {
		p.rounds, p.burst = 1, 10*time.Millisecond
	}
	if p.rounds < 1 || p.burst <= 0 {
		return errors.New("-rounds and -time must be positive")
	}
	if *names != "" {
		p.stores = strings.Split(*names, ",")
		if _, err := stores.Named(p.stores...); err != nil {
			return err
		}
	}
	for text := range strings.SplitSeq(*procs, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-procs: %q is no number of processors", text)
		}
		p.procs = append(p.procs, n)
	}
	wanted := strings.Split(*only, ",")
	for _, name := range wanted {
		if !slices.Contains(tableNames(), name) {
			return fmt.Errorf("-only: no table %q; there are %s", name, strings.Join(tableNames(), ", "))
		}
	}
	for _, t := range tables {
		if !slices.Contains(wanted, t.name) {
			continue
		}
		if err := t.print(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}
