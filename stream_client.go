package peercache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// The end of a stream that asks.

// directBytes is how much may be on its way unanswered for a caller to write its request
// by itself: so much fits the buffers of any connection, even of a peer that has stopped
// to read, so that the caller does not wait. It saves the switch to another goroutine,
// a third of the time of a lone request. Where more is on its way, requests go out in
// large writes of one goroutine.
const directBytes = 16 << 10

// A stream is this node's connection to one peer, as far as it asks.
type stream struct {
	writer
	node *Node
	link *link
	body io.ReadWriteCloser // of the answer that upgraded
	conn net.Conn           // below it, if that is known
	in   inbox
	told bool          // of rubbish; the reading goroutine's
	wake chan struct{} // has the writing goroutine write; with room for one
	done chan struct{} // closed when the stream is

	// Guarded by the writer's mutex.

	slots      []slot
	free       int32 // the first unused slot, -1 if all are used
	pending    int   // used slots
	unanswered int   // bytes of the requests in them
	retired    bool  // to be closed once nothing is pending
	closed     bool
	aged       uint64 // version of what the peer was told that it must have applied

	timer   *time.Timer // calls sweep
	lazy    bool        // and that not soon
	unwatch func() bool // has the node's end forget the stream
	coarse  int64       // the time, a sweep ago at most
	idle    int64       // since when nothing was asked
	heard   int64       // in.heard, when it was last looked at
	quiet   int64       // since when nothing was heard, while something was pending
}

// A slot is a request that waits for its answer.
type slot struct {
	id    uint64 // what the slot was used for last; its low bits are its index
	q     *inquiry
	reply *reply
	left  int // keys that are not answered
	bytes int
	until int64 // when it is overdue
	busy  bool  // the reading goroutine has it in hand
	next  int32 // unused slot
}

const (
	// slotBits are the bits of an id that are an index.
	slotBits = 13

	// maxSlots is how many slots have an index.
	maxSlots = 1 << slotBits
)

// A reply is what a request gets that is no inquiry.
type reply struct {
	resp *wire.Response
	err  error
	done chan struct{}
}

// newStream returns a stream on a connection that has been upgraded. To start it is the
// caller's.
func newStream(l *link, body io.ReadWriteCloser, conn net.Conn) *stream {
	return &stream{
		writer: writer{w: body},
		node:   l.node,
		link:   l,
		body:   body,
		conn:   conn,
		in:     inbox{r: body},
		wake:   make(chan struct{}, 1),
		done:   make(chan struct{}),
		free:   -1,
	}
}

// start starts what the stream runs, unless the node has left.
func (s *stream) start() bool {
	s.mu.Lock()
	s.timer = time.AfterFunc(sweepInterval, s.sweep)
	s.armLocked()
	s.unwatch = context.AfterFunc(s.node.life, func() { s.fail(errLeft) })
	s.mu.Unlock()
	if !s.node.background(s.read) {
		s.fail(errLeft)
		return false
	}
	go s.write() // ends with the stream
	return true
}

// ask sends an inquiry. It reports false if the stream is closed.
func (s *stream) ask(q *inquiry) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	if s.out.size > maxQueued || s.pending >= maxSlots {
		s.mu.Unlock()
		s.link.refuse(q)
		return true
	}
	s.tellAgedLocked()
	before := len(s.out.buf)
	sl := s.takeSlotLocked(q.patience())
	sl.q, sl.left = q, len(q.flights)
	s.out.buf = appendGet(s.out.buf, sl.id, q)
	sl.bytes = len(s.out.buf) - before
	s.out.size += sl.bytes
	s.unanswered += sl.bytes
	s.sendLocked()
	return true
}

// tellAgedLocked queues what the peer must have applied before it answers, if that has
// changed: before the request that it holds for.
func (s *stream) tellAgedLocked() {
	if s.node.coherent.ledger.agedVersion.Load() == s.aged {
		return
	}
	aged, version := s.node.coherent.ledger.aged()
	frame, err := wire.AppendFrame(nil, &wire.Request{Aged: aged.toWire()})
	if err != nil { // never: it is far below the limit
		return
	}
	s.aged = version
	s.out.append(frame)
}

// sendLocked has written what was queued, and unlocks.
func (s *stream) sendLocked() {
	switch {
	case s.writing:
		s.mu.Unlock()
	case s.unanswered > directBytes:
		s.writing = true
		s.mu.Unlock()
		s.wake <- struct{}{} // there is room: who set writing is the only one to send
	default:
		s.writing = true
		if s.pending > 1 {
			// Others are busy: what they queue when it is their turn goes out together.
			s.mu.Unlock()
			runtime.Gosched()
			s.mu.Lock()
		}
		s.writeQueuedLocked()
		s.writtenLocked()
	}
}

// writtenLocked follows a write of a caller, and unlocks.
func (s *stream) writtenLocked() {
	err := s.broken
	more := err == nil && !s.out.empty()
	s.writing = more
	s.mu.Unlock()
	switch {
	case err != nil:
		s.fail(err)
	case more:
		s.wake <- struct{}{}
	}
}

// write is the goroutine that writes what callers leave to it.
func (s *stream) write() {
	for {
		select {
		case <-s.wake:
		case <-s.done:
			return
		}
		for {
			// Callers that the last answers woke come first: what they ask for next goes
			// out in the same write.
			runtime.Gosched()
			s.mu.Lock()
			if s.broken != nil || s.out.empty() {
				break
			}
			s.writeQueuedLocked()
			s.mu.Unlock()
		}
		s.writing = false
		err := s.broken
		s.mu.Unlock()
		if err != nil {
			s.fail(err)
		}
	}
}

