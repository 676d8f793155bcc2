package cachetest

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes one direction of a connection holds before the
// writer waits: the size of a socket buffer or two, arbitrary.
const window = 256 << 10

// An ending is how far one direction of a connection has come to its end. Each
// value includes those before it.
type ending int

const (
	endNone  ending = iota
	endWrite        // CloseWrite: nothing more comes
	endClose        // Close: and nobody reads the other direction any more
	endReset        // both directions are void
)

// A stream is a connection: two ends, and what each has written that the other
// has not read. net.Pipe would not do: its writes wait for a reader, so that
// the alert with which TLS says goodbye waits for somebody who has left.
type stream struct {
	net   *network
	hosts [2]*host
	ends  [2]conn

	mu sync.Mutex // guards the ends' deadlines and states, and the halves
}

// A conn is one end of a stream, a net.Conn.
type conn struct {
	stream        *stream
	local, remote *net.TCPAddr
	in, out       *half

	// The fields below are guarded by stream.mu.

	closed        bool // by Close here
	killed        bool // with its host
	readDeadline  time.Time
	writeDeadline time.Time
}

// A half is one direction of a stream, guarded by the stream's mutex.
type half struct {
	path     path
	arrived  bytes.Buffer
	flight   []segment
	size     int    // bytes in arrived and flight
	sending  bool   // a Write is under way: others wait, so that none is torn apart
	sent     ending // queued behind the data
	end      ending // arrived
	readable signal
	writable signal
}

// A segment is data or an ending on its way.
type segment struct {
	data []byte
	end  ending
	left bool      // its sender, which need not be true if that is paused
	at   time.Time // of its arrival; zero while nothing passes
}

func newStream(n *network, hosts [2]*host, addrs [2]netip.AddrPort, there, back path) *stream {
	s := &stream{net: n, hosts: hosts}
	halves := [2]*half{{path: there}, {path: back}}
	for side := range s.ends {
		s.ends[side] = conn{
			stream: s,
			local:  net.TCPAddrFromAddrPort(addrs[side]),
			remote: net.TCPAddrFromAddrPort(addrs[1-side]),
			in:     halves[1-side],
			out:    halves[side],
		}
	}
	return s
}

// Read reads what has arrived; it waits until something has.
func (c *conn) Read(b []byte) (int, error) {
	c.stream.mu.Lock()
	defer c.stream.mu.Unlock()
	for {
		now := time.Now()
		next := c.in.arriveLocked(now)
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case passed(c.readDeadline, now):
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case c.killed:
			return 0, c.opError("read", os.NewSyscallError("read", syscall.ECONNRESET))
		case len(b) == 0:
			return 0, nil
		case c.in.path.toIdle:
		case c.in.arrived.Len() > 0:
			n, _ := c.in.arrived.Read(b)
			c.in.size -= n
			c.in.writable.wake()
			return n, nil
		case c.in.end == endReset:
			return 0, c.opError("read", os.NewSyscallError("read", syscall.ECONNRESET))
		case c.in.end != endNone:
			return 0, io.EOF
		}
		await(&c.stream.mu, &c.in.readable, c.readDeadline, next)
	}
}

// Write hands b to the network; it waits while the window is full. Data of
// calls at the same time is not mixed.
func (c *conn) Write(b []byte) (n int, err error) {
	c.stream.mu.Lock()
	defer c.stream.mu.Unlock()
	mine := false
	defer func() {
		if mine {
			c.out.sending = false
			c.out.writable.wake()
		}
	}()
	for {
		now := time.Now()
		next := c.in.arriveLocked(now)
		end := c.in.end
		if c.in.path.toIdle {
			end = endNone // a paused process does not see it
		}
		switch {
		case c.closed:
			return n, c.opError("write", net.ErrClosed)
		case passed(c.writeDeadline, now):
			return n, c.opError("write", os.ErrDeadlineExceeded)
		case c.killed || end == endReset:
			return n, c.opError("write", os.NewSyscallError("write", syscall.ECONNRESET))
		case c.out.sent != endNone || end == endClose:
			return n, c.opError("write", os.NewSyscallError("write", syscall.EPIPE))
		}
		if mine || !c.out.sending {
			mine, c.out.sending = true, true
			k := min(len(b)-n, window-c.out.size)
			c.out.sendLocked(now, segment{data: b[n : n+k]})
			if n += k; n == len(b) {
				return n, nil
			}
		}
		await(&c.stream.mu, &c.out.writable, c.writeDeadline, next)
	}
}

