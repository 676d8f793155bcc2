package peercache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// What is asked of one peer, and what its answers do to the flights that wait for them.

// errOverdue ends an inquiry that a peer has worked on for longer than a load may take.
var errOverdue = errors.New("peercache: the peer takes longer than a load may")

// An answer is what a peer says to one key. A message of two bytes a key has a thousand made
// of it, so that its size counts.
type answer struct {
	status wire.Status
	hot    bool // so many ask for the key that replicas are to be asked too
	value  string
	ttl    time.Duration // life that remains, in whole milliseconds; 0: not to be kept
	text   string        // of an error
	came   int64         // when it came, from when its life counts
}

// A keyAnswer is an answer to the i-th key of a request.
type keyAnswer struct {
	i int
	answer
}

// An inquiry is a request to one peer for the values of keys, and the state of their
// fetch flights meanwhile. The network calls answer and then, once, end; never two of
// them at a time. Neither runs code of the user, nor waits.
type inquiry struct {
	engine  *engine
	peer    string
	flights []*flight       // by the index of the key
	ctx     context.Context // whose values a load would see that it comes to; it ends nothing
	large   bool            // for a value that the peer has and called large
	held    bool            // for what the peer has in memory only
	parent  *inquiry        // whose answer that was
	done    chan struct{}   // closed at the end, for a goroutine that walks on; else nil

	err  error        // how it ended
	open atomic.Int32 // what has to end: the request, the decoding, the inquiries for large values

	answered []bool // nil for a single key
	first    bool   // its answered
	one      [1]*flight

	mu        sync.Mutex // guards the fields below
	failed    []int      // answers that were of no use
	undecoded []keyAnswer
	decoding  bool
}

// newInquiry returns an inquiry. It takes flights over.
func (e *engine) newInquiry(ctx context.Context, peer string, flights []*flight) *inquiry {
	q := &inquiry{engine: e, peer: peer, ctx: ctx, flights: flights, answered: make([]bool, len(flights))}
	return q.sent()
}

// newInquiryOf returns an inquiry for a single key.
func (e *engine) newInquiryOf(ctx context.Context, peer string, f *flight) *inquiry {
	q := &inquiry{engine: e, peer: peer, ctx: ctx}
	q.one[0] = f
	q.flights = q.one[:]
	return q.sent()
}

func (q *inquiry) sent() *inquiry {
	q.open.Store(1)
	for _, f := range q.flights {
		f.shard.peerGets.Add(1)
	}
	return q
}

func (q *inquiry) key(i int) string { return q.flights[i].key }

// request is the inquiry as it travels.
func (q *inquiry) request() *wire.Request {
	get := &wire.Get{Keys: make([][]byte, len(q.flights)), Held: q.held}
	for i, f := range q.flights {
		get.Keys[i] = wire.Bytes(f.key)
		if len(f.need) > 0 {
			get.Needs = append(get.Needs, &wire.Need{Index: uint32(i), Ids: f.need.toWire()})
		}
	}
	return &wire.Request{Cache: q.engine.name, Op: &wire.Request_Get{Get: get}}
}

// needs reports whether the peer must have applied something to one of the keys.
func (q *inquiry) needs() bool {
	return slices.ContainsFunc(q.flights, func(f *flight) bool { return len(f.need) > 0 })
}

// patience is how long the inquiry may take while the peer is known to work on it.
func (q *inquiry) patience() time.Duration {
	return time.Duration(after(int64(q.engine.opts.LoadTimeout), fetchMargin))
}

// begin gives the flights the function that ends the inquiry, for a carrier that has one.
func (q *inquiry) begin(cancel func()) {
	for _, f := range q.flights {
		q.engine.store.begin(f, cancel)
	}
}

// mark notes that the i-th key is answered, and reports whether it was not before.
func (q *inquiry) mark(i int) bool {
	seen := &q.first
	if q.answered != nil {
		seen = &q.answered[i]
	}
	was := *seen
	*seen = true
	return !was
}

func (q *inquiry) marked(i int) bool {
	if q.answered != nil {
		return q.answered[i]
	}
	return q.first
}

// answer takes the answer to one key. Its value is the inquiry's from here on.
func (q *inquiry) answer(a keyAnswer) {
	if !q.mark(a.i) {
		return
	}
	e, f := q.engine, q.flights[a.i]
	if a.hot {
		e.hot.learn(f.key)
	}
	switch {
	case a.status == wire.Status_LARGE && !q.large:
		q.askLarge(a.i)
	case a.status == wire.Status_OK && e.decode != nil:
		q.decode(a)
	case !e.accept(f, q.peer, a.answer):
		q.fail(a.i)
	}
}

// fail notes that the answer to a key was of no use.
func (q *inquiry) fail(i int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failed = append(q.failed, i)
}

