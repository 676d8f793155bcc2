package peercache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// The end of a stream that answers. What is in memory is answered by the goroutine that
// reads requests; as long as a peer does not take its answers, its requests are not read,
// and TCP tells it so. Answers that had to be loaded are queued by whoever ended the load,
// who never waits for a peer.

// wantsStream reports whether a request asks for the connection to be upgraded.
func wantsStream(r *http.Request) bool {
	if r.Header.Get("Upgrade") != upgradeTo {
		return false
	}
	for _, line := range r.Header.Values("Connection") {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return true
			}
		}
	}
	return false
}

// upgrade turns the connection of a request into a stream. If that cannot be, the answer
// is an HTTP status, after which the peer uses plain HTTP.
func (n *Node) upgrade(w http.ResponseWriter, r *http.Request) {
	if n.life.Err() != nil {
		http.Error(w, errLeft.Error(), http.StatusServiceUnavailable)
		return
	}
	secret, ok := n.chooseSecret(r)
	if !ok {
		w.Header().Set(secretHeader, secretAnother)
		http.Error(w, "this node has another secret, or one of the two has none", http.StatusForbidden)
		return
	}
	conn, rest, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "the connection cannot be upgraded here: "+err.Error(), http.StatusNotImplemented)
		return
	}
	_ = conn.SetDeadline(time.Time{}) // the server's
	_ = conn.SetWriteDeadline(time.Now().Add(bodyTimeout))
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeTo+"\r\n"+secretChosen(secret)+"\r\n")
	if err != nil {
		_ = conn.Close()
		return
	}
	early, _ := rest.Peek(rest.Reader.Buffered())
	s := &service{node: n, conn: conn, large: r.Header.Get(laneHeader) == laneLarge, peer: r.RemoteAddr}
	s.w = conn
	s.readSet = now()
	s.writeSet = s.readSet
	s.in.r, s.src = s, conn
	if len(early) > 0 {
		s.src = io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn)
	}
	if n.auth != nil {
		if err := s.secure(secret); err != nil { // which is an id that this node does not know
			_ = conn.Close()
			return
		}
	}
	if !n.background(s.run) { // and the request's memory is freed
		_ = conn.Close()
	}
}

// A service is this node's end of a connection from one peer.
type service struct {
	writer
	node   *Node
	conn   net.Conn
	peer   string // its address
	hello  *wire.Hello
	tls    *securedConn // conn, with a secret
	proven string       // the peer's URL by its certificate; "" without a secret
	large  bool         // for values that would hold up small ones
	in     inbox
	src    io.Reader       // of the inbox, below the deadlines
	ended  context.Context // with the stream, for what is done on a goroutine

	// Of the reading goroutine.
	get     getRequest
	last    *engine // whose name the last request had
	aged    ids     // what this node must have applied to answer
	behind  bool    // it had not when it was last looked at
	begun   bool    // the read deadline is that of a request that has begun to arrive
	readSet int64   // when it was last set to that of an idle stream

	// Guarded by the writer's mutex.

	working  map[uint64]struct{} // requests that wait for loads
	beating  bool                // the timer of heartbeats is armed
	writeSet int64               // when the write deadline was last set
	room     chan struct{}       // closed after the next write; nil if nobody waits for it
	closed   bool
}

// run serves the stream until it ends.
func (s *service) run() {
	ctx, cancel := context.WithCancel(s.node.life)
	defer cancel()
	s.ended = ctx
	defer context.AfterFunc(s.node.life, s.sayGoodbye)()
	err := s.shake()
	if err == nil {
		err = s.introduce()
	}
	for err == nil {
		err = s.serveNext()
	}
	if errors.Is(err, errMalformed) {
		s.node.metRubbish(s.peer, err)
	}
	s.close()
}

// introduce answers the peer's hello, and refuses whom it forbids to work for.
func (s *service) introduce() error {
	s.begun = true // all of the time is for the hello
	_ = s.conn.SetReadDeadline(time.Now().Add(bodyTimeout))
	frame, _, err := s.in.next()
	if err != nil {
		return err
	}
	var req wire.Request
	if err := wire.Unmarshal(frame, &req); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	s.hello = req.GetHello()
	status, text := s.node.check(s.hello)
	if s.proven != "" && s.hello.GetUrl() != s.proven {
		status, text = wire.Status_BAD_REQUEST, "the hello is another node's than the certificate"
	}
	s.send(&wire.Response{Hello: s.node.hello(), Status: status, Text: clip(text)})
	s.flush()
	if status != wire.Status_OK {
		return errNotMine // it has been told why
	}
	return nil
}

