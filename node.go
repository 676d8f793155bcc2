package peercache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A node's life: made, joined to others by gossip or given a list of them, left.
// Gossip itself is in peers.go, finding seeds in seeds.go, the traffic with peers
// in http.go.

const (
	defaultCluster    = "peercache"
	defaultGossipPort = "7946"

	// Rings are built when gossip has been quiet for ringQuiet, so that a
	// deploy of fifty nodes makes few of them, and at the latest ringLatest
	// after the first change.
	ringQuiet  = 20 * time.Millisecond
	ringLatest = 200 * time.Millisecond

	// lingerTime is how long a node that has left goes on answering: "told
	// often enough" is not "known by everyone".
	lingerTime = 2 * time.Second

	// leaveTimeout bounds the announcement of a leave. Gossip needs a few tenths
	// of a second for five nodes, and more for hundreds.
	leaveTimeout = 5 * time.Second
)

// A Peer is a node of the cluster as the cluster sees it.
type Peer struct {
	URL    string // where its peers reach it, and its identity
	Zone   string // where it stands, "" if that does not matter
	Weight int    // its share of the keys relative to others, 1 to 100; 0 means 1
}

// NodeOptions configures a node. A nil *NodeOptions and the zero value of each
// field mean the defaults. NewNode copies it.
type NodeOptions struct {
	// Cluster is the name of the cluster: only nodes of one name talk to each
	// other. Default "peercache".
	Cluster string

	// Insecure allows addresses that are not loopback. Peer traffic and gossip
	// are neither encrypted nor authenticated: something else must keep
	// strangers away from both ports.
	Insecure bool

	// Gossip is the host:port to bind for gossip, TCP and UDP. Default the
	// host of the node's URL and port 7946; port 0 picks a free one, which
	// GossipAddr tells.
	Gossip string

	// Zone is where the node stands, such as a rack or an availability zone.
	// The owners of a key are taken from different zones first.
	Zone string

	// Weight is the node's share of the keys relative to others, 1 to 100.
	// Default 1.
	Weight int

	// Transport carries requests to peers. Default HTTP/1.1 with connections of
	// its own through Network, without a proxy. It must neither follow
	// redirects nor hold back parts of a response.
	Transport http.RoundTripper

	// Network is where connections come from. Default the operating system's.
	Network *Network

	// Logger gets what happens to the node. Default slog.Default(). On the path
	// of a Get nothing is logged above Debug but a loader's panic and, once a
	// minute, that a peer's values cannot be decoded.
	Logger *slog.Logger
}

// A phase is where a node stands in its own eyes.
type phase uint8

const (
	phaseIdle    phase = iota // made
	phaseJoined               // Join was called
	phaseStatic               // SetPeers was called
	phaseLeaving              // Leave was called
	phaseLeft                 // Leave has finished
)

// A Node is this process's place in a cluster. Make one with [NewNode], mount
// its [Node.Handler], create the caches that use it, then [Node.Join] the others
// or tell it of them with [Node.SetPeers]. All its methods are safe for
// concurrent use.
type Node struct {
	opts      NodeOptions
	self      member
	host      string // of self's URL, with its port
	path      string // of the handler
	logger    *slog.Logger
	transport http.RoundTripper
	ready     chan struct{}
	breakers  breakers
	handlers  atomic.Int64 // requests of peers that wait for loads

	failovers, skips, silences atomic.Int64

	// life ends when the node has left. It is the context of all that the node
	// does of its own accord, and every request to a peer ends with it.
	life context.Context
	end  context.CancelFunc

	current atomic.Pointer[ring]
	others  atomic.Pointer[[]string] // URLs of all other members, whatever their state

	building sync.Mutex        // held while a ring is built and swapped in
	boots    map[string]uint64 // of the other members, by URL; guarded by building

	mu     sync.Mutex // guards the fields below
	phase  phase
	left   chan struct{} // closed when Leave has finished
	gossip *gossip
	caches map[string]*engine
	work   sync.WaitGroup // what background started
}

