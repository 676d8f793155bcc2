package peercache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/peercache/peercache/consistenthash"
)

// A node's way through its phases: Join or SetPeers, Leave, and the ring in between.
// What leads to a ring is in entering.go and following.go.

const (
	// lingerTime is how long a node that has left goes on answering: "told
	// often enough" is not "known by everyone".
	lingerTime = 2 * time.Second

	// farewellTime is how long gossip needs to tell of a leave, about.
	farewellTime = 500 * time.Millisecond

	// leaveTimeout bounds the announcement of a leave. Gossip needs a few tenths
	// of a second for five nodes, and more for hundreds.
	leaveTimeout = 5 * time.Second
)

// Join starts gossip and enters the cluster. Seeds are host:port of the gossip
// of other nodes, port 7946 if there is none; a DNS name stands for all its
// addresses and is looked up again for ever.
//
// Each seed is tried once, for 2 seconds in all or until ctx ends. That none
// answers is no error: Join logs a warning, and goes on trying until Leave. So
// all nodes may start at once, and the first may start alone. What waiting cannot
// cure is an error: a malformed seed, a second Join, a Join after SetPeers or
// Leave, a gossip address that cannot be bound, and, if no seed lets this node in, one
// whose answer shows that it has another secret, or that only one of the two has any;
// then the node has left.
//
// The node enters the ring when an active member has dialled its URL and met it
// there, which takes milliseconds; at once when there is no such member. So a server
// with the node's [Node.Handler] must listen before Join. Where none is found Join
// returns nil all the same: a warning a minute says what the member met instead, and
// the node enters when it is cured. [Node.Ready] tells when.
func (n *Node) Join(ctx context.Context, seeds ...string) error {
	parsed, err := parseSeeds(seeds)
	if err != nil {
		return err
	}
	if err := n.enter(phaseJoined); err != nil {
		return err
	}
	g, err := n.gossipUnlessLeft(ctx)
	if err != nil {
		return err
	}
	s := &seeker{node: n, gossip: g, seeds: parsed, alone: make(chan struct{}, 1)}
	e := newEntrance(n, g)
	n.coherent.start()
	n.background(newFollower(n, g, s).run)
	n.background(e.run)

	tried, reached, err := s.tryAll(ctx, e.meets)
	switch {
	case !tried || reached > 0 || !n.joined():
	case errors.Is(err, errOtherSecret):
		at, cancel := context.WithCancel(ctx)
		cancel()
		_ = n.Leave(at) // at once; that it had to be is no news
		return err
	default:
		n.logger.Warn("peercache: no seed answers yet; joining goes on", "seeds", seeds, "err", err)
	}
	e.meets("")
	n.background(s.run)
	select {
	case <-n.ready:
	case <-e.refused:
	case <-time.After(entryPatience + ringLatest):
	case <-ctx.Done():
	case <-n.life.Done():
	}
	if !n.joined() {
		return errLeft
	}
	return nil
}

// joined reports whether the node has joined and not begun to leave.
func (n *Node) joined() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.phase == phaseJoined
}

var (
	errJoined = errors.New("peercache: the node has joined already")
	errStatic = errors.New("peercache: the node's peers come from SetPeers")
	errLeft   = errors.New("peercache: the node has left: make a new one to join again")
)

// enter moves the node from idle to a phase with peers.
func (n *Node) enter(to phase) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch n.phase {
	case phaseJoined:
		return errJoined
	case phaseStatic:
		if to == phaseStatic {
			return nil
		}
		return errStatic
	case phaseLeaving, phaseLeft:
		return errLeft
	}
	n.phase = to
	if to == phaseJoined {
		n.work.Add(1) // before a Leave can wait for it; given back by gossipUnlessLeft
	}
	return nil
}

// gossipUnlessLeft starts gossip. A Leave that comes in between waits for it, so that no
// socket is opened after it.
func (n *Node) gossipUnlessLeft(ctx context.Context) (*gossip, error) {
	defer n.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.life, cancel)() // Leave does not wait for name servers
	g, err := n.startGossip(ctx)
	n.mu.Lock()
	left := n.phase != phaseJoined
	switch {
	case left:
	case err != nil:
		n.phase = phaseIdle
	default:
		n.gossip = g
	}
	n.mu.Unlock()
	if left && err == nil {
		g.stop()
		err = errLeft
	}
	return g, err
}

