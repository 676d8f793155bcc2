package peercache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// gossipSockets is where gossip comes in and goes out: a TCP listener and a UDP
// socket with the same port, and every stream opened through either end. It keeps
// out what is said; peers.go makes a memberlist.Transport of it.
//
// Not memberlist's own NetTransport, which knows no other network than the
// operating system's, hands packets over a channel without room, and leaves
// streams open when it is shut down.
type gossipSockets struct {
	network  *Network
	listener net.Listener
	conn     net.PacketConn
	bound    netip.AddrPort
	report   func(slog.Level, string)
	streams  chan net.Conn // accepted ones; without room, its reader never blocks

	ctx    context.Context // ends with the sockets, and every dial with it; belongs to no call, which is why it is kept
	cancel context.CancelFunc
	wg     sync.WaitGroup // the two readers

	mu struct {
		sync.Mutex
		closed bool
		open   map[*gossipStream]struct{}
	}
}

const (
	// Between the choice of a free TCP port and the use of the same number for
	// UDP somebody else may take that. Ten misses in a row are no accident.
	bindAttempts = 10

	// The wait after an accept or a read that failed: short, since one aborted
	// connection must not hold up the next; doubling, since being out of file
	// descriptors lasts and must not burn a core.
	minReadPause = 5 * time.Millisecond
	maxReadPause = time.Second

	maxDatagram = 64 << 10 // what IP allows; a longer one cannot arrive
)

// listenGossip binds both sockets. The caller starts the readers with serve and
// ends all with close.
func listenGossip(network *Network, bind string, report func(slog.Level, string)) (*gossipSockets, error) {
	want, err := netip.ParseAddrPort(bind)
	if err != nil {
		return nil, fmt.Errorf("peercache: gossip address %q: %w", bind, err)
	}
	s := &gossipSockets{network: network, report: report, streams: make(chan net.Conn)}
	for range bindAttempts {
		if err = s.bind(want); err == nil || want.Port() != 0 {
			break
		}
	}
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("peercache: gossip address %s: %w: set NodeOptions.Gossip to an address of this machine, or to 0.0.0.0 "+
			"(IPv6: [::]) and a port if the node's URL has an address that is translated", want, err)
	case errors.Is(err, syscall.EADDRINUSE) && want.Port() != 0:
		return nil, fmt.Errorf("peercache: gossip address %s: %w: set NodeOptions.Gossip to another port; 0 picks one", want, err)
	case err != nil:
		return nil, fmt.Errorf("peercache: gossip address %s: %w", want, err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.open = make(map[*gossipStream]struct{})
	return s, nil
}

func (s *gossipSockets) bind(want netip.AddrPort) error {
	listener, err := s.network.Listen("tcp", want.String())
	if err != nil {
		return err
	}
	bound, err := netip.ParseAddrPort(listener.Addr().String())
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	// The address as it was asked for: a listener on 0.0.0.0 says that it is on [::].
	conn, err := s.network.ListenPacket("udp", netip.AddrPortFrom(want.Addr(), bound.Port()).String())
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	s.listener, s.conn, s.bound = listener, conn, bound
	return nil
}

// serve starts the readers. receive runs on one of them and must not block; the
// bytes are its own.
func (s *gossipSockets) serve(receive func(b []byte, from net.Addr, at time.Time)) {
	s.wg.Go(s.acceptStreams)
	s.wg.Go(func() { s.readPackets(receive) })
}

func (s *gossipSockets) acceptStreams() {
	var pause time.Duration
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			if !s.retry("accepting a stream", err, &pause) {
				return
			}
			continue
		}
		pause = 0
		stream, err := s.keep(conn)
		if err != nil {
			return
		}
		select {
		case s.streams <- stream:
		case <-s.ctx.Done():
			_ = stream.Close()
			return
		}
	}
}

func (s *gossipSockets) readPackets(receive func(b []byte, from net.Addr, at time.Time)) {
	buf := make([]byte, maxDatagram)
	var pause time.Duration
	for {
		n, from, err := s.conn.ReadFrom(buf)
		at := time.Now() // before anything else: round trips are computed from it
		if err != nil {
			if !s.retry("reading a packet", err, &pause) {
				return
			}
			continue
		}
		pause = 0
		if n > 0 {
			receive(bytes.Clone(buf[:n]), from, at) // what is received stays referenced
		}
	}
}

