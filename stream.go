package peercache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// Streams: one connection to each peer that carries many requests at once. It begins as
// the POST of plain HTTP with "Upgrade: peercache/1", so that it needs no port of its
// own and works on any server that has the handler mounted; after the 101 both sides
// send frames. Requests have ids, answers come in any order.
//
// A stream has no goroutine, context or timer for a request. The caller that wants a
// key queues the request (stream_client.go), the goroutine that reads what the peer
// sends completes the fetch (fetch.go), one timer looks after all deadlines. At the
// other end the reading goroutine answers what is in memory; what has to be loaded is
// answered by whoever ends the load (stream_server.go). What is queued by the time of a
// write goes out in that write, both ways (stream_writer.go). Which stream a request
// takes, and when plain HTTP is used instead, is in stream_link.go.

const (
	// upgradeTo is the protocol that a connection is upgraded to.
	upgradeTo = "peercache/1"

	// laneHeader says in the request to upgrade what the stream is for: without it small
	// values, with laneLarge those that would hold up small ones.
	laneHeader = "Peercache-Lane"
	laneLarge  = "large"

	// largeValue is the size beyond which a value goes to a stream of its own kind: it
	// takes a tenth of a gigabit link half a millisecond.
	largeValue = 64 << 10

	// streamIdle is how long a stream is kept that nobody uses. The side that answers
	// waits a little longer, so that it never closes one that is just being used.
	streamIdle       = time.Minute
	streamIdleServer = streamIdle + 15*time.Second

	// sweepInterval is how often a stream looks for what is overdue (a fifteenth of
	// the silence that it must notice).
	sweepInterval = 20 * time.Millisecond

	// maxQueued bounds the bytes that wait for a peer to take them. Two of the largest
	// values fit.
	maxQueued = 2*wire.MaxValue + 1<<20
)

// An inbox reads the frames that arrive on a stream, as many at a time as there are.
type inbox struct {
	r        io.Reader
	heard    atomic.Int64 // reads that brought something
	received int          // bytes
	buf      []byte
	from, to int  // of what has been read and not taken
	inLarge  bool // a frame that has memory of its own has begun to arrive
}

const (
	inboxFirst = 4 << 10  // a connection that says little, or is a stranger's, costs no more
	inboxMost  = 64 << 10 // larger frames get memory of their own
	largeFirst = 16 << 10 // at least that much at a time
)

// next returns the next frame. Unless it is owned it is valid until the next call. The
// error is io.EOF at an orderly end.
func (in *inbox) next() (frame []byte, owned bool, err error) {
	for {
		head, size, err := in.peek()
		if err != nil {
			return nil, false, err
		}
		switch {
		case head == 0:
		case head+size <= in.to-in.from:
			frame := in.buf[in.from+head : in.from+head+size]
			in.from += head + size
			return frame, false, nil
		case head+size > inboxMost:
			in.from += head
			frame, err := in.large(size)
			return frame, true, err
		}
		if err := in.fill(); err != nil {
			return nil, false, err
		}
	}
}

// ready reports whether a whole frame is there, so that next would not wait.
func (in *inbox) ready() bool {
	head, size, err := in.peek()
	return err != nil || head > 0 && head+size <= in.to-in.from
}

// partial reports whether a frame has begun to arrive.
func (in *inbox) partial() bool { return in.to > in.from || in.inLarge }

// peek reads the length of the next frame, whose own length is 0 while that is not there.
func (in *inbox) peek() (head, size int, err error) {
	n, head := binary.Uvarint(in.buf[in.from:in.to])
	switch {
	case head < 0 || n > wire.MaxFrame:
		return 0, 0, fmt.Errorf("%w: a frame over the limit of %d bytes", errMalformed, wire.MaxFrame)
	case head == 0 && in.to-in.from >= binary.MaxVarintLen64:
		return 0, 0, errMalformed
	default:
		return head, int(n), nil
	}
}

// fill reads what has arrived.
func (in *inbox) fill() error {
	switch {
	case in.from == in.to:
		in.from, in.to = 0, 0
	case in.to == len(in.buf) && in.from > 0:
		in.to = copy(in.buf, in.buf[in.from:in.to])
		in.from = 0
	}
	if in.to == len(in.buf) {
		grown := make([]byte, min(max(2*len(in.buf), inboxFirst), inboxMost))
		copy(grown, in.buf[:in.to])
		in.buf = grown
	}
	n, err := in.read(in.buf[in.to:])
	in.to += n
	if n > 0 {
		return nil
	}
	if errors.Is(err, io.EOF) && in.partial() {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (in *inbox) read(b []byte) (int, error) {
	n, err := in.r.Read(b)
	if n > 0 {
		in.received += n
		in.heard.Add(1)
	}
	return n, err
}

// large reads a frame into memory of its own. A declared length is a claim: at once
// there is memory for as much as has been received on the stream so far.
func (in *inbox) large(size int) ([]byte, error) {
	in.inLarge = true
	defer func() { in.inLarge = false }()
	have := in.buf[in.from:in.to]
	in.from, in.to = 0, 0
	frame := make([]byte, len(have), min(size, len(have)+max(in.received, largeFirst)))
	copy(frame, have)
	for len(frame) < size {
		if len(frame) == cap(frame) {
			grown := make([]byte, len(frame), min(size, len(frame)+max(in.received, largeFirst)))
			copy(grown, frame)
			frame = grown
		}
		n, err := in.read(frame[len(frame):cap(frame)])
		frame = frame[:len(frame)+n]
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return frame, nil
}
