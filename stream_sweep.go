package peercache

import (
	"errors"
	"time"
)

// How a stream of an asker ends, and its requests with it: deadlines, and failures.

// errRetired closes a stream that is not used any more.
var errRetired = errors.New("peercache: the connection was not used any more")

// fail closes the stream. What is pending is ended by the reading goroutine.
func (s *stream) fail(err error) {
	s.mu.Lock()
	s.failLocked(err)
}

// failLocked closes the stream, and unlocks.
func (s *stream) failLocked(err error) {
	if s.broken == nil {
		s.broken = err
	}
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if !first {
		return
	}
	s.link.drop(s)
	s.timer.Stop()
	s.unwatch()
	close(s.done)
	s.cut()
}

// cut closes the connection, at once.
func (s *stream) cut() {
	if s.conn != nil {
		_ = s.conn.SetDeadline(time.Unix(1, 0)) // TLS says goodbye, and shall not wait for it
	}
	_ = s.body.Close()
}

func (s *stream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// endAll ends what is pending, with what broke the stream first.
func (s *stream) endAll(err error) {
	s.mu.Lock()
	if s.broken != nil {
		err = s.broken
	}
	var pending []slot
	for i := range s.slots {
		if sl := &s.slots[i]; sl.q != nil || sl.reply != nil {
			pending = append(pending, *sl)
			s.freeSlotLocked(sl)
		}
	}
	s.mu.Unlock()
	for _, sl := range pending {
		if sl.reply != nil {
			sl.reply.err = err
			close(sl.reply.done)
			continue
		}
		s.link.end(sl.q, err)
	}
}

// retire has the stream closed once nothing is pending: nobody will ask any more.
func (s *stream) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	if !s.closed {
		s.timer.Reset(0)
	}
}

// armLocked has the stream looked at soon, for the first of the requests.
func (s *stream) armLocked() {
	s.lazy = false
	s.coarse = now()
	s.idle, s.quiet = s.coarse, s.coarse
	s.heard = s.in.heard.Load()
	s.timer.Reset(sweepInterval)
}

// sweep keeps all deadlines of the stream: that the peer is not silent while something
// is pending, that nothing is pending for ever, that the stream does not stay unused. It
// is called by the timer, which rests while nothing is pending.
func (s *stream) sweep() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	at := now()
	s.coarse = at
	heard := s.in.heard.Load()
	if s.pending > 0 || heard != s.heard { // most requests begin and end between two looks
		s.idle = at
	}
	if heard != s.heard || s.pending == 0 {
		s.heard, s.quiet = heard, at
	}
	var overdue []*inquiry
	largest := 0 // bytes of a request, which may be on its way still
	for i := range s.slots {
		sl := &s.slots[i]
		if sl.q == nil && sl.reply == nil {
			continue
		}
		largest = max(largest, sl.bytes)
		if sl.q != nil && !sl.busy && sl.until <= at {
			overdue = append(overdue, sl.q)
			s.freeSlotLocked(sl)
		}
	}
	var err error
	switch unused := time.Duration(at - s.idle); {
	case time.Duration(at-s.quiet) >= silenceTimeout+transit(largest).Truncate(sweepInterval):
		err = errSilent
	case s.pending == 0 && (s.retired || unused >= streamIdle):
		err = errRetired
	case s.pending > 0 || unused < silenceTimeout: // nor for every pause between two requests
		s.timer.Reset(sweepInterval)
	default:
		s.lazy = true
		s.timer.Reset(streamIdle - unused)
	}
	if err != nil {
		s.failLocked(err) // in one with the look: what is asked next finds it closed
	} else {
		s.mu.Unlock()
	}
	for _, q := range overdue {
		s.link.abandoned()
		s.link.flying.Add(-1)
		q.end(errOverdue)
	}
}