// Read reads for the inbox. The peer has time at leisure for its next request, and to
// finish one that it has begun no more than bodyTimeout.
func (s *service) Read(b []byte) (int, error) {
	switch at := now(); {
	case !s.in.partial() && s.hello != nil:
		if s.begun || time.Duration(at-s.readSet) > streamIdleServer/15 { // else it is not worth the call
			s.begun, s.readSet = false, at
			_ = s.conn.SetReadDeadline(time.Now().Add(streamIdleServer))
		}
	case !s.begun:
		s.begun = true
		_ = s.conn.SetReadDeadline(time.Now().Add(bodyTimeout))
	}
	return s.src.Read(b)
}

// serveNext serves the next request.
func (s *service) serveNext() error {
	if !s.in.ready() {
		s.flush()
	}
	frame, _, err := s.in.next()
	if s.begun {
		s.begun, s.readSet = false, now()
		_ = s.conn.SetReadDeadline(time.Now().Add(streamIdleServer))
	}
	if err != nil {
		return err
	}
	if s.get.parse(frame) {
		s.serveGet(s.get.id, s.engine(s.get.cache), s.get.keys, demands{held: s.get.held})
		return nil
	}
	var req wire.Request
	if err := wire.Unmarshal(frame, &req); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	if req.GetAged() != nil {
		if s.aged, err = agedOf(&req); err != nil {
			return err
		}
		if s.behind = !s.node.coherent.ledger.covers(s.aged); s.behind {
			s.node.coherent.catch.behind(s.hello.GetUrl())
		}
	}
	switch op := req.GetOp().(type) {
	case nil:
		if req.GetId() != 0 { // else it is what this node must have applied
			s.send(&wire.Response{Id: req.GetId(), Status: wire.Status_BAD_REQUEST, Text: "this node does not know what is asked"})
		}
	case *wire.Request_Get:
		if len(op.Get.GetKeys()) > wire.MaxKeys {
			s.send(&wire.Response{Id: req.GetId(), Status: wire.Status_BAD_REQUEST, Text: fmt.Sprintf("more than %d keys", wire.MaxKeys)})
			return nil
		}
		s.serveGet(req.GetId(), s.node.cache(req.GetCache()), op.Get.GetKeys(), demandsOf(op.Get))
	case *wire.Request_Meet:
		s.meet(req.GetId())
	default:
		s.send(s.node.coherent.serve(&req, s.aged, s.hello.GetUrl()))
	}
	return nil
}

// engine returns the cache of that name, nil if there is none.
func (s *service) engine(name []byte) *engine {
	if s.last == nil || s.last.name != string(name) || s.last.closed.Load() {
		s.last = s.node.cache(string(name))
	}
	return s.last
}

// serveGet answers what is in memory and has the rest answered as its loads end.
func (s *service) serveGet(id uint64, e *engine, keys [][]byte, wanted demands) {
	if e == nil {
		s.send(&wire.Response{Id: id, Status: wire.Status_UNKNOWN_CACHE})
		return
	}
	if s.behind { // once it is not it is so until the peer says more
		s.behind = !s.node.coherent.ledger.covers(s.aged)
	}
	switch {
	case s.behind:
		s.send(&wire.Response{Id: id, Status: wire.Status_BEHIND})
	case s.node.coherent.fence.isUp():
		s.hold(id, e, keys, wanted)
	default:
		s.answerGet(id, e, keys, wanted)
	}
}