// askLarge asks the same peer for the value of a key again, in the way of large ones.
func (q *inquiry) askLarge(i int) {
	child := q.engine.newInquiryOf(q.ctx, q.peer, q.flights[i])
	child.large, child.held, child.parent = true, q.held, q
	child.flights[0].shard.peerGets.Add(-1) // it is one fetch
	q.open.Add(1)
	q.engine.node.ask(q.peer, child)
}

// decode has an answer decoded: by a goroutine of its own, since the codec is the user's
// code and may take its time, block or end the goroutine.
func (q *inquiry) decode(a keyAnswer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.undecoded = append(q.undecoded, a)
	if !q.decoding {
		q.decoding = true
		q.open.Add(1)
		go q.decodeAll()
	}
}

// decodeAll decodes, one after the other, what there is to decode.
func (q *inquiry) decodeAll() {
	defer q.release()
	for {
		q.mu.Lock()
		if len(q.undecoded) == 0 {
			q.decoding = false
			q.mu.Unlock()
			return
		}
		todo := q.undecoded
		q.undecoded = nil
		q.mu.Unlock()
		for _, a := range todo {
			if !q.engine.acceptDecoded(q.flights[a.i], q.peer, a.answer) {
				q.fail(a.i)
			}
		}
	}
}

// end tells that no more answers come, and why: nil if the peer has finished, errOverdue
// if it was heard from all the time and the time for a load is over.
func (q *inquiry) end(err error) {
	q.err = err
	q.release()
}

// release ends the inquiry if nothing is under way for it any more.
func (q *inquiry) release() {
	if q.open.Add(-1) > 0 {
		return
	}
	if q.parent != nil {
		if len(q.failed) > 0 || !q.marked(0) {
			q.parent.fail(slices.Index(q.parent.flights, q.flights[0]))
		}
		q.parent.release()
		return
	}
	if q.done != nil {
		close(q.done)
		return
	}
	if left := q.unanswered(); len(left) > 0 {
		tried := q.peer
		if q.held {
			tried = "" // it was asked beside the owners, for less
		}
		go q.engine.fetch(q.ctx, tried, left)
	}
}

// unanswered returns the flights that the peer was of no use to, and ends those for
// which nobody else would be. Nothing is under way for the inquiry any more.
func (q *inquiry) unanswered() (left []*flight) {
	for i, f := range q.flights {
		if q.marked(i) && !slices.Contains(q.failed, i) {
			continue
		}
		f.shard.peerErrors.Add(1)
		if errors.Is(q.err, errOverdue) {
			// It was heard from all the time, or it would have been given up long
			// ago: another node's loader would fare no better.
			q.engine.store.end(f, outcome{peer: q.peer, err: &PeerError{Peer: q.peer, Key: f.key, Err: context.DeadlineExceeded}})
			continue
		}
		left = append(left, f)
	}
	return left
}

// accept ends a flight with a peer's answer, if that is of use. It runs where answers
// are read, and no code of the user's.
func (e *engine) accept(f *flight, peer string, a answer) bool {
	out := e.outcomeOf(peer, a)
	if a.status == wire.Status_OK {
		out.item.bytes, out.item.size = a.value, uint32(len(a.value))
		e.store.end(f, out)
		return true
	}
	final, err := errorOf(a.status, a.text)
	if !final {
		return false
	}
	out.err = err
	out.item.absent = errors.Is(err, ErrNotFound)
	if !out.item.absent {
		out.err = &PeerError{Peer: peer, Key: f.key, Err: err}
	}
	e.store.end(f, out)
	return true
}

// acceptDecoded ends a flight with a value of a peer, if that can be decoded. The codec
// is the user's code.
func (e *engine) acceptDecoded(f *flight, peer string, a answer) bool {
	ended := false
	defer func() {
		if !ended { // the codec has ended the goroutine
			e.store.end(f, outcome{err: &PanicError{Value: errGoexit}})
		}
	}()
	out := e.outcomeOf(peer, a)
	out.item.bytes, out.item.size = a.value, uint32(len(a.value))
	out.item.decoded = new(decoded)
	out.item.inflated = true
	_, err := out.item.decoded.get(a.value, e.decode)
	ended = true
	if err == nil {
		e.store.end(f, out)
		return true
	}
	if e.undecodable.now() {
		e.node.log().Warn("peercache: a peer's values cannot be decoded; do both encode them alike?",
			"cache", e.name, "peer", peer, "err", err)
	}
	return false
}

// outcomeOf is what is common to all outcomes that come from a peer.
func (e *engine) outcomeOf(peer string, a answer) outcome {
	out := outcome{peer: peer}
	out.item.expires = after(a.came, min(a.ttl, e.opts.MaxTTL))
	out.item.fleeting = a.ttl <= 0 || e.opts.HotTTL < 0
	out.item.asCopy(after(a.came, max(e.opts.HotTTL, 0)))
	return out
}
