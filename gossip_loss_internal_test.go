package peercache

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// lossy is a network that loses so many of 100 packets, and makes dials wait for a second, doubling, as
// TCP does that has lost the first segment or its answer.
func lossy(n *Network, loss *atomic.Int32) *Network {
	return &Network{
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			for wait := time.Second; lost(loss) || lost(loss); wait *= 2 { //nolint:staticcheck // two packets, each with its own fate
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return n.Dial(ctx, network, addr)
		},
		Listen: n.Listen,
		ListenPacket: func(network, addr string) (net.PacketConn, error) {
			conn, err := n.ListenPacket(network, addr)
			return lossySocket{conn, loss}, err
		},
	}
}

func lost(loss *atomic.Int32) bool { return rand.Int32N(100) < loss.Load() }

type lossySocket struct {
	net.PacketConn
	loss *atomic.Int32
}

func (s lossySocket) WriteTo(b []byte, to net.Addr) (int, error) {
	if lost(s.loss) {
		return len(b), nil
	}
	return s.PacketConn.WriteTo(b, to)
}

// F5, as far as gossip goes: a minute in which 30 of 100 packets are lost keeps no live
// process out of another's members for more than 15 s.
func TestLostPacketsKeepNobodyOutForLong(t *testing.T) {
	runs := 20
	if flag.Lookup("long").Value.String() == "true" {
		runs = 100
	}
	const look = 100 * time.Millisecond
	var longest time.Duration
	times := 0
	for run := range runs {
		// Each in a goroutine of its own: in one goroutine the race detector of Go 1.26
		// crashes after some ten bubbles that are as long as these.
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				t.Cleanup(func() { time.Sleep(time.Minute) }) // runs last: memberlist's goroutines end in the bubble
				network, loss := newGossipNet(), new(atomic.Int32)
				var all []*gossip
				for i := range 5 {
					c := newGossipConfig(fmt.Sprint("n", i))
					c.bind = fmt.Sprintf("10.0.0.%d:7946", i)
					c.network = lossy(network.network(c.bind), loss)
					g := startGossip(t, c)
					if i > 0 {
						joinGossip(t, g, all[0].addr)
					}
					all = append(all, g)
					life, end := context.WithCancel(t.Context())
					s := &seeker{
						node: &Node{life: life, logger: slog.New(slog.DiscardHandler)}, gossip: g,
						seeds: []seed{{"10.0.0.0", "7946"}}, alone: make(chan struct{}, 1),
					}
					ended := make(chan struct{})
					go func() {
						defer close(ended)
						s.run()
					}()
					t.Cleanup(func() { end(); <-ended })
				}
				for _, g := range all {
					awaitStates(t, g, time.Minute, "http://n0 joining, http://n1 joining, http://n2 joining, http://n3 joining, http://n4 joining")
				}
				loss.Store(30)
				out := make(map[[2]int]time.Duration)
				for range time.Minute / look {
					time.Sleep(look)
					synctest.Wait()
					for i, g := range all {
						seen := make(map[string]bool)
						for _, m := range g.members() {
							seen[m.url] = true
						}
						for j := range all {
							pair := [2]int{i, j}
							if seen[fmt.Sprint("http://n", j)] {
								out[pair] = 0
								continue
							}
							if out[pair] += look; out[pair] == look {
								times++
							}
							longest = max(longest, out[pair])
						}
					}
				}
				loss.Store(0)
			})
		})
	}
	t.Logf("in %d minutes of loss a live process was out of another's members %d times, for at most %v", runs, times, longest)
	if longest > 15*time.Second {
		t.Errorf("a live process was out for %v, want at most 15s", longest)
	}
}
