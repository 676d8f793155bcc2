package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
)

// A cluster is the processes of a run, and what is around them: who starts them, tells
// them of each other if need be, and divides the load.
type cluster struct {
	plan     *plan
	lib      library
	replicas int
	recorder *recorder
	nodes    []*node // by number, whether they run or not
	starts   uint64  // so far
	events   []happening
}

// A node is a place where a process runs, and runs again after a restart.
type node struct {
	number          int    // from 1
	address, gossip string // host:port
	child           *child // nil while none runs
}

// A happening is an instant that somebody reading the series wants to know.
type happening struct {
	tick float64 // whole and parts, from the epoch
	name string
}

// note has an event happen now.
func (c *cluster) note(name string) {
	c.events = append(c.events, happening{tick: c.at(), name: name})
}

// add makes a place for one more node.
func (c *cluster) add(ctx context.Context) (*node, error) {
	n := &node{number: len(c.nodes) + 1}
	for _, address := range []*string{&n.address, &n.gossip} {
		var err error
		if *address, err = freeAddress(ctx); err != nil {
			return nil, err
		}
	}
	c.nodes = append(c.nodes, n)
	return n, nil
}

// Ports that systems do not hand out by themselves. What is handed out to connections
// would be taken while a process restarts.
const firstPort, lastPort = 20_000, 32_000

// Ports are handed out one after the other, from one that another run hardly begins
// with: one that nobody listens at may be that of a process that is just restarting.
var (
	portsBegin  = rand.IntN(lastPort - firstPort)
	portsHanded atomic.Int64
)

// freeAddress returns a host:port of loopback where nobody listens.
func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	var errs []error
	for range 100 {
		port := firstPort + (portsBegin+int(portsHanded.Add(1)))%(lastPort-firstPort)
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		stream, err := lc.Listen(ctx, "tcp4", address)
		if err == nil {
			_ = stream.Close()
			packets, udp := lc.ListenPacket(ctx, "udp4", address)
			if udp == nil {
				_ = packets.Close()
				return address, nil
			}
			err = udp
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// start starts the process of a node and returns when it is ready.
func (c *cluster) start(ctx context.Context, n *node) error {
	p := c.plan
	c.starts++
	j := job{
		Library: c.lib.name, Address: n.address, Gossip: n.gossip,
		Keys: p.keys, Size: p.size, Replicas: c.replicas, Seed: c.starts,
		Epoch: c.recorder.epoch.UnixNano(), Tick: p.tick, Lag: p.lag,
	}
	for _, other := range c.running() {
		j.Seeds = append(j.Seeds, other.gossip)
	}
	var err error
	if n.child, err = startChild(ctx, j, c.recorder); err != nil {
		return fmt.Errorf("node %d: %w", n.number, err)
	}
	return nil
}

// running returns the nodes that have a process.
func (c *cluster) running() []*node {
	var running []*node
	for _, n := range c.nodes {
		if n.child != nil {
			running = append(running, n)
		}
	}
	return running
}

// all has all processes obey, at the same time.
func (c *cluster) all(nodes []*node, order func(i int) command) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if _, err := n.child.do(order(i)); err != nil {
				errs[i] = fmt.Errorf("node %d: %w", n.number, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// introduce tells nodes that do not find out by themselves who their peers are.
func (c *cluster) introduce(nodes []*node) error {
	if !c.lib.static {
		return nil
	}
	urls := make([]string, len(nodes))
	for i, n := range nodes {
		urls[i] = "http://" + n.address
	}
	return c.all(nodes, func(int) command { return command{Peers: urls} })
}

// balance divides the load among nodes.
func (c *cluster) balance(nodes []*node, rate float64) error {
	return c.all(nodes, func(int) command { return command{Rate: new(rate / float64(len(nodes)))} })
}

// form starts so many nodes and fills their cache.
func (c *cluster) form(ctx context.Context, nodes int) error {
	for range nodes {
		n, err := c.add(ctx)
		if err != nil {
			return err
		}
		if err := c.start(ctx, n); err != nil {
			return err
		}
	}
	if err := c.all(c.nodes, func(int) command { return command{Meet: nodes} }); err != nil {
		return err
	}
	if err := c.introduce(c.nodes); err != nil {
		return err
	}
	return c.all(c.nodes, func(i int) command { return command{Fill: &fill{First: i, Step: nodes}} })
}

// close ends all processes. Those that were told to leave have ended.
func (c *cluster) close() error {
	var errs []error
	for _, n := range c.running() {
		if err := n.child.stop(); err != nil {
			errs = append(errs, fmt.Errorf("node %d: %w", n.number, err))
		}
		n.child = nil
	}
	return errors.Join(errs...)
}
