package cachetest

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	// maxQueue is how many packets wait for a reader, and how many that a
	// paused host has sent wait for Resume; more are lost. Arbitrary: some
	// seconds of gossip, as a kernel's buffer holds.
	maxQueue = 1024

	// maxPacket is UDP's limit over IPv4.
	maxPacket = 65507
)

// A socket is a net.PacketConn of a host, with the manners of UDP: packets are
// whole or lost, and sending never waits. Its fields are guarded by the
// network's mutex.
type socket struct {
	host          *host
	addr          *net.UDPAddr
	queue         []packet // by arrival
	readDeadline  time.Time
	writeDeadline time.Time
	closed        bool
	changed       signal // for ReadFrom
}

type packet struct {
	from *socket
	to   netip.AddrPort
	data []byte
	at   time.Time // of its arrival
}

func (h *host) listenPacket(network, addr string) (net.PacketConn, error) {
	var s *socket
	err := h.bind(network, addr, "udp", func(port uint16) bool { return h.sockets[port] != nil }, func(port uint16) {
		s = &socket{host: h, addr: &net.UDPAddr{IP: h.ip.AsSlice(), Port: int(port)}}
		h.sockets[port] = s
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// deliverLocked puts a packet where it goes, or loses it.
func (n *network) deliverLocked(now time.Time, p packet) {
	to := n.hosts[p.to.Addr()]
	if to == nil || to.killed {
		return
	}
	s, path := to.sockets[p.to.Port()], n.pathLocked(p.from.host, to)
	if s == nil || path.cut || len(s.queue) >= maxQueue {
		return
	}
	p.at = now.Add(path.delay)
	// Behind those that arrive at the same time: one sender's packets keep
	// their order while its delay stays.
	i, _ := slices.BinarySearchFunc(s.queue, p, func(q, p packet) int {
		if q.at.After(p.at) {
			return 1
		}
		return -1
	})
	s.queue = slices.Insert(s.queue, i, p)
	s.changed.wake()
}

// dropCutLocked loses the packets that a partition keeps from arriving.
func (s *socket) dropCutLocked(now time.Time) {
	s.queue = slices.DeleteFunc(s.queue, func(p packet) bool {
		return p.at.After(now) && s.host.net.pathLocked(p.from.host, s.host).cut
	})
}

// ReadFrom waits for the next packet. What does not fit in b is lost.
func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	n := s.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		now := time.Now()
		if s.closed {
			return 0, nil, s.opError("read", nil, net.ErrClosed)
		}
		if passed(s.readDeadline, now) {
			return 0, nil, s.opError("read", nil, os.ErrDeadlineExceeded)
		}
		var next time.Time
		if len(s.queue) > 0 && !s.host.paused {
			p := s.queue[0]
			if !p.at.After(now) {
				s.queue = slices.Delete(s.queue, 0, 1)
				return copy(b, p.data), p.from.addr, nil
			}
			next = p.at
		}
		await(&n.mu, &s.changed, s.readDeadline, next)
	}
}

// WriteTo sends a packet. That it arrives is not promised, and a loss is no
// error.
func (s *socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return 0, s.opError("write", addr, err)
	}
	n, now := s.host.net, time.Now()
	p := packet{from: s, to: netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), data: bytes.Clone(b)}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case s.closed:
		return 0, s.opError("write", addr, net.ErrClosed)
	case passed(s.writeDeadline, now):
		return 0, s.opError("write", addr, os.ErrDeadlineExceeded)
	case len(b) > maxPacket:
		return 0, s.opError("write", addr, os.NewSyscallError("sendto", syscall.EMSGSIZE))
	case s.host.killed:
		return 0, s.opError("write", addr, os.NewSyscallError("sendto", syscall.ENETUNREACH))
	case s.host.paused:
		if len(s.host.held) < maxQueue {
			s.host.held = append(s.host.held, p)
		}
	default:
		n.deliverLocked(now, p)
	}
	return len(b), nil
}

func (s *socket) Close() error {
	n := s.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.closed {
		return s.opError("close", nil, net.ErrClosed)
	}
	s.closed, s.queue = true, nil
	delete(s.host.sockets, uint16(s.addr.Port))
	s.changed.wake()
	return nil
}

func (s *socket) LocalAddr() net.Addr                { return s.addr }
func (s *socket) SetDeadline(t time.Time) error      { return s.setDeadlines(&t, &t) }
func (s *socket) SetReadDeadline(t time.Time) error  { return s.setDeadlines(&t, nil) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.setDeadlines(nil, &t) }

func (s *socket) setDeadlines(read, write *time.Time) error {
	n := s.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.closed {
		return s.opError("set", nil, net.ErrClosed)
	}
	if read != nil {
		s.readDeadline = *read
		s.changed.wake()
	}
	if write != nil {
		s.writeDeadline = *write
	}
	return nil
}

func (s *socket) opError(op string, to net.Addr, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: s.addr, Addr: to, Err: err}
}
