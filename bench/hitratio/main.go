// Hitratio replays traces of what programs have asked their caches for through
// peercache's store and through other libraries, and prints how often each had the
// answer, in percent, as tables in Markdown:
//
//	go run ./hitratio -traces ~/traces          # the set of traces in sets.go
//	go run ./hitratio -synthetic                # artificial ones, the same every time
//	go run ./hitratio -capacities 500,2000 arc:P3.lis loop.lirs.gz+corda-small.gz
//	go run ./hitratio -bytes -capacities 3MiB,12MiB adapt_size:request.trace.xz
//
// Every access is a Get and, if that misses, a Set. One goroutine does it all, and
// what a library does later by itself is waited for after every Set, so that no
// policy suffers from a queue. Optimum is Belady's algorithm, which knows the
// future. Best is the best of the other libraries, and the last columns are how far
// peercache is from it, in points.
//
// The files: sets.go says what is replayed by default, replay.go does it, report.go
// prints what came out.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/peercache/peercache/bench/internal/stores"
	"github.com/peercache/peercache/bench/internal/trace"
)

// The libraries whose hit ratios are compared.
const defaultStores = stores.LRU + "," + stores.LRUOne + "," + stores.Classic +
	",2q,arc,otter,theine,ristretto,sturdyc,bigcache,freecache,groupcache/lru"

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "hitratio:", err)
		}
		os.Exit(1)
	}
}

func run(args []string, out, warn io.Writer) error {
	flags := flag.NewFlagSet("hitratio", flag.ContinueOnError)
	flags.SetOutput(warn)
	dir := flags.String("traces", os.Getenv("TRACES"), "`directory` of the default set of traces; default $TRACES")
	synthetic := flags.Bool("synthetic", false, "replay artificial traces, beside those of a directory that is given")
	capacities := flags.String("capacities", "", "of the traces named as arguments, separated by commas; in bytes they may end in KiB, MiB or GiB")
	bytes := flags.Bool("bytes", false, "capacities are bytes, and the traces named as arguments have sizes")
	names := flags.String("stores", defaultStores, "`libraries` to compare, separated by commas")
	limit := flags.Int("limit", 0, "replay only so many accesses of each trace; 0 means all")
	if err := flags.Parse(args); err != nil {
		return err
	}
	libs, err := stores.Named(strings.Split(*names, ",")...)
	if err != nil {
		return err
	}
	r := &report{out: out, libs: libs}
	defer r.summarize()

	if flags.NArg() > 0 {
		sizes, err := parseCapacities(*capacities)
		if err != nil {
			return err
		}
		for _, spec := range flags.Args() {
			t, err := trace.Read(spec)
			if err != nil {
				return err
			}
			if err := r.replay(t.Head(*limit), sizes, *bytes); err != nil {
				return err
			}
		}
		return nil
	}
	if *dir != "" || !*synthetic {
		if err := r.replayDefaults(*dir, *limit, warn); err != nil {
			return err
		}
	}
	if !*synthetic {
		return nil
	}
	for _, t := range trace.Synthetic(syntheticAccesses) {
		if err := r.replay(t.Head(*limit), syntheticCapacities, false); err != nil {
			return err
		}
	}
	return nil
}

// replayDefaults replays the traces of a directory, and says which are not there.
func (r *report) replayDefaults(dir string, limit int, warn io.Writer) error {
	if dir == "" {
		fmt.Fprintln(warn, "SKIPPED all traces: neither -traces nor $TRACES names a directory")
		return nil
	}
	for _, set := range defaultSets {
		t, err := trace.Read(set.spec(dir))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			fmt.Fprintf(warn, "SKIPPED %s: %v\n", set.name, err)
			continue
		case err != nil:
			return err
		}
		t.Name = set.name
		if err := r.replay(t.Head(limit), set.capacities, set.bytes); err != nil {
			return err
		}
	}
	return nil
}

// parseCapacities parses a list such as 250,3MiB.
func parseCapacities(list string) ([]int64, error) {
	var capacities []int64
	for text := range strings.SplitSeq(list, ",") {
		digits, unit := text, int64(1)
		for i, suffix := range []string{"KiB", "MiB", "GiB"} {
			if rest, ok := strings.CutSuffix(text, suffix); ok {
				digits, unit = rest, 1<<(10*(i+1))
			}
		}
		n, err := strconv.ParseInt(digits, 10, 32)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-capacities: %q is no capacity", text)
		}
		capacities = append(capacities, n*unit)
	}
	return capacities, nil
}
