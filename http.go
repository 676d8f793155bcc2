package peercache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// The handler, and the traffic between peers as plain HTTP: one POST for each request, a
// frame in, frames out. It is used where connections cannot be upgraded to streams
// (stream.go). What the requests mean is in serve.go, invalidate.go and entering.go.

const (
	// dialTimeout bounds a connection and its handshake. Within a data centre
	// it takes well under a millisecond; 250 ms forgive one lost packet.
	dialTimeout = 250 * time.Millisecond

	// silenceTimeout is how long a peer that was asked may send nothing, and
	// beatInterval how often one that is loading says that it is alive. Three
	// beats fit, so that a lost packet (200 ms until it is sent again) is no
	// death.
	silenceTimeout = 300 * time.Millisecond
	beatInterval   = 100 * time.Millisecond

	// slowestLink is the bytes a second that a large request is allowed for, on
	// top of silenceTimeout (arbitrary: a tenth of a gigabit link).
	slowestLink = 12 << 20

	// bodyTimeout bounds how long a request may take to arrive, and a part of
	// an answer to be taken.
	bodyTimeout = 5 * time.Second

	// maxHandlers bounds the requests of peers that wait for loads at once, and so the
	// loads, and with plain HTTP the goroutines and connections, that peers can tie up.
	maxHandlers = 1024

	// maxInFlight bounds the requests for keys that are under way to one peer.
	maxInFlight = 4096

	// flushBytes is how much of an answer is collected before it is sent.
	flushBytes = 1 << 20
)

var (
	errSilent = errors.New("peercache: the peer was silent for too long")
	errMute   = errors.New("peercache: the peer answered without a word")
	errForged = errors.New("peercache: the answer does not fit the request")

	// errNotMine is a peer that answers, and cannot act for a key: by its ring it
	// may not, it has no such cache, or it has left.
	errNotMine = errors.New("peercache: the peer may not act for the key")

	// errDraining is a peer that has left, which is a way of not being the owner.
	errDraining = fmt.Errorf("%w: it has left", errNotMine)
)

// hello is what this node says of itself in every request and answer.
func (n *Node) hello() *wire.Hello {
	return &wire.Hello{
		Protocol:  wire.Protocol,
		Cluster:   n.opts.Cluster,
		Url:       n.self.url,
		Boot:      n.self.boot,
		Constants: ringConstants(),
		Ring:      n.view().table.Digest(),
	}
}

// check says what forbids to work for a peer that says hello.
func (n *Node) check(h *wire.Hello) (wire.Status, string) {
	switch {
	case h.GetProtocol() != wire.Protocol:
		return wire.Status_WRONG_VERSION, fmt.Sprintf("this node speaks version %d, not %d", wire.Protocol, h.GetProtocol())
	case h.GetCluster() != n.opts.Cluster:
		return wire.Status_WRONG_CLUSTER, fmt.Sprintf("this node is in cluster %q, not %q", n.opts.Cluster, h.GetCluster())
	case h.GetConstants() != ringConstants():
		return wire.Status_WRONG_VERSION, "the constants of the protocol differ"
	default:
		return wire.Status_OK, ""
	}
}

// Handler returns the handler that answers this node's peers, and the pattern to
// mount it at, made of the path of the node's URL:
//
//	mux.Handle(node.Handler())
//
// It takes a single path and no subtree, so that it fits beside any other route.
// Peers have their connections upgraded, so that one carries all their requests:
// the server's timeouts do not concern it then, and it ends with Leave, not with
// http.Server.Shutdown. What is around the handler should let it hijack the
// connection; where that cannot be, each request is a POST of its own, whose answer
// must not be held back, and peers try the upgrade again after a minute.
func (n *Node) Handler() (pattern string, h http.Handler) {
	return "POST " + n.path, http.HandlerFunc(n.serve)
}