// NewNode returns a node whose peers reach it at rawURL, an http or https URL
// with a host and perhaps a port and a path. The URL is the node's identity; it is
// normalized, so that spellings of one address are one node. NewNode does no I/O.
//
// It fails for a URL that is malformed, options out of range, and addresses that
// strangers might reach unless NodeOptions.Insecure says that this is meant.
func NewNode(rawURL string, opts *NodeOptions) (*Node, error) {
	var o NodeOptions
	if opts != nil {
		o = *opts
	}
	u, err := normalizeURL(rawURL)
	if err != nil {
		return nil, err
	}
	if o.Cluster == "" {
		o.Cluster = defaultCluster
	}
	if !validName.MatchString(o.Cluster) {
		return nil, fmt.Errorf("peercache: NodeOptions.Cluster %q is not 1 to 64 of A-Z a-z 0-9 . _ -", o.Cluster)
	}
	if o.Weight == 0 {
		o.Weight = 1
	}
	if o.Gossip == "" {
		o.Gossip = net.JoinHostPort(u.Hostname(), defaultGossipPort)
	}
	gossipHost, _, err := net.SplitHostPort(o.Gossip)
	if err != nil {
		return nil, fmt.Errorf("peercache: NodeOptions.Gossip %q is not a host:port: %w", o.Gossip, err)
	}
	if !o.Insecure && !(isLoopback(u.Hostname()) && isLoopback(gossipHost)) {
		return nil, fmt.Errorf("peercache: %s with gossip at %s can be reached by strangers: "+
			"use a loopback address such as 127.0.0.1 for both, or set NodeOptions.Insecure if a firewall or the like keeps them out", u, o.Gossip)
	}
	if o.Network == nil {
		o.Network = osNetwork()
	} else if o.Network.Dial == nil || o.Network.Listen == nil || o.Network.ListenPacket == nil {
		return nil, errors.New("peercache: NodeOptions.Network needs Dial, Listen and ListenPacket")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	n := &Node{
		opts:   o,
		self:   member{url: u.String(), zone: o.Zone, weight: o.Weight, boot: rand.Uint64(), state: stateJoining},
		host:   u.Host,
		path:   u.Path + "/_peercache/v1",
		logger: o.Logger,
		ready:  make(chan struct{}),
		left:   make(chan struct{}),
		caches: make(map[string]*engine),
	}
	if _, err := n.self.meta(); err != nil { // what cannot be told to others
		return nil, err
	}
	n.transport = o.Transport
	if n.transport == nil {
		n.transport = newTransport(o.Network)
	}
	n.life, n.end = context.WithCancel(context.Background())
	n.current.Store(newRing(nil, n.self, nil, now()))
	n.others.Store(new([]string))
	return n, nil
}

// plainPath is what the path of a node's URL may be made of: what needs no
// escaping and has no meaning in the pattern of a http.ServeMux.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._~-]*$`)

// normalizeURL returns the one spelling of a node's URL.
func normalizeURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("peercache: node URL: %w", err)
	}
	u.Scheme = strings.ToLower(u.Scheme)
	u.Host = strings.ToLower(u.Host)
	defaultPort := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	switch {
	case defaultPort == "":
		return nil, fmt.Errorf("peercache: node URL %q is neither http nor https", raw)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return nil, fmt.Errorf("peercache: node URL %q has more than a host and a path", raw)
	case u.Hostname() == "":
		return nil, fmt.Errorf("peercache: node URL %q has no host: peers need one to reach this process", raw)
	}
	if p := u.Port(); p == defaultPort || p == "" {
		u.Host = strings.TrimSuffix(u.Host, ":"+p)
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		u.Host = hostPort(addr.Unmap(), u.Port())
		if addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
			return nil, fmt.Errorf("peercache: node URL %q: peers cannot reach %s: use an address of this machine", raw, addr)
		}
	}
	u.Path, u.ForceQuery = strings.TrimRight(u.Path, "/"), false
	if u.RawPath != "" || !plainPath.MatchString(u.Path) || u.Path != "" && u.Path != path.Clean(u.Path) {
		return nil, fmt.Errorf("peercache: node URL %q: its path has more than A-Z a-z 0-9 / . _ ~ -", raw)
	}
	return u, nil
}

