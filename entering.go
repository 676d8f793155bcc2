package peercache

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// How a node that has joined enters the ring. A node that its peers do not reach at
// its URL would have every request for its keys fail: so one of them, an active one,
// dials the URL first and must meet this very process there. What keeps it out is a
// handler that is not mounted, a server that does not listen yet, a wrong port, address
// translation, another process with the same URL.

const (
	// entryPatience is how long after its first contact a node waits for somebody
	// to tell whether it is reached: members may all be busy, or dying. Nothing is
	// lost if it enters unchecked: it holds nothing, so that loading is safe for it.
	entryPatience = time.Second

	// refusalStands is how long a node stays out of the ring for one refusal. Who
	// refused may have died since, or be ill itself; while peers do not reach the node
	// one of them says so every second or two.
	refusalStands = 10 * time.Second

	// greetTimeout bounds a greeting: a connection and its answer, and where the peer
	// dials back the same once more, which all have times of their own. Whatever
	// answers there could else hold up a ring with heartbeats.
	greetTimeout = 2 * time.Second

	// Between two attempts there is entryFirst, doubling to entryRetry, each varied by
	// half. The first is short because the member that is asked may not know the
	// newcomer: gossip takes a tenth of a second. The last is what a server that
	// starts late costs at most. For a node that entered unchecked the answer only tells
	// what to warn of, and may take checkRetry.
	entryFirst = 25 * time.Millisecond
	entryRetry = 500 * time.Millisecond
	checkRetry = 10 * time.Second

	// maxMeetings is how many newcomers a node dials at a time (arbitrary: a deploy of
	// fifty, whose dials take a millisecond each, meets it).
	maxMeetings = 32
)

// An entrance is the way of a joined node into the ring.
type entrance struct {
	node    *Node
	gossip  *gossip
	contact chan string   // room for one: the gossip address of the seed that answered first, "" if none did
	refused chan struct{} // closed when a member has dialled the URL in vain

	warned everyMinute
}

func newEntrance(n *Node, g *gossip) *entrance {
	return &entrance{node: n, gossip: g, contact: make(chan string, 1), refused: make(chan struct{})}
}

// meets tells that a seed has answered, or with "" that none will. Only the first call
// counts.
func (e *entrance) meets(addr string) {
	select {
	case e.contact <- addr:
	default:
	}
}

// run makes the node active: when an active member reaches it; at once when it knows
// of none; entryPatience after its first contact when none has said whether it does, or
// refusalStands after the last that said that it does not. It ends when one does, or when
// the node leaves.
func (e *entrance) run() {
	var contact string
	select {
	case contact = <-e.contact:
	case <-e.node.life.Done():
		return
	}
	patience := time.Now().Add(entryPatience)
	wait := entryFirst
	for active, refused := false, false; ; {
		peer, known := e.pick(contact)
		contact = ""
		v := unsaid
		if known {
			v = e.ask(peer, active)
		}
		if v == unmet {
			patience = time.Now().Add(refusalStands)
			if !refused {
				refused = true
				close(e.refused)
			}
		}
		switch {
		case active:
		case v == met: // what it missed it asks for before it answers anybody
			_ = e.node.coherent.catch.sync(peer)
		case !known:
			e.node.coherent.ledger.found()
		}
		if !active && (v == met || !known || !time.Now().Before(patience)) {
			if active = e.node.activate(e.gossip); !active {
				return
			}
		}
		if v == met {
			return
		}
		if active {
			wait = checkRetry
		}
		pause := wait/2 + rand.N(wait)
		if !active {
			pause = min(pause, time.Until(patience))
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-e.node.life.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, entryRetry)
	}
}

// pick returns the URL of an active member, any but this node. The one that gossips at
// the address of the first contact comes first: it is there, and knows of this node.
func (e *entrance) pick(contact string) (url string, known bool) {
	var active []string
	for _, m := range e.gossip.members() {
		if m.state == stateActive && m.url != e.node.self.url {
			active = append(active, m.url)
		}
	}
	if len(active) == 0 {
		return "", false
	}
	if url := e.gossip.urlAt(contact); slices.Contains(active, url) {
		return url, true
	}
	return active[rand.N(len(active))], true
}

// A verdict is what a member says of a newcomer.
type verdict int

const (
	unsaid verdict = iota // it did not answer, or was busy
	met
	unmet
)

