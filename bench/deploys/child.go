package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A child is this program again, as a node of the cluster. Its parent sends it a job and
// then commands, of which it answers one after the other, with reports in between. They
// talk JSON over its standard input and output, and it ends when its input does, so that
// none is left behind however the parent ends. SIGTERM has it leave the cluster first.

// childVariable is set in the environment of a child.
const childVariable = "PEERCACHE_BENCH_CHILD"

func isChild() bool { return os.Getenv(childVariable) != "" }

// A job is the first thing that a child is told.
type job struct {
	Library  string
	Address  string   // host:port of its server
	Gossip   string   // host:port
	Seeds    []string // host:port of the gossip of the others
	Keys     int
	Size     int // of values, in bytes
	Replicas int
	Seed     uint64 // of its random numbers
	Epoch    int64  // in nanoseconds of the wall clock
	Tick     time.Duration
	Lag      time.Duration // of the load balancer
}

// A command is one of the things that a child is told later. One of its fields is set.
type command struct {
	Meet  int      `json:",omitempty"` // wait until there are so many nodes
	Peers []string `json:",omitempty"` // URLs of all nodes
	Fill  *fill    `json:",omitempty"`
	Rate  *float64 `json:",omitempty"` // Gets per second from now on
	Owned bool     `json:",omitempty"` // tell what the node owns
}

// A fill has a child ask for each key of which the rank divided by Step leaves First.
type fill struct{ First, Step int }

// A message is what a child says: a report, or an answer.
type message struct {
	Report *report `json:",omitempty"`
	Answer *answer `json:",omitempty"`
}

// An answer is one to a job or a command.
type answer struct {
	Owned []uint32 `json:",omitempty"` // ranks of keys
	Error string   `json:",omitempty"`
}

// reporting is how often a child reports: what one that is killed has not told is this
// much at most.
const reporting = 100 * time.Millisecond

// starting bounds how long a child may take for what it is told. It is a matter of a
// second, and for filling the cache of some.
const starting = 2 * time.Minute

// A child is the parent's end of such a process.
type child struct {
	command  *exec.Cmd
	input    io.WriteCloser
	requests *json.Encoder
	answers  chan answer // closed when the process has ended, or talks nonsense
}

// lingering is how long a child may take to end, beside what leaving takes, which is a
// matter of milliseconds, before it is killed.
const lingering = 5 * time.Second

// startChild starts a child and gives it its job, which it answers when it is ready.
// What it reports goes to rec. It ends with ctx, or by one of its methods.
func startChild(ctx context.Context, j job, rec *recorder) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{command: exec.CommandContext(ctx, self), answers: make(chan answer)}
	c.command.Env = append(os.Environ(), childVariable+"=1")
	c.command.Stderr = os.Stderr
	c.command.WaitDelay = lingering
	if c.input, err = c.command.StdinPipe(); err != nil {
		return nil, err
	}
	c.requests = json.NewEncoder(c.input)
	c.command.Cancel = c.input.Close
	output, err := c.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.command.Start(); err != nil {
		return nil, err
	}
	go c.listen(ctx, json.NewDecoder(output), rec)
	if _, err := c.answer(c.requests.Encode(j)); err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// listen passes on what the child says.
func (c *child) listen(ctx context.Context, from *json.Decoder, rec *recorder) {
	defer close(c.answers)
	for {
		var m message
		if from.Decode(&m) != nil { // the end; of one that was killed, in the middle of a word
			return
		}
		switch {
		case m.Report != nil:
			rec.add(*m.Report)
		case m.Answer != nil:
			select {
			case c.answers <- *m.Answer:
			case <-ctx.Done(): // nobody asks any more
			}
		}
	}
}

// do has the child obey a command.
func (c *child) do(order command) (answer, error) {
	return c.answer(c.requests.Encode(order))
}

// answer waits for the answer to what was sent, unless that has failed.
func (c *child) answer(sent error) (answer, error) {
	late := time.NewTimer(starting)
	defer late.Stop()
	if sent != nil {
		return answer{}, sent
	}
	select {
	case a, ok := <-c.answers:
		if !ok {
			return a, errors.New("the process ended; what it wrote says why")
		}
		if a.Error != "" {
			return a, errors.New(a.Error)
		}
		return a, nil
	case <-late.C:
		return answer{}, fmt.Errorf("no answer within %v", starting)
	}
}

// stop ends the child without a word to its peers.
func (c *child) stop() error {
	_ = c.input.Close() // a child that is gone already says so in wait
	return c.wait(lingering)
}

// leave has the child leave the cluster and end.
func (c *child) leave() error {
	if err := c.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return c.wait(starting)
}

// kill ends the child as kill -9 does.
func (c *child) kill() {
	_ = c.command.Process.Kill() // one that is gone already has ended too
	for range c.answers {        // nobody waits for
	}
	_ = c.command.Wait() // killed, as it was to be
}

// wait waits for the child to end, and kills it if that takes too long.
func (c *child) wait(within time.Duration) error {
	late := time.AfterFunc(within, func() { _ = c.command.Process.Kill() })
	defer late.Stop()
	for range c.answers { // its last reports come before it ends; Wait would close their pipe
	}
	return c.command.Wait()
}