// hostPort is the one spelling of an address with or without a port.
func hostPort(addr netip.Addr, port string) string {
	host := addr.String()
	if addr.Is6() {
		host = "[" + host + "]"
	}
	if port == "" {
		return host
	}
	return host + ":" + port
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// Join starts gossip and enters the cluster. Seeds are host:port of the gossip
// of other nodes, port 7946 if there is none; a DNS name stands for all its
// addresses and is looked up again for ever.
//
// Each seed is tried once, for 2 seconds in all or until ctx ends. That none
// answers is no error: Join logs a warning, and goes on trying until Leave. So
// all nodes may start at once, and the first may start alone. What waiting cannot
// cure is an error: a malformed seed, a second Join, a Join after SetPeers or
// Leave, a gossip address that cannot be bound.
func (n *Node) Join(ctx context.Context, seeds ...string) error {
	parsed, err := parseSeeds(seeds)
	if err != nil {
		return err
	}
	if err := n.enter(phaseJoined); err != nil {
		return err
	}
	g, err := n.startGossip(ctx)
	if err != nil {
		n.mu.Lock()
		if n.phase == phaseJoined {
			n.phase = phaseIdle
		}
		n.mu.Unlock()
		return err
	}
	n.mu.Lock()
	if n.phase != phaseJoined { // Leave came in between
		n.mu.Unlock()
		g.stop()
		return errLeft
	}
	n.gossip = g
	n.mu.Unlock()
	n.background(func() { n.followGossip(g) })

	s := &seeker{node: n, gossip: g, seeds: parsed}
	if tried, reached, err := s.tryAll(ctx); tried && reached == 0 {
		n.logger.Warn("peercache: no seed answers yet; joining goes on", "seeds", seeds, "err", err)
	}
	n.background(s.run)
	n.mu.Lock()
	staying := n.phase == phaseJoined
	if staying { // under the mutex: Leave, which says that it leaves, must come later
		g.setState(stateActive)
	}
	n.mu.Unlock()
	if !staying {
		return errLeft
	}
	select {
	case <-n.ready:
	case <-ctx.Done():
	case <-n.life.Done():
		return errLeft
	}
	return nil
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
	return nil
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
		network:   n.opts.Network,
		logger:    n.logger,
	})
}

// followGossip builds rings of what gossip finds, on this goroutine alone, until
// the node has left.
func (n *Node) followGossip(g *gossip) {
	for {
		select {
		case <-g.changed():
		case <-n.life.Done():
			return
		}
		latest := time.After(ringLatest)
		for quiet := false; !quiet; {
			select {
			case <-g.changed():
			case <-time.After(ringQuiet):
				quiet = true
			case <-latest:
				quiet = true
			case <-n.life.Done():
				return
			}
		}
		n.install(g.members())
	}
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
	n.others.Store(&others)
	n.welcomeLocked(members)
	r := newRing(prev, n.self, members, now())
	if r.table.Digest() == prev.table.Digest() {
		return prev, false
	}
	n.current.Store(r)
	return r, true
}

// welcomeLocked closes the breakers of members that are new, or started anew since
// they failed, and forgets those of members that are gone.
func (n *Node) welcomeLocked(members []member) {
	boots := make(map[string]uint64, len(members))
	for _, m := range members {
		boots[m.url] = m.boot
		if boot, known := n.boots[m.url]; !known || boot != m.boot {
			n.breakers.reset(m.url)
		}
	}
	n.boots = boots
	n.breakers.retain(func(peer string) bool { _, known := boots[peer]; return known })
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
	n.install(members)
	return nil
}

// Ready is closed once this node is active in the ring: it owns keys, and its
// peers ask it for them.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Peers returns the active members of the cluster sorted by URL, this node among
// them from when it is [Node.Ready] until it leaves: this node alone before Join,
// nobody after Leave.
func (n *Node) Peers() []Peer {
	r := n.current.Load()
	if r.left {
		return nil
	}
	var peers []Peer
	for _, node := range r.table.Nodes() {
		peers = append(peers, Peer{URL: node.ID, Zone: node.Zone, Weight: node.Weight})
	}
	return peers
}