// serve answers one request of a peer.
func (n *Node) serve(w http.ResponseWriter, r *http.Request) {
	rw := &responder{w: w, control: http.NewResponseController(w)}
	// Also for what is refused: the server reads on before it answers, and a client
	// that stalls would hold it for ever (TestRefusedRequestThatStallsIsCutOff). A
	// server without deadlines (a test's recorder) has no slow clients.
	_ = rw.control.SetReadDeadline(time.Now().Add(bodyTimeout))
	if status, text := n.refuse(r); status != 0 {
		http.Error(w, text, status)
		return
	}
	if wantsStream(r) {
		n.upgrade(w, r)
		return
	}
	if n.auth != nil {
		w.Header().Set("Connection", "close")
		w.Header().Set("Upgrade", upgradeTo)
		http.Error(w, "this node has a secret and answers upgraded connections only", http.StatusUpgradeRequired)
		return
	}
	defer rw.release()
	var req wire.Request
	if err := rw.read(r.Body, &req); err != nil {
		w.Header().Set("Connection", "close")
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	rw.pending = &wire.Response{Hello: n.hello()}
	w.Header().Set("Content-Type", wire.ContentType)
	w.Header().Set("Cache-Control", "no-store")
	status, text := n.check(req.GetHello())
	if status == wire.Status_OK && n.view().left {
		status, text = wire.Status_DRAINING, "this node has left"
	}
	if status == wire.Status_OK {
		status, text = n.perform(r.Context(), rw, &req)
	}
	rw.pending.Status, rw.pending.Text = status, clip(text)
	rw.flush()
}

// refuse says what about a request is not a peer's. Browsers have no business
// here: they name the site they act for, and a name that was rebound to this
// address shows in the host.
func (n *Node) refuse(r *http.Request) (status int, text string) {
	// Its parameters, of which there may be thousands, mean nothing here.
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	switch {
	case r.Method != http.MethodPost:
		return http.StatusMethodNotAllowed, "POST only"
	case r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "":
		return http.StatusForbidden, "not for browsers"
	case !strings.EqualFold(r.Host, n.host):
		return http.StatusMisdirectedRequest, "another host than this node's URL names"
	case !strings.EqualFold(strings.TrimSpace(mediaType), wire.ContentType):
		return http.StatusUnsupportedMediaType, "the Content-Type must be " + wire.ContentType
	default:
		return 0, ""
	}
}

// perform does what a request asks for and returns the status of the whole.
func (n *Node) perform(ctx context.Context, rw *responder, req *wire.Request) (wire.Status, string) {
	aged, err := agedOf(req)
	if err != nil {
		return wire.Status_BAD_REQUEST, err.Error()
	}
	switch op := req.GetOp().(type) {
	case *wire.Request_Get:
		e := n.cache(req.GetCache())
		if e == nil {
			return wire.Status_UNKNOWN_CACHE, ""
		}
		if len(op.Get.GetKeys()) > wire.MaxKeys {
			return wire.Status_BAD_REQUEST, fmt.Sprintf("more than %d keys", wire.MaxKeys)
		}
		if !n.coherent.caughtUp(aged, req.GetHello().GetUrl()) || !n.coherent.fence.wait(ctx) {
			return wire.Status_BEHIND, ""
		}
		return n.performGet(ctx, rw, e, op.Get), ""
	case *wire.Request_Meet:
		return n.welcome(ctx, rw.beat, req.GetHello())
	default:
		resp := n.coherent.serve(req, aged, req.GetHello().GetUrl())
		resp.Hello = rw.pending.GetHello()
		rw.pending = resp
		return resp.GetStatus(), resp.GetText()
	}
}

// performGet answers what is in memory at once, the rest as its loads end, and
// says that it is alive in between.
func (n *Node) performGet(ctx context.Context, rw *responder, e *engine, get *wire.Get) wire.Status {
	defer n.handlers.Add(-1)
	begun := &begun{}
	if n.handlers.Add(1) > maxHandlers {
		begun = nil // what is in memory is answered all the same
	}
	loads := make(map[int]*flight)
	wanted := demandsOf(get)
	for i, key := range get.GetKeys() {
		a, load := e.answer(wire.String(key), wanted.of(i), begun)
		if load != nil {
			loads[i] = load
			continue
		}
		rw.add(i, a)
	}
	if begun != nil {
		e.run(n.life, *begun) // also if nobody waits for it here
	}
	if len(loads) == 0 {
		return wire.Status_OK
	}
	rw.flush()
	ended := make(endings, len(loads)) // room for all, also if nobody listens any more
	for i, load := range loads {
		load.watch(ended, i)
	}
	beat := time.NewTicker(beatInterval)
	defer beat.Stop()
	for len(loads) > 0 {
		select {
		case i := <-ended:
			rw.add(i, answerOf(loads[i].outcome, now()))
			delete(loads, i)
			if len(ended) == 0 {
				rw.flush()
			}
		case <-beat.C:
			rw.beat()
		case <-ctx.Done():
			return wire.Status_OK // nobody listens
		case <-n.life.Done():
			return wire.Status_DRAINING
		}
	}
	return wire.Status_OK
}

// A responder reads a request and writes the frames of its answer.
type responder struct {
	w       http.ResponseWriter
	control *http.ResponseController
	pending *wire.Response // not sent yet
	size    int            // bytes of values in it
	buf     []byte
	failed  bool
}

// read reads the one frame of a request.
func (rw *responder) read(body io.ReadCloser, req *wire.Request) error {
	frames := wire.NewReader(http.MaxBytesReader(rw.w, body, wire.MaxFrame+16))
	b, err := frames.Next()
	if err != nil {
		return fmt.Errorf("peercache: reading the request: %w", err)
	}
	if err := wire.Unmarshal(b, req); err != nil {
		return err
	}
	if _, err := frames.Next(); !errors.Is(err, io.EOF) {
		return errors.New("peercache: more than one frame in a request")
	}
	// Not after an error: the server reads on then too (TestStalledRequestIsCutOff).
	_ = rw.control.SetReadDeadline(time.Time{})
	return nil
}

// add puts the answer to a key into the next frame.
func (rw *responder) add(i int, a answer) {
	if rw.size += len(a.value); rw.size > flushBytes && len(rw.pending.GetAnswers()) > 0 {
		rw.flush()
		rw.size = len(a.value)
	}
	rw.pending.Answers = append(rw.pending.Answers, &wire.Answer{
		Index:  uint32(i),
		Status: a.status,
		Value:  wire.Bytes(a.value),
		TtlMs:  uint64(a.ttl / time.Millisecond),
		Text:   a.text,
		Hot:    a.hot,
	})
}

// flush sends what there is.
func (rw *responder) flush() {
	buf, err := wire.AppendFrame(rw.buf[:0], rw.pending)
	if err != nil {
		rw.failed = true
		return
	}
	rw.buf = buf
	rw.pending, rw.size = &wire.Response{}, 0
	rw.send(buf)
}

func (rw *responder) beat() { rw.send(wire.Heartbeat) }

func (rw *responder) send(b []byte) {
	if rw.failed {
		return
	}
	_ = rw.control.SetWriteDeadline(time.Now().Add(bodyTimeout))
	if _, err := rw.w.Write(b); err != nil {
		rw.failed = true
		return
	}
	// A writer that cannot flush, such as http.TimeoutHandler's, sends all at the end.
	err := rw.control.Flush()
	rw.failed = err != nil && !errors.Is(err, http.ErrNotSupported)
}

// release takes the deadlines back, for the connection may serve others next.
func (rw *responder) release() { _ = rw.control.SetWriteDeadline(time.Time{}) }

// transit is how long a request of so many bytes may take on its way.
func transit(bytes int) time.Duration { return time.Duration(bytes) * time.Second / slowestLink }

// exchange sends a peer a request by plain HTTP and gives its responses to each, which
// may refuse one. The error is nil if the peer finished its answer. The peer's breaker
// learns of it.
func (n *Node) exchange(ctx context.Context, l *link, req *wire.Request, each func(*wire.Response) error) error {
	err := n.converse(ctx, l.peer, req, each)
	if err != nil && ctx.Err() != nil {
		l.abandoned()
		return err
	}
	if err != nil {
		l.failed(err)
	} else {
		l.succeeded()
	}
	return err
}

func (n *Node) converse(ctx context.Context, peer string, req *wire.Request, each func(*wire.Response) error) error {
	if req.Hello == nil {
		req.Hello = n.hello()
	}
	if req.Aged == nil {
		aged, _ := n.coherent.ledger.aged()
		req.Aged = aged.toWire()
	}
	frame, err := wire.AppendFrame(nil, req)
	if err != nil {
		return err
	}
	if n.life.Err() != nil {
		return errLeft // before a connection is made that nobody would close
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(n.life, func() { cancel(errLeft) })()

	// Connecting, with its handshake, has its time, and silence counts from when
	// there is a connection. A transport that does not tell has both together.
	patience := silenceTimeout + transit(len(frame))
	silence := time.AfterFunc(dialTimeout+patience, func() { cancel(errSilent) })
	defer silence.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { silence.Reset(dialTimeout) },
		GotConn: func(httptrace.GotConnInfo) { silence.Reset(patience) },
	})
	answered := false
	err = n.post(ctx, peer, frame, silence, func(b []byte) error {
		if len(b) == 0 {
			return nil // a heartbeat
		}
		answered = true
		var resp wire.Response
		if err := wire.Unmarshal(b, &resp); err != nil {
			return err
		}
		return each(&resp)
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil && !answered {
		return errMute
	}
	return err
}

// A listener reads what a peer sends while its silence is timed: only the waits
// for its bytes count, neither how many of them a frame has nor what is done with
// it.
type listener struct {
	r       io.Reader
	silence *time.Timer
}

func (l listener) Read(p []byte) (int, error) {
	l.silence.Reset(silenceTimeout)
	n, err := l.r.Read(p)
	l.silence.Stop()
	return n, err
}

// A refusedError is a peer's answer that it will not do what it was asked.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// post sends one frame and gives those of the answer to each.
func (n *Node) post(ctx context.Context, peer string, frame []byte, silence *time.Timer, each func([]byte) error) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, peer+"/_peercache/v1", bytes.NewReader(frame))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", wire.ContentType)
	// All requests may be repeated. Saying so, without sending it, lets the
	// transport try again by itself where an idle connection turns out closed.
	r.Header["Idempotency-Key"] = nil
	resp, err := n.transport.RoundTrip(r) // no client: no redirects, no cookies
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, wire.MaxText))
		return fmt.Errorf("peercache: peer answers %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	for frames := wire.NewReader(listener{resp.Body, silence}); ; {
		b, err := frames.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = each(b)
		}
		if err != nil {
			return err
		}
	}
}