// takeSlotLocked returns an unused slot with a new id.
func (s *stream) takeSlotLocked(patience time.Duration) *slot {
	if s.free < 0 {
		s.slots = append(s.slots, slot{id: 1<<slotBits | uint64(len(s.slots)), next: -1})
		s.free = int32(len(s.slots) - 1)
	}
	sl := &s.slots[s.free]
	s.free = sl.next
	sl.id += 1 << slotBits
	if s.pending++; s.lazy {
		s.armLocked()
	}
	sl.until = after(s.coarse, patience)
	return sl
}

// freeSlotLocked ends the use of a slot.
func (s *stream) freeSlotLocked(sl *slot) {
	s.pending--
	s.unanswered -= sl.bytes
	i := int32(sl.id & (1<<slotBits - 1))
	sl.q, sl.reply, sl.bytes, sl.busy = nil, nil, 0, false
	sl.next = s.free
	s.free = i
}

// slotLocked returns the slot of a request that is pending, nil if it is not any more.
func (s *stream) slotLocked(id uint64) *slot {
	i := id & (1<<slotBits - 1)
	if i >= uint64(len(s.slots)) {
		return nil
	}
	if sl := &s.slots[i]; sl.id == id && (sl.q != nil || sl.reply != nil) {
		return sl
	}
	return nil
}

// transact sends a request that is no inquiry and returns the answer to it as a whole.
func (s *stream) transact(ctx context.Context, req *wire.Request) (*wire.Response, error) {
	r := &reply{done: make(chan struct{})}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, io.EOF
	}
	if s.pending >= maxSlots {
		s.mu.Unlock()
		return nil, statusError(wire.Status_BUSY, crowded)
	}
	sl := s.takeSlotLocked(never)
	sl.reply, sl.left = r, 1
	id := sl.id
	s.mu.Unlock()

	req.Id = id
	frame, err := wire.AppendFrame(nil, req)
	s.mu.Lock()
	sl = s.slotLocked(id)
	if err != nil || sl == nil { // the stream was closed
		if sl != nil {
			s.freeSlotLocked(sl)
		} else if err == nil {
			err = io.EOF
		}
		s.mu.Unlock()
		return nil, err
	}
	s.tellAgedLocked()
	sl.bytes = len(frame)
	s.unanswered += len(frame)
	s.out.append(frame)
	s.sendLocked()
	select {
	case <-r.done:
		return r.resp, r.err
	case <-ctx.Done():
		// The slot stays in use: the request may still be on its way, and the answer will come.
		return nil, context.Cause(ctx)
	}
}

// read is the goroutine that reads what the peer sends, and completes what waits for it.
func (s *stream) read() {
	err := s.readAll()
	s.fail(err)
	s.tell(err)
	s.endAll(err)
}

// tell counts what the stream is closed for, once, and before anybody who waits is told.
func (s *stream) tell(err error) {
	if !s.told && (errors.Is(err, errMalformed) || errors.Is(err, errForged)) {
		s.told = true
		s.node.metRubbish(s.link.peer, err)
	}
}

func (s *stream) readAll() error {
	var resp response
	var heard, came int64
	for {
		frame, owned, err := s.in.next()
		if err != nil {
			return err
		}
		if n := s.in.heard.Load(); n != heard { // once for all that came together
			heard, came = n, now()
		}
		if err := resp.parse(frame); err != nil {
			return err
		}
		if err := s.dispatch(&resp, frame, owned, came); err != nil {
			return err
		}
	}
}

// dispatch gives a response to the request that it belongs to.
func (s *stream) dispatch(resp *response, frame []byte, owned bool, came int64) error {
	if resp.id == 0 {
		return nil // a heartbeat: that it came is all that counts
	}
	s.mu.Lock()
	sl := s.slotLocked(resp.id)
	if sl == nil {
		s.mu.Unlock()
		return nil // nobody waits any more
	}
	q, r := sl.q, sl.reply
	sl.left -= len(resp.answers)
	last := sl.left <= 0 || r != nil || resp.status != wire.Status_OK
	if last {
		s.freeSlotLocked(sl)
	} else {
		sl.busy = true
	}
	s.mu.Unlock()
	if r != nil {
		r.resp = new(wire.Response)
		if err := wire.Unmarshal(frame, r.resp); err != nil {
			r.err = fmt.Errorf("%w: %w", errMalformed, err)
		}
		close(r.done)
		return r.err
	}
	var err error
	if !last && len(resp.answers) == 0 {
		err = errForged // or a peer could keep the request pending for ever
	}
	for _, a := range resp.answers {
		if a.i >= len(q.flights) {
			err = errForged
			break
		}
		// The value is kept: it shares the memory of its frame where there is little else
		// in that, and where the frame has memory of its own.
		if !owned || len(a.value) < len(frame)/2 {
			a.value = strings.Clone(a.value)
		}
		a.came = came
		q.answer(a)
	}
	s.tell(err)
	if !last {
		s.mu.Lock()
		if sl := s.slotLocked(resp.id); sl != nil {
			sl.busy = false
		}
		s.mu.Unlock()
		return err
	}
	s.link.succeeded()
	s.link.flying.Add(-1)
	if err == nil {
		q.end(statusError(resp.status, resp.text))
	} else {
		q.end(err)
	}
	return err
}
