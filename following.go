package peercache

import "time"

const (
	// Rings are built when gossip has been quiet for ringQuiet, so that a
	// deploy of fifty nodes makes few of them, and at the latest ringLatest
	// after the first change.
	ringQuiet  = 20 * time.Millisecond
	ringLatest = 200 * time.Millisecond
)

// A follower makes rings of what gossip finds, and tells people of what is not in
// order. It runs on one goroutine, off gossip's callbacks: Gets go by the ring of before
// while the next is built.
type follower struct {
	node   *Node
	gossip *gossip
	seeker *seeker
	twins  twins
	toll   toll
}

func newFollower(n *Node, g *gossip, s *seeker) *follower {
	return &follower{node: n, gossip: g, seeker: s, twins: twins{node: n, gossip: g}}
}

// run follows until the node has left.
func (f *follower) run() {
	for alone := true; ; {
		select {
		case <-f.gossip.changed():
			if !f.awaitQuiet() {
				return
			}
		case <-f.twins.due():
		case <-f.node.life.Done():
			return
		}
		f.twins.settle()
		members := f.gossip.members()
		f.node.install(members)
		if dead, of, many := f.toll.note(now(), f.gossip.deaths(), len(members)-1); many {
			f.node.logger.Warn("peercache: half of the peers or more vanished at once: either they died, or this process "+
				"is cut off from them or was not scheduled for seconds", "n", dead, "of", of, "within", tollWindow)
		}
		was := alone
		if alone = len(f.gossip.addrs()) == 0; alone && !was {
			notify(f.seeker.alone)
		}
	}
}

// awaitQuiet waits until it is time for a ring. It reports false if the node has left.
func (f *follower) awaitQuiet() bool {
	latest := time.After(ringLatest)
	for {
		select {
		case <-f.gossip.changed():
		case <-time.After(ringQuiet):
			return true
		case <-latest:
			return true
		case <-f.node.life.Done():
			return false
		}
	}
}

// A toll counts the deaths of the last seconds. The zero value is ready.
type toll struct {
	deaths []int64 // when, the latest last
	told   bool    // of the ones that are counted now
}

// tollWindow is how far apart deaths are noticed that happened at once: each waits for
// its own probe and suspicion.
const tollWindow = 10 * time.Second

// note counts deaths at a time, after which so many others are alive. It reports, once
// until all is quiet again, that at least half of those there were have died: n of them.
// One is never many.
func (t *toll) note(at int64, deaths, alive int) (n, of int, many bool) {
	for len(t.deaths) > 0 && t.deaths[0] <= at-int64(tollWindow) {
		t.deaths = t.deaths[1:]
	}
	if len(t.deaths) == 0 {
		t.told = false
	}
	for range deaths {
		t.deaths = append(t.deaths, at)
	}
	n = len(t.deaths)
	many = !t.told && n > 1 && n >= alive
	t.told = t.told || many
	return n, n + alive, many
}
