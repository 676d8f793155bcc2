package peercache

import (
	"fmt"
	"time"
)

// The end of gossip: leave, which the others are told of, and stop, which they are not.

// gossipFarewell is how long others are told that this process is leaving before they are
// told that it has: three rounds, after which they pass it on themselves. Who misses it
// takes the leave for a death and goes on trying this process's address.
const gossipFarewell = 3 * gossipInterval

// farewellTries is how often they are told if a suspicion comes between each time (arbitrary:
// under a load that has everybody suspect everybody one in a hundred does).
const farewellTries = 3

// leave tells the others that this process leaves, and returns when memberlist has
// told enough of them, which takes 0.4 to 0.8 s, or with an error after timeout or
// when stop is called. In each case there is no way back, and the sockets stay
// open until stop. A second leave returns at once. Between the two, when others know that
// this process leaves and still ask it, meanwhile is called.
func (g *gossip) leave(timeout time.Duration, meanwhile func()) error {
	select {
	case g.calls <- struct{}{}:
	case <-g.stopping:
		return errGossipStopped
	}
	if g.hasStopped() || g.left {
		<-g.calls
		if g.hasStopped() {
			return errGossipStopped
		}
		return nil
	}
	g.left = true
	g.change(stateLeaving)
	timeout = max(timeout, time.Millisecond) // 0 would wait for ever
	spent, ok := g.tellLeaving(timeout / 2)
	if !ok {
		<-g.calls
		return errGossipStopped
	}
	meanwhile()
	done := make(chan error, 1)
	// Not in wg: nothing ends memberlist's wait before its timeout. It can thus
	// outlive a stop that interrupts it, in a select and touching nothing.
	go func() { done <- g.list.Leave(timeout - spent) }()
	var (
		err  error
		over bool
	)
	select {
	case <-g.entered: // past the check that makes Leave panic after Shutdown
	case err = <-done:
		over = true
	}
	<-g.calls
	if !over {
		select {
		case err = <-done:
		case <-g.stopping:
			return errGossipStopped
		}
	}
	if err != nil {
		return fmt.Errorf("peercache: gossip: %w", err)
	}
	return nil
}

// tellLeaving gives others the time to hear that this process leaves, and says how much of
// the limit that took. It is not ok if it was stopped.
func (g *gossip) tellLeaving(limit time.Duration) (spent time.Duration, ok bool) {
	each := min(limit, gossipFarewell)
	sent := min(gossipUpdateWait, each/2)
	for range farewellTries {
		// announce may have told it already; twice is worse than once, see gossipRepeat.
		if g.toTell() && !g.wait(func() { _ = g.list.UpdateNode(sent) }) || !g.rest(each-sent) {
			return spent, false
		}
		spent += each
		if !g.toTell() || spent+each > limit { // see announce
			break
		}
	}
	return spent, true
}

// rest waits for a time, unless there is nobody to tell, and reports whether it was not
// stopped.
func (g *gossip) rest(d time.Duration) bool {
	if len(g.addrs()) == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-g.stopping:
		return false
	}
}

// wait runs f, which may outlive a stop as memberlist's waits do, and reports whether
// it has ended before one.
func (g *gossip) wait(f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return true
	case <-g.stopping:
		return false
	}
}

// stop closes all sockets and returns when every goroutine of ours has ended. The
// others are not told; without leave before it they find a dead process. After it
// nothing changes or is logged any more. Goroutines of memberlist's end within two
// seconds more: those of a probe that was under way.
func (g *gossip) stop() {
	g.mu.Lock()
	again := g.mu.closed
	g.mu.closed = true
	g.mu.Unlock()
	if again {
		<-g.stopped
		return
	}
	g.freeze()
	close(g.stopping)
	g.calls <- struct{}{} // and never given back
	_ = g.list.Shutdown() // only the transport can fail, and ours does not
	g.wg.Wait()
	close(g.stopped)
}

func (g *gossip) hasStopped() bool {
	select {
	case <-g.stopping:
		return true
	default:
		return false
	}
}
