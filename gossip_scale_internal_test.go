package peercache

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Many processes that only gossip: how long a change takes to reach all, and what it
// costs. With -long as many as the library is designed for.
func TestGossipOfManyProcesses(t *testing.T) {
	n, storm := 30, 10
	if flag.Lookup("long").Value.String() == "true" {
		n, storm = 200, 50
	}
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // runs last: memberlist's goroutines end in the bubble
		network := newGossipNet()
		s := &scale{t: t, network: network}
		s.measure("start", time.Minute, func() { s.join(n - storm) })
		s.measure("quiet minute", 0, func() { time.Sleep(time.Minute) })
		s.measure(fmt.Sprint("join storm of ", storm), time.Minute, func() { s.join(storm) })
		s.measure("one death", time.Minute, func() {
			last := len(s.all) - 1
			network.setDown(s.all[last].addr)
			s.all[last].stop()
			s.all = s.all[:last]
		})
		s.measure("partition of 5 minutes", 0, func() {
			network.partition(func(addr string) int { return len(addr) % 2 }) // hosts of two digits, and the others
			time.Sleep(5 * time.Minute)
		})
		s.measure("end of the partition", time.Minute, func() { network.partition(func(string) int { return 0 }) })
	})
}

// A scale is a cluster of gossiping processes, each with its seeker.
type scale struct {
	t       *testing.T
	network *gossipNet
	all     []*gossip
}

// join starts n more processes at once. The first three are the seeds of all.
func (s *scale) join(n int) {
	from := len(s.all)
	for i := range n {
		c := newGossipConfig(fmt.Sprint("n", from+i))
		c.bind = fmt.Sprintf("10.0.0.%d:7946", from+i)
		c.network = s.network.network(c.bind)
		s.all = append(s.all, startGossip(s.t, c))
	}
	var joins sync.WaitGroup
	for i, g := range s.all[from:] {
		seeds := []seed{{"10.0.0.0", "7946"}, {"10.0.0.1", "7946"}, {"10.0.0.2", "7946"}}
		joins.Go(func() {
			if from+i > 0 {
				_, _ = g.join([]string{fmt.Sprintf("10.0.0.%d:7946", (from+i)%min(3, from+i))})
			}
			g.setState(stateActive)
		})
		life, end := context.WithCancel(s.t.Context())
		seeker := &seeker{node: &Node{life: life, logger: slog.New(slog.DiscardHandler)}, gossip: g, seeds: seeds, alone: make(chan struct{}, 1)}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			seeker.run()
		}()
		s.t.Cleanup(func() { end(); <-ended })
	}
	joins.Wait()
}

// measure does something and waits, for a limit, until all see all as active.
func (s *scale) measure(what string, limit time.Duration, do func()) {
	s.t.Helper()
	start, before := time.Now(), s.network.traffic()
	do()
	for deadline := time.Now().Add(limit); limit > 0 && !s.agree(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not all of %d see all others as active after %v", what, len(s.all), limit)
		}
	}
	took, sent, n := time.Since(start), s.network.traffic(), int64(len(s.all))
	s.t.Logf("%d processes, %s: %v; each sent %d packets, %.1f streams, %d bytes", n, what, took.Round(time.Millisecond),
		(sent.packets-before.packets)/n, float64(sent.streams-before.streams)/float64(n), (sent.bytes-before.bytes)/n)
}

func (s *scale) agree() bool {
	for _, g := range s.all {
		active := 0
		for _, m := range g.members() {
			if m.state == stateActive {
				active++
			}
		}
		if active != len(s.all) {
			return false
		}
	}
	return true
}
