package peercache

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// A node's way to each of its peers: streams, made when the first request needs one, and
// plain HTTP where the upgrade is refused by an HTTP answer, such as a proxy's. What is
// asked while a stream is being made waits for it, for dialTimeout at most.

const (
	// plainTime is how long a peer that refused the upgrade is asked by plain HTTP before
	// the upgrade is tried again: the proxy in the way may have gone.
	plainTime = time.Minute

	// After a connection could not be made there is no other attempt for redialFirst,
	// doubling to redialLongest: what is asked meanwhile fails over at once. Less than a
	// breaker's pauses, since it must not outlast them.
	redialFirst   = 25 * time.Millisecond
	redialLongest = 250 * time.Millisecond
)

// A link is a node's way to one peer.
type link struct {
	node  *Node
	peer  string
	lanes [2]lane // for small values, and for large ones

	flying   atomic.Int32 // inquiries under way
	troubled atomic.Bool  // the peer's breaker has something to say
	plain    atomic.Int64 // until when plain HTTP is used
}

// A lane is one of a link's streams, when there is one.
type lane struct {
	live atomic.Pointer[stream]

	mu      sync.Mutex    // guards the fields below
	dialled chan struct{} // closed when the dial that is under way has ended; nil while none is
	waiting []*inquiry    // for that
	err     error         // of the last dial
	again   int64         // when the next may be, if that failed
	pause   time.Duration
}

func newLink(n *Node, peer string) *link {
	l := &link{node: n, peer: peer}
	l.plain.Store(now())
	return l
}

func (l *link) lane(large bool) *lane {
	if large {
		return &l.lanes[1]
	}
	return &l.lanes[0]
}

// live iterates over the link's streams.
func (l *link) live(yield func(*stream) bool) {
	for i := range l.lanes {
		if s := l.lanes[i].live.Load(); s != nil && !yield(s) {
			return
		}
	}
}

// drop forgets a stream that is closed.
func (l *link) drop(s *stream) {
	for i := range l.lanes {
		l.lanes[i].live.CompareAndSwap(s, nil)
	}
}

// renew forgets what was learnt of the peer.
func (l *link) renew() {
	l.plain.Store(now())
	for i := range l.lanes {
		lane := &l.lanes[i]
		lane.mu.Lock()
		lane.err, lane.pause = nil, 0
		lane.mu.Unlock()
	}
}

// usesPlain reports whether the peer is asked by plain HTTP.
func (l *link) usesPlain() bool { return l.plain.Load() > now() }

// ask sends an inquiry, as soon as there is a way to.
func (l *link) ask(q *inquiry) {
	if l.flying.Add(1) > maxInFlight && q.parent == nil {
		l.refuse(q)
		return
	}
	lane := l.lane(q.large)
	if s := lane.live.Load(); s != nil && s.ask(q) {
		return
	}
	l.askLater(lane, q)
}

// askLater has an inquiry sent when there is a stream.
func (l *link) askLater(lane *lane, q *inquiry) {
	for {
		lane.mu.Lock()
		s := lane.live.Load() // made meanwhile
		err := l.refusedLocked(lane)
		if s == nil && err == nil {
			lane.waiting = append(lane.waiting, q)
			l.dialLocked(lane)
		}
		lane.mu.Unlock()
		switch {
		case s != nil:
			if s.ask(q) {
				return
			}
			l.drop(s)
			continue
		case errors.Is(err, errPlain):
			go l.node.askPlain(l, q)
		case err != nil:
			l.end(q, err)
		}
		return
	}
}

// end ends an inquiry that was not sent.
func (l *link) end(q *inquiry, err error) {
	l.failed(err)
	l.flying.Add(-1)
	q.end(err)
}

// crowded is what is said where too much is under way.
const crowded = "too many requests to this peer are under way"

// refuse ends an inquiry because of that.
func (l *link) refuse(q *inquiry) {
	l.abandoned()
	l.flying.Add(-1)
	for i := range q.flights {
		q.answer(keyAnswer{i, answer{status: wire.Status_BUSY, text: crowded}})
	}
	q.end(nil)
}

// refusedLocked says why no stream is to be waited for.
func (l *link) refusedLocked(lane *lane) error {
	switch {
	case l.node.life.Err() != nil:
		return errLeft
	case lane.dialled != nil:
		return nil
	case l.usesPlain():
		return errPlain
	case lane.err != nil && now() < lane.again:
		return lane.err
	default:
		return nil
	}
}

