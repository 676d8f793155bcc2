package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache"
)

// A state is what the driver knows about a node process.
type state int

const (
	starting state = iota // running, not yet serving
	joining               // serving, not yet active in the ring
	live                  // active in the ring; gets requests
	killed                // by the driver, on purpose
	ended                 // by itself; on purpose only at the end of the run
)

func (s state) String() string {
	return [...]string{"starting", "joining", "live", "killed", "ended"}[s]
}

// A process is one node as its driver sees it, from outside.
type process struct {
	id    int // 1, 2, 3 …, in the order of their starts
	cmd   *exec.Cmd
	stdin io.Closer     // closing it ends the process gracefully
	ready chan struct{} // closed once the node is active in the ring
	done  chan struct{} // closed once the process has ended and its events are read
	log   tail

	inFlight atomic.Int64 // requests to it that have not been answered

	mu struct {
		sync.Mutex
		state  state
		url    string
		gossip string
		loads  int64 // load events
		stats  peercache.Stats
		err    error // how the process ended
	}
}

// A snapshot is what may change about a process, at one moment.
type snapshot struct {
	id    int
	state state
	url   string
	loads int64
	stats peercache.Stats
}

func (p *process) snapshot() snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return snapshot{id: p.id, state: p.mu.state, url: p.mu.url, loads: p.mu.loads, stats: p.mu.stats}
}

// kill is kill -9. Requests that fail at p afterwards are not failures: no
// request can be told apart from one that the kill hit.
func (p *process) kill() error {
	p.mu.Lock()
	p.mu.state = killed
	p.mu.Unlock()
	return p.cmd.Process.Kill()
}

// A cluster is all node processes ever started. It is safe for concurrent use.
type cluster struct {
	command []string                     // how a node is started, without its seeds
	onLoad  func(p *process, key string) // called for each load, by one goroutine per process
	echo    func(id int, line []byte)    // if not nil, gets each line that a node logs

	mu    sync.Mutex // guards the field below
	procs []*process
}

// start starts one more node. seeds are gossip addresses. It returns as soon as
// the process exists.
func (c *cluster) start(seeds []string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	args := append(slices.Clone(c.command[1:]), "-seeds", strings.Join(seeds, ","))
	p := &process{
		id:    len(c.procs) + 1,
		cmd:   exec.Command(c.command[0], args...), //nolint:noctx // ends when its stdin closes, gracefully
		ready: make(chan struct{}),
		done:  make(chan struct{}),
	}
	if c.echo != nil {
		p.log.echo = func(line []byte) { c.echo(p.id, line) }
	}
	p.cmd.Stderr = &p.log
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.stdin = stdin
	c.procs = append(c.procs, p)
	go c.follow(p, stdout)
	return p, nil
}

// follow reads a process's events until it has ended.
func (c *cluster) follow(p *process, stdout io.Reader) {
	defer close(p.done)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // cut short by the kill: this load never began
		}
		switch e.Kind {
		case kindUp:
			p.mu.Lock()
			p.mu.url, p.mu.gossip, p.mu.state = e.URL, e.Gossip, joining
			p.mu.Unlock()
		case kindReady:
			p.mu.Lock()
			p.mu.state = live
			p.mu.Unlock()
			close(p.ready)
		case kindLoad:
			p.mu.Lock()
			p.mu.loads++
			p.mu.Unlock()
			c.onLoad(p, e.Key)
		}
	}
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.err = err
	if p.mu.state != killed {
		p.mu.state = ended
	}
}

// all returns the processes in the order of their starts.
func (c *cluster) all() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.procs)
}

// live returns those that are active in the ring.
func (c *cluster) live() []*process {
	return slices.DeleteFunc(c.all(), func(p *process) bool { return p.snapshot().state != live })
}

// pick returns a random live process, nil if there is none.
func (c *cluster) pick(rng *rand.Rand) *process {
	procs := c.live()
	if len(procs) == 0 {
		return nil
	}
	return procs[rng.IntN(len(procs))]
}

// seeds returns the gossip addresses of the live processes.
func (c *cluster) seeds() []string {
	var addrs []string
	for _, p := range c.live() {
		p.mu.Lock()
		addrs = append(addrs, p.mu.gossip)
		p.mu.Unlock()
	}
	return addrs
}

// startup bounds how long a node takes from its start to its place in the
// ring. Arbitrary: it takes about a second.
const startup = 20 * time.Second

// wait waits for one step of the start of p.
func (p *process) wait(ctx context.Context, step <-chan struct{}) error {
	timeout := time.NewTimer(startup)
	defer timeout.Stop()
	select {
	case <-step:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.done:
		if err := ctx.Err(); err != nil {
			return err // both were ended by the same Ctrl-C
		}
		return fmt.Errorf("node %d ended while it started%s", p.id, p.log.text())
	case <-timeout.C:
		return fmt.Errorf("node %d has not started after %v%s", p.id, startup, p.log.text())
	}
}

// started reports whether p has ever been active in the ring.
func (p *process) started() bool {
	select {
	case <-p.ready:
		return true
	default:
		return false
	}
}

// goodbye bounds how long the nodes have to leave, before they are killed.
const goodbye = leaveTimeout + closeTimeout + 2*time.Second

// stop ends all processes and waits for them: gracefully, or by force once ctx
// has ended. An error names those that did not end well.
func (c *cluster) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	for _, p := range c.all() {
		_ = p.stdin.Close() // fails if it has ended already
	}
	var errs []error
	for _, p := range c.all() {
		forced := false
		select {
		case <-p.done:
		case <-ctx.Done():
			_ = p.cmd.Process.Kill() // fails if it has just ended
			forced = true
			<-p.done
		}
		p.mu.Lock()
		switch {
		case p.mu.state == killed || !p.started():
			// On purpose, or reported by wait.
		case forced:
			errs = append(errs, fmt.Errorf("node %d did not leave in time and was killed%s", p.id, p.log.text()))
		case p.mu.err != nil:
			errs = append(errs, fmt.Errorf("node %d: %w%s", p.id, p.mu.err, p.log.text()))
		}
		p.mu.Unlock()
	}
	return errors.Join(errs...)
}

// selfCommand is the command that starts this program as a node.
func selfCommand(c config) ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return []string{
		exe, nodeCommand,
		"-goroot", c.goroot, "-parallel", strconv.Itoa(c.parallel), "-v=" + strconv.FormatBool(c.verbose),
	}, nil
}

// A tail keeps the last lines that a process logged, for when it fails.
type tail struct {
	echo func(line []byte) // if not nil, gets each line as well

	mu    sync.Mutex // guards the fields below
	part  []byte     // a line that has not ended
	lines [][]byte
}

// tailLines is how many lines are kept: a panic with one goroutine's stack.
const tailLines = 40

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part = append(t.part, b...)
	for {
		line, rest, ok := bytes.Cut(t.part, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		line = bytes.Clone(line)
		t.part = rest
		if t.lines = append(t.lines, line); len(t.lines) > tailLines {
			t.lines = t.lines[1:]
		}
		if t.echo != nil {
			t.echo(line)
		}
	}
}

// text is what was kept, indented, beginning on a new line; "" if nothing was.
func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, line := range t.lines {
		fmt.Fprintf(&b, "\n    %s", line)
	}
	return b.String()
}
