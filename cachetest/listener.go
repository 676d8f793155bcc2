package cachetest

import (
	"net"
)

// A listener is a net.Listener of a host. Its fields are guarded by the
// network's mutex.
type listener struct {
	host    *host
	addr    *net.TCPAddr
	backlog []*conn
	closed  bool
	changed signal // for Accept
}

func (h *host) listen(network, addr string) (net.Listener, error) {
	var l *listener
	err := h.bind(network, addr, "tcp", func(port uint16) bool { return h.listeners[port] != nil }, func(port uint16) {
		l = &listener{host: h, addr: &net.TCPAddr{IP: h.ip.AsSlice(), Port: int(port)}}
		h.listeners[port] = l
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Accept waits for the next connection. On a paused host it waits until Resume,
// on a killed one until Close.
func (l *listener) Accept() (net.Conn, error) {
	n := l.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if l.closed {
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
		}
		if len(l.backlog) > 0 && !l.host.paused {
			c := l.backlog[0]
			if len(l.backlog) == maxBacklog {
				n.changed.wake()
			}
			l.backlog = l.backlog[1:]
			return c, nil
		}
		await(&n.mu, &l.changed)
	}
}

// Close frees the port and resets the connections that nobody has accepted.
func (l *listener) Close() error {
	n := l.host.net
	n.mu.Lock()
	if l.closed {
		n.mu.Unlock()
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
	l.closed = true
	backlog := l.backlog
	l.backlog = nil
	delete(l.host.listeners, uint16(l.addr.Port))
	l.changed.wake()
	n.mu.Unlock()
	for _, c := range backlog {
		c.abort()
	}
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }
