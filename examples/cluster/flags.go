package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"time"
)

// config is what the flags say.
type config struct {
	nodes    int
	duration time.Duration
	replicas int
	inFlight int
	parallel int
	zipf     float64
	seed     uint64
	goroot   string
	serve    bool
	verbose  bool
}

// errUsage has been explained to the user already.
var errUsage = errors.New("usage")

// parseFlags reads the command line. It returns flag.ErrHelp after -h, and
// errUsage after writing to out what is wrong.
func parseFlags(args []string, out io.Writer) (config, error) {
	var c config
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // a mistake needs a line, not the whole usage
	flags.IntVar(&c.nodes, "nodes", 5, "start this `number` of processes, 3 to 16")
	flags.DurationVar(&c.duration, "duration", 48*time.Second,
		"drive load for about this `time`, 8s to 1h: a quarter before the restarts, half\nfor them (but 3s each at least), the rest for the kill and the join")
	flags.IntVar(&c.replicas, "replicas", 0, "keep each text on this `number` of other nodes too, 0 to 2")
	flags.IntVar(&c.inFlight, "inflight", 4, "keep this `number` of requests in flight in all, 1 to 64")
	flags.IntVar(&c.parallel, "parallel", 1, "let each process parse this `number` of packages at once, 1 to 16")
	flags.Float64Var(&c.zipf, "zipf", 1.1, "distribute the keys by Zipf with this `exponent`, above 1, up to 4")
	flags.Uint64Var(&c.seed, "seed", 1, "seed of everything random: the same `number` asks for the same keys")
	flags.StringVar(&c.goroot, "goroot", "", "document the sources in this `directory` (default: go env GOROOT)")
	flags.BoolVar(&c.serve, "serve", false, "after the run keep the processes serving until Ctrl-C")
	flags.BoolVar(&c.verbose, "v", false, "print what the processes log, and plain lines instead of the table")

	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, `Usage: go run ./examples/cluster [flags]

Starts real processes that share one cache of the Go documentation, drives load,
restarts them one after the other, kills one, starts a new one, and checks what
peercache promises.
The exit status is 0 only if every promise held.

`)
		flags.SetOutput(out)
		flags.PrintDefaults()
		return c, flag.ErrHelp
	}
	if err == nil {
		err = c.check(flags.Args())
	}
	if err != nil {
		fmt.Fprintf(out, "%v (-h explains the flags)\n", err)
		return c, errUsage
	}
	return c, nil
}

// check says what is wrong with a config, nil if it makes sense.
func (c *config) check(args []string) error {
	switch {
	case len(args) > 0:
		return fmt.Errorf("unexpected argument %q", args[0])
	case c.nodes < 3 || c.nodes > 16:
		return fmt.Errorf("-nodes is %d, want 3 to 16", c.nodes)
	case c.duration < 8*time.Second || c.duration > time.Hour:
		// Below eight seconds the join is over before its node has anything.
		return fmt.Errorf("-duration is %v, want 8s to 1h", c.duration)
	case c.replicas < 0 || c.replicas > 2:
		return fmt.Errorf("-replicas is %d, want 0 to 2", c.replicas)
	case c.inFlight < 1 || c.inFlight > 64:
		return fmt.Errorf("-inflight is %d, want 1 to 64", c.inFlight)
	case c.parallel < 1 || c.parallel > 16:
		return fmt.Errorf("-parallel is %d, want 1 to 16", c.parallel)
	case math.IsNaN(c.zipf) || c.zipf <= 1 || c.zipf > 4:
		return fmt.Errorf("-zipf is %v, want more than 1, at most 4", c.zipf)
	}
	return nil
}