// dialLocked has a stream made, unless one is being made.
func (l *link) dialLocked(lane *lane) {
	if lane.dialled != nil {
		return
	}
	lane.dialled = make(chan struct{})
	if !l.node.background(func() { l.open(lane) }) {
		go l.opened(lane, nil, errLeft) // for the mutex is held
	}
}

// open makes a lane's stream.
func (l *link) open(lane *lane) {
	s, _, err := l.dial(l.node.hello(), lane == &l.lanes[1])
	if err == nil && !s.start() {
		s, err = nil, errLeft
	}
	l.opened(lane, s, err)
}

// opened sends what waits for a stream, by plain HTTP if the upgrade was refused.
func (l *link) opened(lane *lane, s *stream, err error) {
	at := now()
	lane.mu.Lock()
	waiting := lane.waiting
	close(lane.dialled)
	lane.dialled, lane.waiting, lane.err, lane.again = nil, nil, err, at
	switch {
	case err == nil:
		lane.pause = 0
		lane.live.Store(s)
	case errors.Is(err, errPlain):
		l.plain.Store(after(at, plainTime))
	default:
		lane.pause = min(max(2*lane.pause, redialFirst), redialLongest)
		lane.again = after(at, lane.pause)
	}
	lane.mu.Unlock()
	if errors.Is(err, errPlain) {
		l.node.logger.Debug("peercache: a peer is asked by plain HTTP for a while", "peer", l.peer, "err", err)
	}
	if s != nil && s.isClosed() {
		l.drop(s) // it did so itself, too early
	}
	for _, q := range waiting {
		switch {
		case s != nil && s.ask(q): // as it was made for
		case s != nil:
			l.end(q, io.EOF)
		case errors.Is(err, errPlain):
			go l.node.askPlain(l, q)
		default:
			l.end(q, err)
		}
	}
}

// connect returns the lane's stream when there is one.
func (l *link) connect(ctx context.Context, lane *lane) (*stream, error) {
	for {
		lane.mu.Lock()
		if s := lane.live.Load(); s != nil {
			lane.mu.Unlock()
			return s, nil
		}
		if err := l.refusedLocked(lane); err != nil {
			lane.mu.Unlock()
			return nil, err
		}
		l.dialLocked(lane)
		dialled := lane.dialled
		lane.mu.Unlock()
		select {
		case <-dialled:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		lane.mu.Lock()
		err := lane.err
		lane.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// transact sends a request that is no inquiry, and returns the answer, or what kept the
// peer from answering. Its breaker learns of success only: nobody chose to ask this peer.
func (l *link) transact(ctx context.Context, req *wire.Request, size int) (*wire.Response, error) {
	lane := l.lane(size > largeValue)
	for again := false; ; again = true {
		s, err := l.connect(ctx, lane)
		var resp *wire.Response
		if err == nil {
			resp, err = s.transact(ctx, req)
		}
		switch {
		case err == nil:
			l.succeeded()
			return resp, statusError(resp.GetStatus(), resp.GetText())
		case errors.Is(err, errPlain):
			return nil, errPlain
		case s != nil && !again && (errors.Is(err, io.EOF) || errors.Is(err, errRetired)):
			// The stream was closed in all order, perhaps before the peer saw the request.
			// All requests may be repeated.
			l.drop(s)
			continue
		}
		return nil, err
	}
}

// succeeded tells the peer's breaker that the peer has answered, whatever it said.
func (l *link) succeeded() {
	// Nearly always there is nothing to tell, and the breakers' mutex is not for every answer.
	if l.troubled.Load() && l.troubled.CompareAndSwap(true, false) {
		l.node.breakers.report(l.peer, nil)
	}
}

// abandoned tells it that this process has ended a request itself.
func (l *link) abandoned() {
	if l.troubled.Load() {
		l.node.breakers.abandon(l.peer)
	}
}

// failed tells it how a request failed. An answer that refuses is one all the same.
func (l *link) failed(err error) {
	_, refused := errors.AsType[*refusedError](err)
	switch {
	case refused:
		l.succeeded()
	case l.node.life.Err() != nil:
		l.abandoned()
	default:
		if errors.Is(err, errSilent) {
			l.node.silences.Add(1)
		}
		if slices.Contains(l.node.audience().peers, l.peer) { // else nobody would ask it, nor close its breaker
			l.node.breakers.report(l.peer, err)
			l.troubled.Store(true) // after the report: a success in between finds nothing to tell, the next one does
		}
	}
}

// admit reports whether the peer's breaker lets a request through.
func (l *link) admit() bool { return !l.troubled.Load() || l.node.breakers.admit(l.peer) }