// CloseWrite ends what the other end reads, which may go on writing.
func (c *conn) CloseWrite() error {
	c.stream.mu.Lock()
	defer c.stream.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.out.sendLocked(time.Now(), segment{end: endWrite})
	c.stream.wakeLocked()
	return nil
}

// Close ends the connection; the other end still reads what was written.
func (c *conn) Close() error { return c.close(endClose) }

// abort ends the connection with a reset.
func (c *conn) abort() { _ = c.close(endReset) }

func (c *conn) close(how ending) error {
	s := c.stream
	s.mu.Lock()
	if c.closed {
		s.mu.Unlock()
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.out.sendLocked(time.Now(), segment{end: how})
	s.wakeLocked()
	over := s.ends[0].closed && s.ends[1].closed
	s.mu.Unlock()
	if over {
		s.net.forget(s)
	}
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error      { return c.setDeadlines(&t, &t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.setDeadlines(&t, nil) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(nil, &t) }

func (c *conn) setDeadlines(read, write *time.Time) error {
	c.stream.mu.Lock()
	defer c.stream.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	if read != nil {
		c.readDeadline = *read
		c.in.readable.wake()
	}
	if write != nil {
		c.writeDeadline = *write
		c.out.writable.wake()
	}
	return nil
}

func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// kill resets the connection because the process at one side is gone: there at
// once, at the other side when the news arrives.
func (s *stream) kill(now time.Time, side int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.ends[side]
	c.killed = true
	c.out.arriveLocked(now)
	for i, seg := range c.out.flight {
		if !seg.left {
			// What a paused process wrote it never got to write.
			for _, lost := range c.out.flight[i:] {
				c.out.size -= len(lost.data)
			}
			c.out.flight = c.out.flight[:i]
			break
		}
	}
	c.out.path.fromIdle = false // resets are the kernel's
	c.out.sendLocked(now, segment{end: endReset})
	s.wakeLocked()
}

// apply puts new rules in force.
func (s *stream) apply(now time.Time, there, back path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[0].out.applyLocked(now, there)
	s.ends[1].out.applyLocked(now, back)
	s.wakeLocked()
}

func (s *stream) wakeLocked() {
	for i := range s.ends {
		s.ends[i].out.readable.wake()
		s.ends[i].out.writable.wake()
	}
}

// sendLocked queues a segment, whose data it copies. Only an ending that goes
// further may follow an ending.
func (h *half) sendLocked(now time.Time, seg segment) {
	if seg.end <= h.sent && (seg.end != endNone || len(seg.data) == 0) {
		return
	}
	h.sent = max(h.sent, seg.end)
	h.size += len(seg.data)
	seg.left = !h.path.fromIdle
	if seg.left && !h.path.cut {
		seg.at = now.Add(h.path.delay)
		if i := len(h.flight); i > 0 && seg.at.Before(h.flight[i-1].at) {
			seg.at = h.flight[i-1].at // the delay was longer: order is kept
		}
	}
	last := len(h.flight) - 1
	switch {
	case last < 0 && seg.left && !h.path.cut && h.path.delay == 0:
		h.arrived.Write(seg.data)
		h.end = max(h.end, seg.end)
	case last >= 0 && seg.end == endNone && h.flight[last].end == endNone &&
		h.flight[last].left == seg.left && h.flight[last].at.Equal(seg.at):
		h.flight[last].data = append(h.flight[last].data, seg.data...)
	default:
		seg.data = bytes.Clone(seg.data)
		h.flight = append(h.flight, seg)
	}
	h.readable.wake()
}

// arriveLocked moves what has arrived by now, and returns when the next
// segment does: zero if there is none or nobody knows.
func (h *half) arriveLocked(now time.Time) (next time.Time) {
	for len(h.flight) > 0 {
		seg := h.flight[0]
		if seg.at.IsZero() || seg.at.After(now) {
			return seg.at
		}
		h.arrived.Write(seg.data)
		h.end = max(h.end, seg.end)
		h.flight[0] = segment{}
		h.flight = h.flight[1:]
	}
	h.flight = nil
	return time.Time{}
}

// applyLocked puts a path in force: what a partition stops on its way waits and
// is sent again when it heals, as TCP does; what a paused process wrote leaves
// it when it goes on.
func (h *half) applyLocked(now time.Time, p path) {
	h.arriveLocked(now)
	h.path = p
	earliest := now.Add(p.delay)
	for i := range h.flight {
		seg := &h.flight[i]
		seg.left = seg.left || !p.fromIdle
		switch {
		case !seg.left:
		case p.cut:
			seg.at = time.Time{}
		case seg.at.IsZero():
			seg.at = earliest
		}
		if seg.at.After(earliest) {
			earliest = seg.at
		}
	}
}
