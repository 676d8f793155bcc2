package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/peercache/peercache/bench/internal/stores"
)

// A child is this program again, holding one store. Its parent sends it a job and,
// if the job is speed, bursts; it answers each with what it has measured. They talk
// JSON over its standard input and output, and it ends when its input does.

// childVariable is set in the environment of a child.
const childVariable = "PEERCACHE_BENCH_CHILD"

func isChild() bool { return os.Getenv(childVariable) != "" }

// A job is the first thing that a child is told. Exactly one of Speed, Memory and
// Bound is set.
type job struct {
	Library string

	Speed  *speedJob
	Memory *memoryJob
	Bound  *boundJob
}

// serve does the job that comes in.
func serve(in io.Reader, out io.Writer) error {
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	var j job
	if err := requests.Decode(&j); err != nil {
		return err
	}
	libs, err := stores.Named(j.Library)
	if err != nil {
		return err
	}
	switch {
	case j.Speed != nil:
		return j.Speed.serve(libs[0], requests, answers)
	case j.Memory != nil:
		use, err := j.Memory.measure(libs[0])
		if err != nil {
			return err
		}
		return answers.Encode(use)
	case j.Bound != nil:
		peak, err := j.Bound.measure(libs[0])
		if err != nil {
			return err
		}
		return answers.Encode(peak)
	}
	return fmt.Errorf("a job for %s that says nothing", j.Library)
}

// A child is the parent's end of such a process.
type child struct {
	command  *exec.Cmd
	input    io.WriteCloser
	requests *json.Encoder
	answers  *json.Decoder
}

// start starts a child and gives it its job. It ends with ctx, or by stop.
func start(ctx context.Context, j job) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, self)
	command.Env = append(os.Environ(), childVariable+"=1")
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
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
		return nil, fmt.Errorf("%s: %w", j.Library, err)
	}
	return c, nil
}

// stop ends the child and waits for it.
func (c *child) stop() error {
	_ = c.input.Close() // a child that is gone already says so in Wait
	return c.command.Wait()
}

// once starts a child for a job that has one answer.
func once(ctx context.Context, j job, answer any) error {
	c, err := start(ctx, j)
	if err != nil {
		return err
	}
	err = c.answers.Decode(answer)
	if stopped := c.stop(); stopped != nil {
		err = stopped // why there was no answer
	}
	if err != nil {
		return fmt.Errorf("%s: %w", j.Library, err)
	}
	return nil
}
