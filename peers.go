package peercache

import (
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// gossip tells this process who its peers are: memberlist's events go in,
// snapshots of plain values come out. It decides nothing: when to try seeds again,
// what a member's state means and which of two processes with one URL counts is
// for its user. This is the only file that imports memberlist; sockets are in
// gossip_net.go, what is known of the members in gossip_roster.go, logging in
// gossip_log.go, the encoding of a member in meta.go.
//
// All methods may be called at any time from any goroutine, also after stop.
type gossip struct {
	*roster
	advertised netip.AddrPort
	list       *memberlist.Memberlist
	transport  *gossipTransport
	log        *gossipLog

	wake    chan struct{} // room for one: there may be something to announce
	entered chan struct{} // room for one: memberlist has taken our leave
	// stopping is closed when stop begins, stopped when it ends.
	stopping, stopped chan struct{}

	// calls is held over the calls into memberlist that must not meet its
	// Shutdown or each other. A channel and not a mutex: the holder waits on a
	// timer, and in a synctest bubble no time passes while somebody waits for a
	// mutex.
	calls chan struct{}
	left  bool // leave was called; guarded by calls

	wg sync.WaitGroup // all goroutines but memberlist's and the sockets'
	mu struct {       // guards wg's Add against its Wait; what is known of members has another
		sync.Mutex
		closed bool
	}
}

type gossipConfig struct {
	cluster   string     // clusters of different names never meet
	bind      string     // "ip:port"; port 0 picks one that is free for TCP and UDP
	advertise netip.Addr // the address others are told; the zero value means the bound one
	self      member
	network   *Network
	logger    *slog.Logger
	auth      *auth // nil: in clear
}

// The profile. A death is noticed after the time until somebody probes, one probe
// interval, and the suspicion: about 3 s with up to ten members. It cannot be
// noticed sooner than the longest pause that is to be forgiven, and requests do not
// wait for it.
const (
	// A quarter of the suspicion: while it lasts a member is probed four times more.
	gossipProbeInterval = 500 * time.Millisecond
	// At most 0.4 of the interval. A helper asked for an indirect probe waits this
	// long after we did, and its "no" must arrive within the interval, or every
	// death makes us doubt our own health.
	gossipProbeTimeout = 200 * time.Millisecond
	// Helpers per failed probe, memberlist's default: one may be ill itself.
	gossipIndirectChecks = 3
	// 2 s to deny a suspicion with up to ten members, 4 s with a hundred: longer
	// than a garbage collection or a throttled container pauses.
	gossipSuspicionMult = 4
	// A suspicion that nobody shares takes three times that: a lone observer is more
	// likely to be ill than what it observes.
	gossipSuspicionMaxMult = 3
	// A starved process probes every 2 s at worst, and still notices deaths.
	gossipAwarenessMaxMult = 4
	// Three members every 100 ms: 200 hear of a change in about 0.4 s, for at most 30
	// packets a second, and none while nothing changes.
	gossipInterval = 100 * time.Millisecond
	gossipNodes    = 3
	// Each member passes news on 8 log10(n+1) times, twice memberlist's default. Whom
	// it tells is chance: with 4, 3 of 100 changes among 8 or 9 members missed one of
	// them until the next full exchange, 15 s later, though no packet was lost; with 8
	// none of 400 did. Leaving takes 0.2 s, twice as long.
	gossipRetransmitMult = 8
	// The full exchange, which also brings what packets lost. The states of 200
	// members are 70 kB.
	gossipPushPullInterval = 15 * time.Second
	// For a dial, and for a read or write of states: milliseconds where all is well, and
	// joining waits this long for a dead seed.
	gossipStreamTimeout = 2 * time.Second
	// How long a member that was cut off is still told of its death, and can deny it
	// without joining anew.
	gossipToTheDead = time.Minute
	// Passes tunnels and overlay networks unfragmented.
	gossipPacketBytes = 1400

	// A tenth of a second at 2,500 packets a second, many times what 200 members send.
	gossipPacketQueue = 256
	// The shortest wait there is for the packets of an update: 0 would be for ever.
	gossipUpdateWait = time.Millisecond
	// Arbitrary: what is repeated was lost in a race, and seldom is twice.
	gossipAnnounceRetry = 10 * time.Millisecond
	// A new state is told once more when the packets of the first time have gone out and, at
	// random, not when those of others are repeated. memberlist (0.7.0) numbers what it has
	// queued, from 1 again when the queue is empty, which it is for a moment when all are
	// taken out to be sent, or when its only message is replaced: as the state of joining is
	// by that of being active. Then the second message that comes after, if it is as long,
	// gets the same number and takes its place (TestChangeIsToldThoughMemberlistLosesIt).
	// Few are as long: see padded.
	gossipRepeat = time.Second
)

var errGossipStopped = errors.New("peercache: gossip has stopped")

// newGossip binds and starts. Until join is called the process is alone.
func newGossip(c gossipConfig) (*gossip, error) {
	label, err := gossipLabel(c.cluster)
	if err != nil {
		return nil, err
	}
	logs := newGossipLog()
	sockets, err := listenGossip(c.network, c.bind, logs.print)
	if err != nil {
		return nil, err
	}
	advertise := c.advertise
	if !advertise.IsValid() {
		advertise = sockets.bound.Addr()
	}
	if err := checkGossipAddr(advertise); err != nil {
		sockets.close()
		return nil, fmt.Errorf("peercache: gossip address %s: others cannot use it: %w", c.bind, err)
	}
	if err := checkHome(c.self.url, advertise.Unmap()); err != nil && c.auth == nil { // which others would keep out
		sockets.close()
		return nil, fmt.Errorf("%w: set NodeOptions.Gossip to the URL's host, or to 0.0.0.0 (IPv6: [::]) and a port", err)
	}
	advertised := netip.AddrPortFrom(advertise.Unmap(), sockets.bound.Port())
	members, err := newRoster(c.self, advertised.String())
	if err != nil {
		sockets.close()
		return nil, err
	}
	members.proven = c.auth != nil
	g := &gossip{
		roster:     members,
		advertised: advertised,
		log:        logs,
		wake:       make(chan struct{}, 1),
		entered:    make(chan struct{}, 1),
		stopping:   make(chan struct{}),
		stopped:    make(chan struct{}),
		calls:      make(chan struct{}, 1),
	}
	g.transport = &gossipTransport{
		gossipSockets: sockets,
		advertised:    g.advertised,
		packets:       make(chan *memberlist.Packet, gossipPacketQueue),
	}
	keyring, err := gossipKeyring(c.auth)
	if err != nil {
		sockets.close()
		return nil, err
	}
	sockets.serve(g.transport.receive)
	if g.list, err = memberlist.Create(g.config(label, keyring)); err != nil {
		sockets.close()
		return nil, fmt.Errorf("peercache: gossip: %w", err)
	}
	g.wg.Go(g.announceChanges)
	g.wg.Go(func() { g.log.run(c.logger, g.stopping) })
	return g, nil
}

// config is a fresh one each time, since Create writes to it and keeps it.
func (g *gossip) config(label string, keyring *memberlist.Keyring) *memberlist.Config {
	c := memberlist.DefaultLANConfig() // for what a later memberlist adds
	c.Name = g.name
	c.Label = label
	c.Keyring = keyring // what is not encrypted with one of its keys is dropped
	c.Transport = g.transport
	c.BindPort = int(g.advertised.Port())
	c.ProbeInterval = gossipProbeInterval
	c.ProbeTimeout = gossipProbeTimeout
	c.IndirectChecks = gossipIndirectChecks
	c.SuspicionMult = gossipSuspicionMult
	c.SuspicionMaxTimeoutMult = gossipSuspicionMaxMult
	c.AwarenessMaxMultiplier = gossipAwarenessMaxMult
	c.GossipInterval = gossipInterval
	c.GossipNodes = gossipNodes
	c.RetransmitMult = gossipRetransmitMult
	c.PushPullInterval = gossipPushPullInterval
	c.TCPTimeout = gossipStreamTimeout
	c.GossipToTheDeadTime = gossipToTheDead
	c.UDPBufferSize = gossipPacketBytes
	// Its LZW takes 64 KiB of memory for each packet of a few hundred bytes.
	c.EnableCompression = false
	c.Logger = log.New(g.log, "", 0)
	events := gossipEvents{g}
	c.Delegate = events
	c.Events = events
	return c
}

// gossipKeyring returns the keys of gossip, nil without a secret.
func gossipKeyring(a *auth) (*memberlist.Keyring, error) {
	if a == nil {
		return nil, nil
	}
	primary, others := a.gossipKeys()
	keyring, err := memberlist.NewKeyring(append([][]byte{primary}, others...), primary)
	if err != nil {
		return nil, fmt.Errorf("peercache: keys of gossip: %w", err)
	}
	return keyring, nil
}

// join exchanges all that is known with each of addrs, an ip:port each, and
// returns how many answered; this process itself is passed over. They are asked at
// the same time, for at most about twice the stream timeout each. If none answered,
// err joins the reasons.
func (g *gossip) join(addrs []string) (reached int, err error) {
	var (
		wg      sync.WaitGroup
		answers atomic.Int64
		errs    = make([]error, len(addrs))
	)
	for i, addr := range addrs {
		ap, err := parseGossipAddr(addr) // also keeps names from memberlist, which would look them up
		if err != nil {
			errs[i] = fmt.Errorf("peercache: gossip with %q: %w", addr, err)
			continue
		}
		if ap == g.advertised {
			continue
		}
		wg.Add(1)
		started := g.start(func() {
			defer wg.Done()
			if _, err := g.list.Join([]string{ap.String()}); err != nil {
				err = joinCause(err)
				if showsOtherSecret(err) {
					err = fmt.Errorf("%w: %w", errOtherSecret, err)
				}
				errs[i] = fmt.Errorf("peercache: gossip with %s: %w", ap, err)
				return
			}
			answers.Add(1)
		})
		if !started {
			wg.Done()
			errs[i] = errGossipStopped
			break
		}
	}
	wg.Wait()
	if n := int(answers.Load()); n > 0 {
		return n, nil
	}
	return 0, errors.Join(errs...)
}

// joinCause takes the error of one address out of memberlist's list of one, whose
// text has several lines, and says what people have to look at. memberlist hands on
// only the text of what a stream ended with.
func joinCause(err error) error {
	cause := err
	if one := errors.Unwrap(err); one != nil {
		cause = one
	}
	switch text := cause.Error(); {
	case strings.HasSuffix(text, io.EOF.Error()) || strings.HasSuffix(text, syscall.ECONNRESET.Error()):
		return fmt.Errorf("%w: it closed the connection: either it is in another cluster than NodeOptions.Cluster says, "+
			"or a proxy whose backend is not up", cause)
	case strings.Contains(text, "invalid msgType"):
		return fmt.Errorf("%w: it does not speak gossip: its port must be that of NodeOptions.Gossip, not of a URL", cause)
	}
	return cause
}

// errOtherSecret is an answer that was not encrypted with a key of this process, or was
// and should not have been.
var errOtherSecret = errors.New("it has another secret, or only one of the two has any: set the same NodeOptions.Secret everywhere")

// showsOtherSecret reports whether an answer of gossip was of the wrong key or of none,
// which memberlist tells by the text alone (TestJoinFailsWhereASeedHasAnotherSecret).
func showsOtherSecret(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "encrypt") || strings.Contains(text, "decrypt")
}

