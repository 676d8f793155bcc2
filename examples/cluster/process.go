package main

import (
	"bufio"
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
	"syscall"
	"time"

	"github.com/peercache/peercache"
)

// A state is what the driver knows about a node process.
type state int

const (
	starting state = iota // running, not yet serving
	joining               // serving, not yet active in the ring
	live                  // active in the ring; gets requests
	leaving               // told to end, as the load balancer knows by now; gets no new requests
	killed                // by the driver with SIGKILL
	ended                 // said goodbye, or failed
)

func (s state) String() string {
	return [...]string{"starting", "joining", "live", "leaving", "killed", "ended"}[s]
}

// A process is one life of a node as its driver sees it, from outside. A node
// that is restarted keeps its id and its addresses, and begins another life.
type process struct {
	id    int // of the node: 1, 2, 3 …, in the order of their first starts
	life  int // likewise, of all starts
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
		left   bool  // stats are the last ones, from its goodbye
		err    error // how the process ended
	}
}

// A snapshot is what may change about a process, at one moment.
type snapshot struct {
	id    int
	life  int
	state state
	url   string
	loads int64
	stats peercache.Stats
}

func (p *process) snapshot() snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return snapshot{id: p.id, life: p.life, state: p.mu.state, url: p.mu.url, loads: p.mu.loads, stats: p.mu.stats}
}

// kill is kill -9. Requests that fail at p afterwards are not failures: no
// request can be told apart from one that the kill hit.
func (p *process) kill() error {
	p.mu.Lock()
	p.mu.state = killed
	p.mu.Unlock()
	return p.cmd.Process.Kill()
}

// terminate asks p to end, as an orchestrator does. Requests that fail at p
// afterwards are failures: a node that leaves goes on answering.
func (p *process) terminate() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return p.stdin.Close() // it is Windows, which has no such signal, or has just ended
	}
	return nil
}

// retire has p get no new requests, if it is alive.
func (p *process) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.state == live {
		p.mu.state = leaving
	}
}

// A cluster is all nodes ever started. It is safe for concurrent use.
type cluster struct {
	command []string                     // how a node is started, without its addresses and seeds
	onLoad  func(p *process, key string) // called for each load, by one goroutine per process
	echo    func(id int, line []byte)    // if not nil, gets each line that a node logs

	mu    sync.Mutex // guards the fields below
	procs []*process // the present life of each node, by id
	lives int
}

// start starts one more node. seeds are gossip addresses. It returns as soon as
// the process exists.
func (c *cluster) start(seeds []string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.launchLocked(len(c.procs)+1, "-addr", anyPort, "-gossip", anyPort, "-seeds", strings.Join(seeds, ","))
	if err == nil {
		c.procs = append(c.procs, p)
	}
	return p, err
}

// startAgain starts a node that has ended, at the addresses that it had.
func (c *cluster) startAgain(old *process, seeds []string) (*process, error) {
	old.mu.Lock()
	addr, gossip := strings.TrimPrefix(old.mu.url, "http://"), old.mu.gossip
	old.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.launchLocked(old.id, "-addr", addr, "-gossip", gossip, "-seeds", strings.Join(seeds, ","))
	if err == nil {
		c.procs[p.id-1] = p
	}
	return p, err
}

func (c *cluster) launchLocked(id int, args ...string) (*process, error) {
	p := &process{
		id:    id,
		life:  c.lives + 1,
		cmd:   exec.Command(c.command[0], slices.Concat(c.command[1:], args)...), //nolint:noctx // ends when its stdin closes, gracefully
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
	c.lives = p.life
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
		case kindLeft:
			p.mu.Lock()
			p.mu.stats, p.mu.left = *e.Stats, true
			p.mu.Unlock()
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

// all returns the present life of each node, by id.
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

// waitLeft waits until p, which was told to end, has said goodbye and ended, and
// returns what it has counted.
func (p *process) waitLeft(ctx context.Context) (peercache.Stats, error) {
	timeout := time.NewTimer(goodbye)
	defer timeout.Stop()
	select {
	case <-p.done:
	case <-timeout.C:
		return peercache.Stats{}, fmt.Errorf("node %d has not left after %v%s", p.id, goodbye, p.log.text())
	case <-ctx.Done():
		return peercache.Stats{}, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.mu.err != nil:
		return p.mu.stats, fmt.Errorf("node %d: %w%s", p.id, p.mu.err, p.log.text())
	case !p.mu.left:
		return p.mu.stats, fmt.Errorf("node %d ended without a goodbye%s", p.id, p.log.text())
	}
	return p.mu.stats, nil
}

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
		"-goroot", c.goroot, "-parallel", strconv.Itoa(c.parallel), "-replicas", strconv.Itoa(c.replicas), "-v=" + strconv.FormatBool(c.verbose),
	}, nil
}