// statusError is a request that was refused as a whole, nil for one that was not.
func statusError(status wire.Status, text string) error {
	switch status {
	case wire.Status_OK:
		return nil
	case wire.Status_NOT_MINE, wire.Status_UNKNOWN_CACHE:
		return &refusedError{errNotMine}
	case wire.Status_DRAINING:
		return &refusedError{errDraining}
	default:
		_, err := errorOf(status, text)
		return &refusedError{err}
	}
}

// askPlain sends an inquiry by plain HTTP and waits for its end.
func (n *Node) askPlain(l *link, q *inquiry) {
	defer l.flying.Add(-1)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.ctx), q.patience())
	defer cancel()
	q.begin(cancel)
	req := q.request()
	err := n.exchange(ctx, l, req, func(resp *wire.Response) error {
		for _, a := range resp.GetAnswers() {
			if int64(a.GetIndex()) >= int64(len(q.flights)) || len(a.GetValue()) > wire.MaxValue {
				return errForged
			}
			q.answer(keyAnswer{int(a.GetIndex()), answer{
				status: a.GetStatus(),
				value:  wire.String(a.GetValue()),
				ttl:    millis(a.GetTtlMs()),
				text:   a.GetText(),
				hot:    a.GetHot(),
				came:   now(),
			}})
		}
		return statusError(resp.GetStatus(), resp.GetText())
	})
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = errOverdue
	}
	q.end(err)
}

// millis is a duration a peer sent, which may be any number.
func millis(n uint64) time.Duration {
	const most = 1<<63 - 1
	if n > most/uint64(time.Millisecond) {
		return most
	}
	return time.Duration(n) * time.Millisecond
}