// Self returns this node as its peers see it.
func (n *Node) Self() Peer {
	return Peer{URL: n.self.url, Zone: n.self.zone, Weight: n.self.weight}
}

// GossipAddr returns the host:port that others pass to Join, "" before Join.
func (n *Node) GossipAddr() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gossip == nil {
		return ""
	}
	return n.gossip.addr()
}

// Stats returns what the node has counted, and how it stands.
func (n *Node) Stats() NodeStats {
	r := n.current.Load()
	s := NodeStats{
		RingVersion: int64(r.version),
		Failovers:   n.failovers.Load(),
		Skips:       n.skips.Load(),
		Silences:    n.silences.Load(),
	}
	s.Breakers, s.Tripped = n.breakers.counts()
	if !r.left {
		s.Peers = int64(r.table.Len())
	}
	n.mu.Lock()
	g := n.gossip
	n.mu.Unlock()
	if g != nil {
		s.Health = int64(g.health())
	}
	return s
}

// Leave tells the peers that this node goes, goes on answering them for the 2
// seconds they may need to notice, and stops: when it returns, the node has closed
// its sockets and runs nothing any more. (Timers of the gossip library end within
// 2 seconds, loads within LoadTimeout.) Call it before http.Server.Shutdown. A ctx
// that ends cuts this short, and one that has ended stops the node at once; the
// error is then ctx's. Leaving again waits for the first Leave.
//
// The node's caches go on working, alone. Nobody tells them of removals any more,
// so that they serve nothing for longer than HotTTL.
func (n *Node) Leave(ctx context.Context) error {
	n.mu.Lock()
	was := n.phase
	g := n.gossip
	if was < phaseLeaving {
		n.phase = phaseLeaving
	}
	n.mu.Unlock()
	if was >= phaseLeaving {
		select {
		case <-n.left:
			return nil
		default:
		}
		select {
		case <-n.left:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := n.sayGoodbye(ctx, g)
	n.stop(g)
	return err
}

// sayGoodbye announces the leave and lingers.
func (n *Node) sayGoodbye(ctx context.Context, g *gossip) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(n.members()) == 0 {
		return nil
	}
	if g != nil {
		g.setState(stateLeaving)
		told := make(chan error, 1)
		n.background(func() { told <- g.leave(leaveTimeout) })
		if err := n.awaitFarewell(ctx, told); err != nil {
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

// awaitFarewell waits until gossip has told the others that this node leaves, or
// there are no others: when all leave at once, the last have nobody to tell and
// gossip would wait in vain.
func (n *Node) awaitFarewell(ctx context.Context, told <-chan error) error {
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
			if len(n.members()) == 0 {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stop ends all that runs for the node. Its caches are alone from here on.
func (n *Node) stop(g *gossip) {
	n.building.Lock()
	alone := *n.current.Load()
	alone.version++
	alone.left, alone.leftAt, alone.recent = true, now(), nil
	n.current.Store(&alone)
	n.others.Store(new([]string))
	n.building.Unlock()

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

// background runs f on a goroutine that Leave waits for, unless the node has
// left; it reports whether it does.
func (n *Node) background(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.phase == phaseLeft {
		return false
	}
	n.work.Go(f)
	return true
}

// register makes a cache answer to its name, unless another does.
func (n *Node) register(e *engine) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.caches[e.name] != nil {
		return false
	}
	n.caches[e.name] = e
	return true
}

func (n *Node) unregister(e *engine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.caches[e.name] == e {
		delete(n.caches, e.name)
	}
}

func (n *Node) cache(name string) *engine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.caches[name]
}

func (n *Node) passedOver(asked bool, keys int) {
	if asked {
		n.failovers.Add(int64(keys))
		return
	}
	n.skips.Add(int64(keys))
}

func (n *Node) view() *ring       { return n.current.Load() }
func (n *Node) members() []string { return *n.others.Load() }
func (n *Node) log() *slog.Logger { return n.logger }