// ask asks a member whether it reaches this node.
func (e *entrance) ask(peer string, active bool) verdict {
	n := e.node
	g, err := n.greet(n.life, peer, stateJoining)
	if n.life.Err() != nil {
		return unsaid
	}
	switch {
	case err != nil:
		n.logger.Debug("peercache: asking a peer whether it reaches this node", "peer", peer, "err", err)
		return unsaid
	case g.status == wire.Status_OK:
		return met
	case g.status != wire.Status_UNMET:
		n.logger.Debug("peercache: asking a peer whether it reaches this node", "peer", peer, "err", g.text)
		return unsaid
	}
	if e.warned.now() {
		message := "peercache: staying out of the ring: peers do not reach this node at its URL"
		if active {
			message = "peercache: peers do not reach this node at its URL: its keys are loaded by others"
		}
		n.logger.Warn(message, "url", n.self.url, "peer", peer, "err", g.text, "fix", "before Join, "+
			"have a server listen there with Node.Handler mounted; check the URL's port, address translation and firewalls")
	}
	return unmet
}

// activate puts the node into the ring, unless it has begun to leave. Into its own first: if
// others had it in theirs and asked it for keys before it knows who owned them, it would
// load what it could get from these.
func (n *Node) activate(g *gossip) bool {
	n.mu.Lock()
	joined := n.phase == phaseJoined
	if joined {
		g.change(stateActive) // under the mutex: Leave, which says that it leaves, must come later
	}
	n.mu.Unlock()
	if joined {
		n.install(g.members())
		g.tell()
	}
	return joined
}

// A greeting is what a peer answers to a Meet.
type greeting struct {
	boot   uint64
	status wire.Status
	text   string
}

// greet asks who answers at a peer's URL, on a connection made for it: one that is there
// may be of a process that has lost the URL. Asked by a process that says that it joins,
// whatever it is, the peer dials back first, and answers UNMET if that is in vain.
// Breakers have no part in it.
func (n *Node) greet(ctx context.Context, peer string, as state) (greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	hello := n.hello()
	hello.State = wire.State(as)
	req := &wire.Request{Op: &wire.Request_Meet{Meet: &wire.Meet{}}}
	s, resp, err := newLink(n, peer).dial(hello, false)
	switch {
	case errors.Is(err, errPlain):
		req.Hello = hello
		var g greeting
		err := n.converse(ctx, peer, req, func(resp *wire.Response) error {
			g = greeting{resp.GetHello().GetBoot(), resp.GetStatus(), resp.GetText()}
			return nil
		})
		return g, err
	case resp == nil:
		return greeting{}, err
	case err != nil: // for what the hello says
		return greeting{resp.GetHello().GetBoot(), resp.GetStatus(), resp.GetText()}, nil
	}
	if !s.start() {
		return greeting{}, errLeft
	}
	defer s.fail(errRetired)
	answer, err := s.transact(ctx, req)
	if err != nil {
		return greeting{}, err
	}
	return greeting{resp.GetHello().GetBoot(), answer.GetStatus(), answer.GetText()}, nil
}

// welcome answers a Meet, and calls alive now and then until it does. A newcomer is dialled
// back, if gossip tells of it: else a stranger could have this node send requests anywhere.
func (n *Node) welcome(ctx context.Context, alive func(), hello *wire.Hello) (wire.Status, string) {
	if state(hello.GetState()) != stateJoining {
		return wire.Status_OK, ""
	}
	if g := n.gossiping(); g == nil || !g.knows(hello.GetUrl(), hello.GetBoot()) {
		return wire.Status_BUSY, "gossip has not told of this process yet"
	}
	defer n.meetings.Add(-1)
	if n.meetings.Add(1) > maxMeetings {
		return wire.Status_BUSY, "too many processes join at once"
	}
	type result struct {
		greeting
		err error
	}
	back := make(chan result, 1)
	if !n.background(func() {
		// As an active one, whatever this node is: who is dialled back dials nobody.
		g, err := n.greet(ctx, hello.GetUrl(), stateActive)
		back <- result{g, err}
	}) {
		return wire.Status_DRAINING, "this node has left"
	}
	beat := time.NewTicker(beatInterval)
	defer beat.Stop()
	for {
		select {
		case r := <-back:
			switch {
			case r.err != nil:
				return wire.Status_UNMET, r.err.Error()
			case r.boot != hello.GetBoot():
				return wire.Status_UNMET, "another process answers at " + hello.GetUrl()
			}
			return wire.Status_OK, ""
		case <-beat.C:
			alive()
		}
	}
}