func (s *service) answerGet(id uint64, e *engine, keys [][]byte, wanted demands) {
	begunLoads := &begun{}
	if s.node.handlers.Load() >= maxHandlers {
		begunLoads = nil // what is in memory is answered all the same
	}
	var p *pendingGet
	for i, k := range keys {
		a, load := e.answer(wire.String(k), wanted.of(i), begunLoads)
		if load != nil {
			if p == nil {
				p = &pendingGet{service: s, engine: e, id: id}
				s.node.handlers.Add(1)
			}
			p.loads = append(p.loads, pendingLoad{load, i})
			continue
		}
		if len(a.value) > largeValue && !s.large {
			a = answer{status: wire.Status_LARGE}
		}
		s.mu.Lock()
		s.out.answer(id, i, a)
		full := s.out.size >= inboxMost
		s.mu.Unlock()
		if full {
			s.flush()
		}
	}
	if begunLoads != nil && len(begunLoads.loads) > 0 {
		e.run(s.node.life, *begunLoads) // also if nobody waits for it here
	}
	if p != nil {
		p.await()
	}
}

// meet answers a Meet, on a goroutine of its own: it may have to dial.
func (s *service) meet(id uint64) {
	s.work(id)
	served := s.node.background(func() {
		status, text := s.node.welcome(s.ended, func() {}, s.hello)
		s.finish(&wire.Response{Id: id, Status: status, Text: clip(text)})
	})
	if !served {
		s.finish(&wire.Response{Id: id, Status: wire.Status_DRAINING})
	}
}

// finish sends the response to a request that was worked on.
func (s *service) finish(resp *wire.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.working, resp.GetId())
	s.queueLocked(resp)
	s.drainLocked()
}

// send queues a response.
func (s *service) send(resp *wire.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queueLocked(resp)
}

func (s *service) queueLocked(resp *wire.Response) {
	if frame, err := wire.AppendFrame(nil, resp); err == nil { // none is over the limit
		s.out.append(frame)
	}
}

// flush writes what is queued. If somebody else does, it waits only where there is more
// than should be.
func (s *service) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing && s.out.size >= inboxMost && s.broken == nil {
		s.awaitRoomLocked()
	}
	if !s.writing {
		s.writing = true
		s.writeAllLocked()
	}
}

// awaitRoomLocked waits for the end of the write that is under way.
func (s *service) awaitRoomLocked() {
	if s.room == nil {
		s.room = make(chan struct{})
	}
	room := s.room
	s.mu.Unlock()
	<-room
	s.mu.Lock()
}

func (s *service) makeRoomLocked() {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
}

// drainLocked has what is queued written by a goroutine of its own, unless somebody does.
func (s *service) drainLocked() {
	if s.writing || s.broken != nil {
		return
	}
	s.writing = true
	go func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.writeAllLocked()
	}()
}

// writeAllLocked writes until nothing is queued, for the one that has set writing.
func (s *service) writeAllLocked() {
	for s.broken == nil && !s.out.empty() {
		if at := now(); time.Duration(at-s.writeSet) > bodyTimeout/5 {
			s.writeSet = at
			_ = s.conn.SetWriteDeadline(time.Now().Add(bodyTimeout * 6 / 5))
		}
		s.writeQueuedLocked()
		s.makeRoomLocked()
	}
	s.writing = false
	if s.broken != nil {
		s.out.reset()
		s.makeRoomLocked()
		_ = s.conn.Close() // which ends the reading goroutine
	}
}

// sayGoodbye ends the stream because the node has left: what is answered goes out, what
// is still worked on is answered that it will not be, and the peer asks somebody else.
func (s *service) sayGoodbye() {
	s.mu.Lock()
	for id := range s.working {
		s.queueLocked(&wire.Response{Id: id, Status: wire.Status_DRAINING})
	}
	clear(s.working)
	_ = s.conn.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	s.writeSet = now()
	for s.writing && s.broken == nil {
		s.awaitRoomLocked()
	}
	s.writing = true
	s.writeAllLocked()
	s.mu.Unlock()
	_ = s.conn.Close()
}

// goodbyeTimeout is how long a node that leaves lets a peer take what is queued for it:
// less than anybody notices.
const goodbyeTimeout = 20 * time.Millisecond

// close ends the stream.
func (s *service) close() {
	s.mu.Lock()
	s.closed = true
	if s.broken == nil {
		s.broken = net.ErrClosed
	}
	s.makeRoomLocked()
	s.mu.Unlock()
	_ = s.conn.Close()
}
