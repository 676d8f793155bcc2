package peercache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"

	"github.com/peercache/peercache/internal/wire"
)

// How a stream is made: a connection, the upgrade, the hellos.

// errPlain says that a peer is to be asked by plain HTTP.
var errPlain = errors.New("peercache: the peer is asked by plain HTTP")

// dial makes a stream, with a handshake and within dialTimeout. It returns what the peer
// said of itself too. The error is or wraps errPlain if the peer, or what stands before
// it, gave an HTTP answer that refuses the upgrade.
func (l *link) dial(hello *wire.Hello, large bool) (*stream, *wire.Response, error) {
	ctx, cancel := context.WithTimeoutCause(l.node.life, dialTimeout, errSilent)
	defer cancel()
	body, conn, err := l.upgrade(ctx, large)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else {
			err = l.node.barred(l.peer, err)
		}
		if l.node.life.Err() != nil {
			err = errLeft
		}
		return nil, nil, err
	}
	s := newStream(l, body, conn)
	unwatch := context.AfterFunc(ctx, s.cut)
	resp, err := s.introduce(hello)
	if !unwatch() {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = statusError(resp.GetStatus(), resp.GetText())
	}
	if err != nil {
		s.cut()
		return nil, resp, err
	}
	return s, resp, nil
}

// upgrade makes a connection that carries frames, and returns it as the HTTP transport
// gives it out, and what is below if the transport tells.
func (l *link) upgrade(ctx context.Context, large bool) (body io.ReadWriteCloser, conn net.Conn, err error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn },
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.peer+"/_peercache/v1", http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Content-Type", wire.ContentType)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", upgradeTo)
	if large {
		r.Header.Set(laneHeader, laneLarge)
	}
	l.node.offerSecrets(r.Header)
	r.Header["Idempotency-Key"] = nil // see post
	resp, err := l.node.transport.RoundTrip(r)
	if err != nil {
		return nil, nil, err
	}
	body, writable := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !writable {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, wire.MaxText))
		resp.Body.Close()
		if resp.Header.Get(secretHeader) == secretAnother {
			return nil, nil, fmt.Errorf("%w: it answers the upgrade %s", errStranger, resp.Status)
		}
		return nil, nil, fmt.Errorf("%w: it answers the upgrade %s: %s", errPlain, resp.Status, bytes.TrimSpace(text))
	}
	if l.node.auth == nil {
		return body, conn, nil
	}
	secured, err := l.node.secure(ctx, l.peer, resp.Header, &rawConn{Conn: conn, r: body, w: body, c: body})
	if err != nil {
		_ = body.Close()
		return nil, nil, err
	}
	return secured, secured, nil
}

// introduce says hello and waits for the peer's. Nothing else is on the stream yet.
func (s *stream) introduce(hello *wire.Hello) (*wire.Response, error) {
	frame, err := wire.AppendFrame(nil, &wire.Request{Hello: hello})
	if err != nil {
		return nil, err
	}
	if _, err := s.body.Write(frame); err != nil {
		return nil, err
	}
	b, _, err := s.in.next()
	if err != nil {
		return nil, err
	}
	resp := new(wire.Response)
	return resp, wire.Unmarshal(b, resp)
}
