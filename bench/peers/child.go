package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"time"
)

// A child is this program again, as the server or the client of an alternative. Its
// parent sends it a job and, to a client, bursts; they talk JSON over its standard
// input and output, and it ends when its input does, so that none is left behind
// however the parent ends.

// childVariable is set in the environment of a child.
const childVariable = "PEERCACHE_BENCH_CHILD"

func isChild() bool { return os.Getenv(childVariable) != "" }

// A job is the first thing that a child is told.
type job struct {
	Alternative string
	Size        int // of values, in bytes
	Callers     int
	Keys        int
	Heap        int // MiB that are in memory for nothing

	// Server is the address of the server, for its client. The job of the server has
	// none.
	Server string
}

// A place is where a server is, its answer to its job.
type place struct {
	Address string
	Pid     int
}

// work does the job that comes in, until in ends.
func work(in io.Reader, out io.Writer) error {
	// What a terminal sends goes to the parent too, who ends its children in order.
	signal.Ignore(os.Interrupt)
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	var j job
	if err := requests.Decode(&j); err != nil {
		return err
	}
	i := slices.IndexFunc(alternatives, func(a alternative) bool { return a.name == j.Alternative })
	if i < 0 {
		return fmt.Errorf("a job for %q, which does not exist", j.Alternative)
	}
	heap := make([]byte, j.Heap<<20)
	defer runtime.KeepAlive(heap)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if j.Server != "" {
		bursts := make(chan burst)
		go func() { cancel(receive(ctx, requests, bursts)) }()
		err := alternatives[i].ask(ctx, j, bursts, answers)
		if cause := context.Cause(ctx); cause != nil { // also where ask has an error because of it
			err = cause
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	s, err := alternatives[i].serve(ctx, j)
	if err != nil {
		return err
	}
	if s.stop != nil {
		defer s.stop()
	}
	if err := answers.Encode(place{Address: s.address, Pid: s.pid}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// receive passes bursts on, and returns why there are no more. A client that is in the
// middle of one has to learn of that too: its server is about to end, and some libraries
// try again for as long as their context lets them.
func receive(ctx context.Context, requests *json.Decoder, bursts chan<- burst) error {
	for {
		var b burst
		if err := requests.Decode(&b); err != nil {
			return err
		}
		select {
		case bursts <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask is the client: it connects, fills the server, and answers one burst after the
// other until ctx ends.
func (a alternative) ask(ctx context.Context, j job, bursts <-chan burst, answers *json.Encoder) error {
	dialing, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	c, err := a.dial(dialing, j)
	if err != nil {
		return err
	}
	keys, err := j.fill(dialing, c)
	if err != nil {
		return err
	}
	if err := answers.Encode(true); err != nil {
		return err
	}
	for {
		select {
		case b := <-bursts:
			if err := answers.Encode(b.run(ctx, j, c, keys)); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A child is the parent's end of such a process.
type child struct {
	command  *exec.Cmd
	input    io.WriteCloser
	requests *json.Encoder
	answers  *json.Decoder
}

// lingering is how long a child may take to end, which is a matter of milliseconds,
// before it is killed.
const lingering = 5 * time.Second

// startChild starts a child and gives it its job. It ends with ctx, or by stop.
func startChild(ctx context.Context, j job) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, self)
	command.Env = append(os.Environ(), childVariable+"=1")
	command.Stderr = os.Stderr
	command.WaitDelay = lingering
	input, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	command.Cancel = input.Close // not a kill: a server may have a process of its own to end
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	c := &child{command: command, input: input, requests: json.NewEncoder(input), answers: json.NewDecoder(output)}
	if err := c.requests.Encode(j); err != nil {
		_ = c.stop() // the first error says more
		return nil, fmt.Errorf("%s: %w", j.Alternative, err)
	}
	return c, nil
}

// answer reads the child's next answer, and kills the child that takes too long.
func (c *child) answer(within time.Duration, v any) error {
	late := time.AfterFunc(within, func() { _ = c.command.Process.Kill() })
	err := c.answers.Decode(v)
	if !late.Stop() {
		return fmt.Errorf("no answer within %v", within)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the process ended; what it wrote says why")
	}
	return err
}

// stop ends the child and waits for it.
func (c *child) stop() error {
	_ = c.input.Close() // a child that is gone already says so in Wait
	late := time.AfterFunc(lingering, func() { _ = c.command.Process.Kill() })
	defer late.Stop()
	return c.command.Wait()
}