// start runs f on a goroutine that stop waits for. It reports false after stop.
func (g *gossip) start(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.closed { // Add must not meet Wait
		return false
	}
	g.wg.Go(f)
	return true
}

// setState makes s this process's state, here at once and elsewhere soon after. Of
// several states set in a row others may see only the last.
func (g *gossip) setState(s state) {
	if g.change(s) {
		g.tell()
	}
}

// tell has others, and whoever waits for changes here, hear of the state.
func (g *gossip) tell() {
	notify(g.signal)
	notify(g.wake)
}

// announceChanges is the one goroutine that tells memberlist of a new state. Its
// UpdateNode must not be called from where a state is set: it takes the lock that
// is held over our callbacks.
func (g *gossip) announceChanges() {
	var again <-chan time.Time
	for {
		anew := false
		select {
		case <-g.wake:
			anew = true
		case <-again:
		case <-g.stopping:
			return
		}
		for !g.announce(anew) {
			select {
			case <-time.After(gossipAnnounceRetry):
			case <-g.stopping:
				return
			}
		}
		again = nil
		if anew {
			again = time.After(gossipRepeat*3/4 + rand.N(gossipRepeat/2))
		}
	}
}

// announce reports whether others will be told what there is to tell, or unless it is
// anew, once more what they were told. That UpdateNode returned says nothing:
//
//	UpdateNode                             a packet: "you are suspected"
//	takes the meta data and incarnation 7
//	                                       denies it with incarnation 8 and the
//	                                       meta data of before
//	finds 8, drops its 7, returns
//
// (TestStateIsToldWhileSuspicionsAreDenied.)
func (g *gossip) announce(anew bool) bool {
	select {
	case g.calls <- struct{}{}:
	case <-g.stopping:
		return true
	}
	defer func() { <-g.calls }()
	if g.left || anew && !g.toTell() {
		return true // having left, UpdateNode does nothing, and panics once memberlist has forgotten this process
	}
	// Its wait for the packets to be sent is of no use, and its error is that the
	// wait was cut short.
	_ = g.list.UpdateNode(gossipUpdateWait)
	return !g.toTell()
}

