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
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/peercache/peercache/consistenthash"
)

// What a node is and is told; what becomes of it is in life.go. Gossip itself is in
// peers.go, finding seeds in seeds.go, the traffic with peers in http.go.

const (
	defaultCluster    = "peercache"
	defaultGossipPort = "7946"
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
	// other. Default "peercache". Services that can reach each other need a name
	// each: an address that one of them gives up and another gets would merge
	// them, and their caches.
	Cluster string

	// Secret encrypts and authenticates gossip and peer traffic: only nodes that
	// have it are let in. At least 16 bytes, and random ones: whoever sees the
	// traffic can try passwords. All nodes need the same. Default none.
	Secret []byte

	// AlternateSecret is accepted besides Secret. A cluster changes its secret in
	// three rollouts without a gap: {old, new}, {new, old}, {new}.
	AlternateSecret []byte

	// Insecure allows addresses that are not loopback without a Secret. Peer
	// traffic and gossip are then neither encrypted nor authenticated: something
	// else must keep strangers away from both ports.
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
	// redirects nor hold back parts of a response. One that returns for an upgraded
	// connection a body that can be written to, as http.Transport does, carries all
	// requests to a peer on that one connection; with others each is a POST, which
	// peers with a Secret refuse.
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
	auth      *auth // nil without a secret
	ready     chan struct{}
	breakers  breakers
	links     links        // to peers
	handlers  atomic.Int64 // requests of peers that wait for loads
	meetings  atomic.Int64 // newcomers that are dialled back

	failovers, skips, silences, rubbish atomic.Int64

	rubbishMet, strangerMet, barrierMet everyMinute

	// life ends when the node has left. It is the context of all that the node
	// does of its own accord, and every request to a peer ends with it.
	life context.Context
	end  context.CancelFunc

	coherent *coherence
	mover    *mover
	current  atomic.Pointer[ring]
	others   atomic.Pointer[audience]

	building sync.Mutex        // held while a ring is built and swapped in
	boots    map[string]uint64 // of the members, by URL; guarded by building
	removed  departures        // by SetPeers, from the list; guarded by building

	mu     sync.Mutex // guards the fields below
	phase  phase
	left   chan struct{} // closed when Leave has finished
	hurry  func()        // cuts the goodbye of a Leave that is under way short
	gossip *gossip
	caches map[string]*engine
	work   sync.WaitGroup // what background started
}

