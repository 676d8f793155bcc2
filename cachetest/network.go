package cachetest

// The network of a cluster: its hosts, the rules about what passes between
// them, and dialling. What travels is in stream.go and packet.go. Nothing here
// owns a goroutine: whoever reads waits until what it reads has arrived.

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/peercache/peercache"
)

const (
	// maxBacklog is how many connections a listener keeps for Accept; beyond
	// it dials wait. It is Linux's usual limit.
	maxBacklog = 4096

	// Ports that are picked for a host begin here, as IANA has it.
	firstFreePort, lastFreePort = 49152, 65535
)

// A network connects the hosts of one cluster and nobody else.
type network struct {
	mu      sync.Mutex // guards the fields below, and those of hosts, listeners and sockets; taken before a stream's, never after
	hosts   map[netip.Addr]*host
	streams map[*stream]struct{}
	closed  bool
	changed signal // the rules changed, or a full backlog has room again: dials look again
}

// A host is the end of the network that one node has: one IP address, and the
// rules about it.
type host struct {
	net *network
	ip  netip.Addr

	// The fields below are guarded by net.mu.

	killed bool
	paused bool
	group  int           // hosts of different groups do not hear each other
	delay  time.Duration // of all that it sends or receives

	listeners map[uint16]*listener
	sockets   map[uint16]*socket
	nextPort  uint16
	held      []packet // what it sent while paused
}

// A path is what the rules say of one direction between two hosts.
type path struct {
	delay    time.Duration
	cut      bool // nothing arrives
	fromIdle bool // the sender is paused: nothing leaves it
	toIdle   bool // the receiver is paused: it reads nothing
}

func newNetwork() *network {
	return &network{hosts: map[netip.Addr]*host{}, streams: map[*stream]struct{}{}}
}

// host adds a host.
func (n *network) host(ip netip.Addr) *host {
	h := &host{
		net:       n,
		ip:        ip,
		listeners: map[uint16]*listener{},
		sockets:   map[uint16]*socket{},
		nextPort:  firstFreePort,
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[ip] = h
	return h
}

// network is the host's view of the network, as a node wants it.
func (h *host) network() *peercache.Network {
	return &peercache.Network{Dial: h.dial, Listen: h.listen, ListenPacket: h.listenPacket}
}

func (n *network) pathLocked(from, to *host) path {
	p := path{fromIdle: from.paused, toIdle: to.paused}
	if from != to { // what a host sends to itself meets no network
		p.cut = from.group != to.group
		p.delay = from.delay + to.delay
	}
	return p
}

// change changes the rules with f and applies them to all that is under way:
// what arrived before stays arrived.
func (n *network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	now := time.Now()
	for s := range n.streams {
		s.apply(now, n.pathLocked(s.hosts[0], s.hosts[1]), n.pathLocked(s.hosts[1], s.hosts[0]))
	}
	for _, h := range n.hosts {
		for _, l := range h.listeners {
			l.changed.wake()
		}
		for _, s := range h.sockets {
			s.dropCutLocked(now)
			s.changed.wake()
		}
		if !h.paused {
			held := h.held
			h.held = nil
			for _, p := range held {
				n.deliverLocked(now, p)
			}
		}
	}
	n.changed.wake()
}

func (n *network) kill(h *host) {
	n.change(func() {
		now := time.Now()
		for s := range n.streams {
			for side := range s.hosts {
				if s.hosts[side] == h {
					s.kill(now, side)
				}
			}
		}
		h.killed, h.paused, h.held = true, false, nil
		for _, l := range h.listeners {
			l.backlog = nil
		}
		for _, s := range h.sockets {
			s.queue = nil
		}
	})
}

func (n *network) pause(h *host, paused bool) {
	n.change(func() { h.paused = paused && !h.killed })
}

func (n *network) delay(h *host, d time.Duration) {
	n.change(func() { h.delay = d })
}

// partition puts each host in the group that groupOf says.
func (n *network) partition(groupOf func(*host) int) {
	n.change(func() {
		for _, h := range n.hosts {
			h.group = groupOf(h)
		}
	})
}

// restore takes back every rule but kill.
func (n *network) restore() {
	n.change(func() {
		for _, h := range n.hosts {
			h.paused, h.group, h.delay = false, 0, 0
		}
	})
}

// state tells what the rules say of a host alone.
func (h *host) state() (killed, paused bool, group int) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.killed, h.paused, h.group
}

// close closes every connection, listener and socket, whoever has them.
func (n *network) close() {
	n.mu.Lock()
	n.closed = true
	var ends []interface{ Close() error }
	for s := range n.streams {
		ends = append(ends, &s.ends[0], &s.ends[1])
	}
	for _, h := range n.hosts {
		for _, l := range h.listeners {
			ends = append(ends, l)
		}
		for _, s := range h.sockets {
			ends = append(ends, s)
		}
	}
	n.changed.wake()
	n.mu.Unlock()
	for _, e := range ends {
		_ = e.Close() // it may have been closed meanwhile
	}
}