// retry waits for the next attempt of what has just failed with err. It reports
// false, without a wait, when the sockets were closed.
func (s *gossipSockets) retry(what string, err error, pause *time.Duration) bool {
	if s.ctx.Err() != nil {
		return false
	}
	s.report(slog.LevelWarn, what+": "+err.Error())
	*pause = min(max(2**pause, minReadPause), maxReadPause)
	timer := time.NewTimer(*pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// send fires one packet off to addr.
func (s *gossipSockets) send(b []byte, addr string) error {
	to, err := parseGossipAddr(addr)
	if err == nil {
		_, err = s.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
	}
	if err == nil {
		return nil
	}
	// memberlist suspects a peer that cannot be sent to only if the error looks
	// like the operating system's. After any other it takes the probe for not
	// made, and the peer would stay a member for ever.
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return err
	}
	return &net.OpError{Op: "write", Net: "udp", Err: err}
}

// dial opens a stream to addr that may be used for timeout, and longer if the
// user sets another deadline.
func (s *gossipSockets) dial(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := parseGossipAddr(addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, err := s.network.Dial(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	// memberlist writes its label before it sets a deadline of its own: a peer that
	// accepts and does not read would keep that goroutine for ever.
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s.keep(conn)
}

// keep notes conn, so that close finds it. After close it is closed at once.
func (s *gossipSockets) keep(conn net.Conn) (net.Conn, error) {
	stream := &gossipStream{Conn: conn, sockets: s}
	s.mu.Lock()
	closed := s.mu.closed
	if !closed {
		s.mu.open[stream] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	return stream, nil
}

// close closes the sockets and all streams, and returns when the readers have
// ended. It may be called more than once.
func (s *gossipSockets) close() {
	s.mu.Lock()
	again := s.mu.closed
	s.mu.closed = true
	streams := s.mu.open
	s.mu.open = nil
	s.mu.Unlock()
	if !again {
		s.cancel()
		_ = s.listener.Close()
		_ = s.conn.Close()
		for stream := range streams {
			_ = stream.Conn.Close()
		}
	}
	s.wg.Wait()
}

// A gossipStream is a connection that its sockets can find.
type gossipStream struct {
	net.Conn
	sockets *gossipSockets
}

// Write closes the stream if it fails: memberlist forgets a connection on which
// it could not write its label, and nobody else would close it.
func (c *gossipStream) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

func (c *gossipStream) Close() error {
	c.sockets.mu.Lock()
	delete(c.sockets.mu.open, c)
	c.sockets.mu.Unlock()
	return c.Conn.Close()
}

// parseGossipAddr accepts an IP literal with a port that gossip may be sent to.
// Addresses come from strangers' packets too, so what is no host of a cluster
// (metadata services on link-local addresses, multicast) is refused here, at the
// only way out.
func parseGossipAddr(addr string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	if ap.Port() == 0 {
		return netip.AddrPort{}, errors.New(addr + " has no port")
	}
	return ap, checkGossipAddr(ap.Addr())
}

func checkGossipAddr(a netip.Addr) error {
	switch {
	case a.IsUnspecified():
		return fmt.Errorf("%s means any address, not one", a)
	case a.IsMulticast():
		return fmt.Errorf("%s is a multicast address", a)
	case a.IsLinkLocalUnicast() || a.Zone() != "":
		return fmt.Errorf("%s is a link-local address", a)
	}
	return nil
}

// gossipLabel is what every packet and stream of the cluster begins with. It
// keeps two clusters apart that meet because an address was used again: without
// one, they merge. It is an error if the name of the cluster is too long.
func gossipLabel(cluster string) (string, error) {
	const maxLabel = 255 // its length travels in a byte
	label := "peercache/" + strconv.Itoa(metaProtocol) + "/" + cluster
	if over := len(label) - maxLabel; over > 0 {
		return "", fmt.Errorf("peercache: the cluster's name has %d bytes, at most %d are allowed", len(cluster), len(cluster)-over)
	}
	return label, nil
}