// NewNode returns a node whose peers reach it at rawURL, an http or https URL
// with a host and perhaps a port and a path. The URL is the node's identity; it is
// normalized, so that spellings of one address are one node. "http://:8080" stands
// for this machine's private address, which is the environment's POD_IP or else the
// only one that its interfaces have. NewNode does no I/O.
//
// It fails for a URL that is malformed, options out of range, and addresses that
// strangers might reach, unless there is a Secret or NodeOptions.Insecure says that
// this is meant.
func NewNode(rawURL string, opts *NodeOptions) (*Node, error) {
	var o NodeOptions
	if opts != nil {
		o = *opts
	}
	u, err := ownURL(rawURL)
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
	gossipHost, gossipPort, err := net.SplitHostPort(o.Gossip)
	if err == nil {
		_, err = strconv.ParseUint(gossipPort, 10, 16)
	}
	if err != nil {
		return nil, fmt.Errorf("peercache: NodeOptions.Gossip %q is not a host:port: %w", o.Gossip, err)
	}
	auth, err := newAuth(o.Secret, o.AlternateSecret, o.Cluster, u.String())
	if err != nil {
		return nil, err
	}
	o.Secret, o.AlternateSecret = nil, nil
	if auth == nil && !o.Insecure && !(isLoopback(u.Hostname()) && isLoopback(gossipHost)) {
		return nil, fmt.Errorf("peercache: %s with gossip at %s can be reached by strangers: set NodeOptions.Secret, "+
			"or NodeOptions.Insecure if a firewall or the like keeps them out, or use a loopback address such as 127.0.0.1 for both", u, o.Gossip)
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
		auth:   auth,
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
	n.coherent = newCoherence(n, n.self.boot, n.cache)
	n.coherent.vetting = n.vetting
	n.mover = newMover(n, n.engines)
	n.current.Store(newRing(nil, n.self, nil, now()))
	n.others.Store(n.audienceOf(nil))
	return n, nil
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
	g := n.gossiping()
	if g == nil {
		return ""
	}
	return g.addr
}

// gossiping returns the node's gossip, nil before Join.
func (n *Node) gossiping() *gossip {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gossip
}

// Stats returns what the node has counted, and how it stands.
func (n *Node) Stats() NodeStats {
	r := n.current.Load()
	s := NodeStats{
		RingVersion: int64(r.version),
		Failovers:   n.failovers.Load(),
		Skips:       n.skips.Load(),
		Silences:    n.silences.Load(),
		Streams:     n.links.streams(),
		Rubbish:     n.rubbish.Load(),
	}
	s.Breakers, s.Tripped = n.breakers.counts()
	s.addCoherence(n.coherent)
	for _, e := range n.engines() {
		s.Remembered += e.store.remembered()
	}
	if !r.left {
		s.Peers = int64(r.table.Len())
	}
	if g := n.gossiping(); g != nil {
		s.Health = int64(g.health())
		s.Rejected = g.rejections()
		s.Lost = g.lost()
		s.Twins = int64(len(g.twins()))
	}
	return s
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

func (n *Node) engines() []*engine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.caches))
}

func (n *Node) dropAll() {
	for _, e := range n.engines() {
		e.store.drop()
	}
}

func (n *Node) forgetIDs(before int64) {
	for _, e := range n.engines() {
		e.store.forgetIDs(before)
	}
}

// metRubbish counts and logs a peer that was disconnected for what it sent.
func (n *Node) metRubbish(peer string, err error) {
	n.rubbish.Add(1)
	if n.rubbishMet.now() {
		n.logger.Warn("peercache: a peer sends what makes no sense: its connection is closed", "peer", peer, "err", err)
	}
}

func (n *Node) passedOver(asked bool, keys int) {
	if asked {
		n.failovers.Add(int64(keys))
		return
	}
	n.skips.Add(int64(keys))
}

func (n *Node) view() *ring               { return n.current.Load() }
func (n *Node) audience() audience        { return *n.others.Load() }
func (n *Node) coherence() *coherence     { return n.coherent }
func (n *Node) moves() *mover             { return n.mover }
func (n *Node) lifetime() context.Context { return n.life }
func (n *Node) log() *slog.Logger         { return n.logger }

// vetting reports whether gossip has to tell of a process before it is sent anything. Without
// a secret nobody proves who it is, and gossip keeps out whose URL is elsewhere than its
// gossip; a peer could else have this node send requests to anybody.
func (n *Node) vetting() bool { return n.auth == nil && n.gossiping() != nil }

// audienceOf returns the audience that consists of others, which are all that are known
// from now on.
func (n *Node) audienceOf(others []string) *audience {
	n.coherent.circle.turn(others)
	a := &audience{peers: others, hash: consistenthash.Seed(n.self.url)}
	for _, url := range others {
		a.hash += consistenthash.Seed(url) // as in audience.with
	}
	return a
}

// departed reports whether a process that was a member has left, or SetPeers has removed it,
// and when.
func (n *Node) departed(peer string) (at int64, left bool) {
	if g := n.gossiping(); g != nil {
		return g.departed(peer)
	}
	n.building.Lock()
	defer n.building.Unlock()
	at, left = n.removed[peer]
	return at, left
}

// alive reports whether gossip takes the process of this boot for alive.
func (n *Node) alive(boot uint64) bool {
	n.building.Lock()
	defer n.building.Unlock()
	for _, b := range n.boots {
		if b == boot {
			return true
		}
	}
	return false
}