func (n *Node) startGossip(ctx context.Context) (*gossip, error) {
	host, port, err := net.SplitHostPort(n.opts.Gossip)
	if err != nil {
		return nil, err // NewNode has checked it
	}
	if host == "" {
		host = "0.0.0.0" // as net.Listen takes it
	}
	bind, err := lookupOne(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("peercache: gossip address %s: %w", n.opts.Gossip, err)
	}
	advertise := netip.Addr{}
	if bind.IsUnspecified() {
		u, _ := url.Parse(n.self.url)
		if advertise, err = lookupOne(ctx, u.Hostname()); err != nil {
			return nil, fmt.Errorf("peercache: the node's URL must tell the address of its gossip, which binds %s: %w", bind, err)
		}
	}
	return newGossip(gossipConfig{
		cluster:   n.opts.Cluster,
		bind:      net.JoinHostPort(bind.String(), port),
		advertise: advertise,
		self:      n.self,
		auth:      n.auth,
		network:   n.opts.Network,
		logger:    n.logger,
	})
}

// install makes members the node's view of the cluster.
func (n *Node) install(members []member) {
	others := make([]string, 0, len(members))
	active := false
	for _, m := range members {
		if m.url != n.self.url {
			others = append(others, m.url)
		} else if m.state == stateActive {
			active = true
		}
	}
	if r, changed := n.swap(members, others); changed {
		n.logger.Debug("peercache: new ring", "version", r.version, "n", r.table.Len())
	}
	if active {
		n.becomeReady()
	}
}

// swap builds the ring of members and puts it in place of the current one, if
// they differ: every new version has the caches ask again about their entries.
func (n *Node) swap(members []member, others []string) (*ring, bool) {
	n.building.Lock()
	defer n.building.Unlock()
	prev := n.current.Load()
	if prev.left {
		return prev, false
	}
	n.others.Store(n.audienceOf(others))
	n.welcomeLocked(members)
	r := newRing(prev, n.self, members, now())
	if r.table.Digest() == prev.table.Digest() {
		return prev, false
	}
	n.current.Store(r)
	n.mover.turned(prev.table)
	return r, true
}

// welcomeLocked closes the breakers of members that are new, or started anew since
// they failed, and forgets those of members that are gone.
func (n *Node) welcomeLocked(members []member) {
	boots := make(map[string]uint64, len(members))
	for _, m := range members {
		boots[m.url] = m.boot
		if boot, known := n.boots[m.url]; m.url != n.self.url && (!known || boot != m.boot) {
			n.breakers.reset(m.url)
			n.links.renew(m.url)
			n.coherent.meet(m.url)
		}
		delete(n.removed, m.url)
	}
	if n.gossiping() == nil { // which knows by itself
		for url := range n.boots {
			if _, stays := boots[url]; !stays {
				n.removed.add(url, now())
			}
		}
	}
	n.boots = boots
	known := func(peer string) bool { _, known := boots[peer]; return known }
	n.breakers.retain(known)
	n.links.retain(known)
	n.coherent.post.retain(known)
	n.mover.retain(known)
}

func (n *Node) becomeReady() {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.ready:
	default:
		close(n.ready)
	}
}

// SetPeers tells the node who its peers are, itself among them, instead of Join:
// for platforms that know. It may be called again with every change. All nodes
// should be given the same list.
//
// A list without this node is refused, for the others would send requests here
// that this node would take for mistakes; so is an empty one, such as a failed
// look-up returns. Then the last good list stays.
func (n *Node) SetPeers(peers ...Peer) error {
	members := make([]member, 0, len(peers))
	seen := make(map[string]bool, len(peers))
	for _, p := range peers {
		u, err := normalizeURL(p.URL)
		if err != nil {
			return err
		}
		m := member{url: u.String(), zone: p.Zone, weight: p.Weight, state: stateActive}
		if m.weight == 0 {
			m.weight = 1
		}
		if _, err := m.meta(); err != nil {
			return fmt.Errorf("%w (peer %s)", err, m.url)
		}
		if seen[m.url] {
			return fmt.Errorf("peercache: SetPeers: %s is listed twice", m.url)
		}
		seen[m.url] = true
		members = append(members, m)
	}
	if !seen[n.self.url] {
		return fmt.Errorf("peercache: SetPeers: this node, %s, is not among the peers %q; the last good list stays",
			n.self.url, slices.Sorted(maps.Keys(seen)))
	}
	if err := n.enter(phaseStatic); err != nil {
		return err
	}
	if len(members) == 1 {
		n.coherent.ledger.found()
	}
	n.install(members)
	n.coherent.start()
	return nil
}