// dial connects as TCP does: the handshake takes a round trip and is the
// kernel's, so that a paused process need not take part. Nobody answers from
// behind a partition, nor instead of a listener that a paused process seems to
// have closed: the dial waits for the rules to change.
func (h *host) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: plainAddr{network, addr}, Err: err}
	}
	if network != "tcp" && network != "tcp4" {
		return fail(net.UnknownNetworkError(network))
	}
	target, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fail(err)
	}
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	n, reached := h.net, false
	for {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		n.mu.Lock()
		var p path
		var l *listener
		to := n.hosts[target.Addr()]
		if to != nil {
			p = n.pathLocked(h, to)
			if !to.killed {
				l = to.listeners[target.Port()]
			}
		}
		switch {
		case n.closed:
			n.mu.Unlock()
			return fail(net.ErrClosed)
		case h.killed:
			n.mu.Unlock()
			return fail(os.NewSyscallError("connect", syscall.ENETUNREACH))
		case h.paused || p.cut || p.toIdle && l == nil || l != nil && len(l.backlog) >= maxBacklog:
			changed := n.changed.wait()
			n.mu.Unlock()
			reached = false
			select {
			case <-changed:
			case <-ctx.Done():
			}
		case !reached && p.delay > 0:
			n.mu.Unlock()
			reached = true
			timer := time.NewTimer(2 * p.delay)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		case l == nil:
			n.mu.Unlock()
			return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
		default:
			local := netip.AddrPortFrom(h.ip, h.freePortLocked(func(port uint16) bool { return h.listeners[port] != nil }))
			s := newStream(n, [2]*host{h, to}, [2]netip.AddrPort{local, target}, p, n.pathLocked(to, h))
			n.streams[s] = struct{}{}
			l.backlog = append(l.backlog, &s.ends[1])
			l.changed.wake()
			n.mu.Unlock()
			return &s.ends[0], nil
		}
	}
}

// forget drops a stream that both ends have closed.
func (n *network) forget(s *stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.streams, s)
}

// bind finds the port for an address of this host and of a network that is proto,
// or its form for IPv4, and gives it to use, with the lock held.
func (h *host) bind(network, addr, proto string, taken func(port uint16) bool, use func(port uint16)) error {
	fail := func(err error) error {
		return &net.OpError{Op: "listen", Net: network, Addr: plainAddr{network, addr}, Err: err}
	}
	if network != proto && network != proto+"4" {
		return fail(net.UnknownNetworkError(network))
	}
	at, err := h.listenAddr(addr)
	if err != nil {
		return fail(err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.closed {
		return fail(net.ErrClosed)
	}
	port := at.Port()
	if port == 0 {
		port = h.freePortLocked(taken)
	} else if taken(port) {
		return fail(os.NewSyscallError("bind", syscall.EADDRINUSE))
	}
	use(port)
	return nil
}

// listenAddr is the address to listen at that addr asks for. Its port is 0 where a
// free one is wanted.
func (h *host) listenAddr(addr string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if ip := a.Addr().Unmap(); ip != h.ip && !ip.IsUnspecified() {
		return netip.AddrPort{}, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	return netip.AddrPortFrom(h.ip, a.Port()), nil
}

// freePortLocked picks a port. Ports are not used again soon, so that nobody
// meets a stranger at an address that it remembers.
func (h *host) freePortLocked(taken func(port uint16) bool) uint16 {
	for {
		port := h.nextPort
		if h.nextPort == lastFreePort {
			h.nextPort = firstFreePort
		} else {
			h.nextPort++
		}
		if !taken(port) {
			return port
		}
	}
}

// plainAddr is an address that may be none.
type plainAddr struct{ network, addr string }

func (a plainAddr) Network() string { return a.network }
func (a plainAddr) String() string  { return a.addr }

// A signal tells any number of goroutines that what they wait for may have
// happened. It is guarded by the mutex of what it belongs to, and it is a
// channel, not a sync.Cond, so that a wait may end by a timer too.
type signal struct{ woken chan struct{} }

func (s *signal) wait() <-chan struct{} {
	if s.woken == nil {
		s.woken = make(chan struct{})
	}
	return s.woken
}

func (s *signal) wake() {
	if s.woken != nil {
		close(s.woken)
		s.woken = nil
	}
}

// await lets go of mu until sig wakes it or the first of the times has come;
// a zero time never does.
func await(mu *sync.Mutex, sig *signal, times ...time.Time) {
	woken := sig.wait()
	mu.Unlock()
	defer mu.Lock()
	var first time.Time
	for _, t := range times {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	if first.IsZero() {
		<-woken
		return
	}
	timer := time.NewTimer(time.Until(first))
	defer timer.Stop()
	select {
	case <-woken:
	case <-timer.C:
	}
}

// passed says whether a deadline has come; a zero one never does.
func passed(deadline, now time.Time) bool {
	return !deadline.IsZero() && !now.Before(deadline)
}