// health is 0 when this process answers and is answered in time, and grows to 3 the
// more it looks starved itself.
func (g *gossip) health() int { return g.list.GetHealthScore() }

// gossipEvents is what memberlist calls. All but NodeMeta are called with its lock
// held, and a process that stays in one of them does not answer probes: they copy,
// and return. Timers of memberlist call them after Shutdown too.
type gossipEvents struct{ *gossip }

func (e gossipEvents) NotifyJoin(n *memberlist.Node)   { e.alive(n, true) }
func (e gossipEvents) NotifyUpdate(n *memberlist.Node) { e.alive(n, false) }

func (e gossipEvents) alive(n *memberlist.Node, joined bool) {
	if n.Name == e.name {
		e.tells(n.Meta)
		return
	}
	if err := e.put(n.Name, n.Address(), n.Meta, joined); err != nil {
		e.log.printOf(n.Name, slog.LevelWarn, fmt.Sprintf("keeping %s at %s out of the ring: %v", n.Name, n.Address(), err))
	}
}

func (e gossipEvents) NotifyLeave(n *memberlist.Node) {
	if n.Name == e.name {
		notify(e.entered)
		return
	}
	e.drop(n.Name)
}

func (e gossipEvents) NodeMeta(int) []byte { return e.meta() }

// Members are all that is gossiped: packets are lossy and small, and what has to
// arrive goes to peers directly.
func (gossipEvents) NotifyMsg([]byte)                {}
func (gossipEvents) GetBroadcasts(int, int) [][]byte { return nil }
func (gossipEvents) LocalState(bool) []byte          { return nil }
func (gossipEvents) MergeRemoteState([]byte, bool)   {}

// gossipTransport is the sockets as memberlist wants them.
type gossipTransport struct {
	*gossipSockets
	advertised netip.AddrPort
	packets    chan *memberlist.Packet // never closed: memberlist would take nil for a packet
}

var _ memberlist.NodeAwareTransport = (*gossipTransport)(nil)

func (t *gossipTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertised.Addr().AsSlice(), int(t.advertised.Port()), nil
}

// receive drops what memberlist is too slow for: were it to wait, the socket's
// buffer would drop it, only later.
func (t *gossipTransport) receive(b []byte, from net.Addr, at time.Time) {
	select {
	case t.packets <- &memberlist.Packet{Buf: b, From: from, Timestamp: at}:
	default:
	}
}

func (t *gossipTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *gossipTransport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *gossipTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t *gossipTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	err := t.send(b, addr)
	return time.Now(), err // after the call: a round trip must not look longer than it was
}

func (t *gossipTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.dial(a.Addr, timeout)
}

func (t *gossipTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.dial(addr, timeout)
}

func (t *gossipTransport) Shutdown() error {
	t.close()
	return nil
}