// Leave tells the peers that this node goes, hands the entries that it holds to those who
// own them without it, for 5 seconds at most, goes on answering for the 2 seconds that
// peers may need to notice, and stops: when it returns, the node has closed its sockets
// and runs nothing any more. (Timers of the gossip library end within 2 seconds, loads
// within LoadTimeout.) Call it before http.Server.Shutdown. A ctx that ends cuts this
// short, and one that has ended stops the node at once; the error is then ctx's. Leaving
// again waits for the first Leave, and cuts it short in the same way.
//
// The node's caches go on working, alone. Nobody tells them of removals any more,
// so that they serve nothing for longer than HotTTL from when Leave was called.
func (n *Node) Leave(ctx context.Context) error {
	at := now() // peers that hear of it tell this node of no removals any more
	goodbye, hurry := context.WithCancel(ctx)
	defer hurry()
	n.mu.Lock()
	first := n.phase < phaseLeaving
	g := n.gossip
	if first {
		n.phase, n.hurry = phaseLeaving, hurry
	}
	hurryFirst := n.hurry
	n.mu.Unlock()
	if !first {
		return n.awaitLeave(ctx, hurryFirst)
	}
	err := n.sayGoodbye(goodbye, g)
	n.stop(g, at)
	return err
}

// awaitLeave waits for a Leave that is under way, and cuts it short when ctx ends.
func (n *Node) awaitLeave(ctx context.Context, hurry func()) error {
	select {
	case <-n.left:
		return nil
	default:
	}
	select {
	case <-n.left:
		return nil
	case <-ctx.Done():
		hurry()
		<-n.left
		return ctx.Err()
	}
}

// sayGoodbye announces the leave and lingers.
func (n *Node) sayGoodbye(ctx context.Context, g *gossip) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if n.lone(g) {
		return nil
	}
	r := n.view() // from before this node takes itself out of it
	n.mover.stop()
	if g == nil {
		n.handOver(ctx, r)
	} else {
		g.setState(stateLeaving)
		told := make(chan error, 1)
		n.background(func() { told <- g.leave(leaveTimeout, func() { n.handOver(ctx, r) }) })
		if err := n.awaitFarewell(ctx, g, told); err != nil {
			return err
		}
	}
	linger := time.NewTimer(lingerTime)
	defer linger.Stop()
	select {
	case <-linger.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handOver sends the entries that this node holds to those who own them without it in a
// ring, for handoverTimeout at most. Where ctx ends soon, to say goodbye comes first.
func (n *Node) handOver(ctx context.Context, r *ring) {
	limit := handoverTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)-farewellTime)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if ctx.Err() != nil {
		return
	}
	start := now()
	if r.self < 0 {
		return // it owns nothing
	}
	others := slices.DeleteFunc(slices.Clone(r.table.Nodes()), func(node consistenthash.Node) bool { return node.ID == r.url })
	total := n.mover.move(r.table, r.table.With(others), true)
	if total == 0 {
		return
	}
	n.logger.Info("peercache: leaving: handing entries over", "n", total)
	n.mover.drain(ctx)
	n.logger.Info("peercache: leaving: handed over", "n", int64(total)-n.mover.waiting.Load(), "of", total, "took", time.Duration(now()-start))
}

// lone reports whether there is nobody to tell. Gossip knows it before there is a ring: who
// leaves right after the first contact would be taken for dead.
func (n *Node) lone(g *gossip) bool {
	if g != nil {
		return len(g.addrs()) == 0
	}
	return len(n.audience().peers) == 0
}

// awaitFarewell waits until gossip has told the others that this node leaves, or
// there are no others: when all leave at once, the last have nobody to tell and
// gossip would wait in vain.
func (n *Node) awaitFarewell(ctx context.Context, g *gossip, told <-chan error) error {
	look := time.NewTicker(ringLatest)
	defer look.Stop()
	for {
		select {
		case err := <-told:
			if err != nil {
				n.logger.Warn("peercache: leaving: not all peers may know yet", "err", err)
			}
			return nil
		case <-look.C:
			if n.lone(g) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stop ends all that runs for the node. Its caches are alone from here on, and what
// they hold is to be trusted as it was when the leave began.
func (n *Node) stop(g *gossip, began int64) {
	n.building.Lock()
	alone := *n.current.Load()
	alone.version++
	alone.left, alone.leftAt, alone.recent = true, began, nil
	n.current.Store(&alone)
	n.others.Store(n.audienceOf(nil))
	n.building.Unlock()
	n.coherent.stop()
	n.mover.stop()

	n.mu.Lock()
	n.phase = phaseLeft
	n.mu.Unlock()
	n.end()
	if g != nil {
		g.stop()
	}
	n.work.Wait()
	if t, ok := n.transport.(*http.Transport); ok && n.opts.Transport == nil {
		t.CloseIdleConnections()
	}
	close(n.left)
}
