package peercache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Streams of nodes that have a secret: the request to upgrade lists the ids of the
// secrets that the asker knows, the answer says which is used, and then TLS runs inside
// the connection, with certificates that only who knows that secret can have (auth.go).
// There is no plain HTTP beside it, neither way.

const (
	secretsHeader = "Peercache-Secrets" // the ids that the asker knows, separated by commas
	secretHeader  = "Peercache-Secret"  // the one that the other side has chosen
	secretAnother = "another"           // in its place: there is none that both know

	// handshakeTimeout is how long a peer may take for its part of the handshake. Who
	// asks gives all of it dialTimeout; a stranger shall hold a connection for no longer.
	handshakeTimeout = time.Second
)

// errStranger is a peer that does not know this node's secret, or is not who it should be.
var errStranger = errors.New("peercache: the peer has another secret, or none, or is another node")

// offerSecrets lists the secrets that this node knows.
func (n *Node) offerSecrets(h http.Header) {
	if n.auth != nil {
		h.Set(secretsHeader, strings.Join(n.auth.ids(), ","))
	}
}

// chooseSecret returns the id of the secret to use with the one who asks, "" if this
// node has none. It reports false if they share none.
func (n *Node) chooseSecret(r *http.Request) (id string, ok bool) {
	if n.auth == nil {
		return "", r.Header.Get(secretsHeader) == "" // who has one would not talk to this node anyway
	}
	// At most two are offered. Nobody is known yet: whoever sends a thousand commas shall
	// not have them all split.
	return n.auth.choose(strings.SplitN(r.Header.Get(secretsHeader), ",", 3))
}

// secretChosen is the line of the answer that says so.
func secretChosen(id string) string {
	if id == "" {
		return ""
	}
	return secretHeader + ": " + id + "\r\n"
}

// secure has TLS run on a connection to a peer, under the secret that it chose.
func (n *Node) secure(ctx context.Context, peer string, h http.Header, raw *rawConn) (*securedConn, error) {
	config, err := n.auth.clientConfig(h.Get(secretHeader), peer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStranger, err)
	}
	secured := &securedConn{tls.Client(raw, config), raw}
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errStranger, err)
	}
	return secured, nil
}

// barred says what a refused upgrade means where secrets are involved: there is no other
// way to the peer. A node without one must not turn to plain HTTP either, which the peer
// would refuse when it has read the keys, and whoever listens with it. People are told,
// for nothing but they can change it.
func (n *Node) barred(peer string, err error) error {
	switch {
	case errors.Is(err, errStranger):
		if n.strangerMet.now() {
			n.logger.Warn("peercache: a peer is not let in, nor asked: set the same NodeOptions.Secret everywhere", "peer", peer, "err", err)
		}
	case n.auth == nil:
		return err
	case errors.Is(err, errPlain):
		err = fmt.Errorf("peercache: no upgraded connection, which a node with a Secret needs: %v", err) //nolint:errorlint // plain HTTP is what it must not mean
		if n.barrierMet.now() {
			n.logger.Warn("peercache: a peer cannot be asked: it has another secret, or a proxy before it refuses to upgrade connections", "peer", peer, "err", err)
		}
	}
	return err
}

// A rawConn is what TLS runs on: bytes, and the deadlines of the connection below, if
// that is known.
type rawConn struct {
	net.Conn
	r       io.Reader // may have bytes that were read before
	w       io.Writer
	c       io.Closer
	closing atomic.Bool
}

func (c *rawConn) Read(b []byte) (int, error)  { return c.r.Read(b) }
func (c *rawConn) Write(b []byte) (int, error) { return c.w.Write(b) }
func (c *rawConn) Close() error                { return c.c.Close() }

func (c *rawConn) SetDeadline(t time.Time) error {
	if c.Conn == nil {
		return nil
	}
	return c.Conn.SetDeadline(t)
}

func (c *rawConn) SetReadDeadline(t time.Time) error {
	if c.Conn == nil {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *rawConn) SetWriteDeadline(t time.Time) error {
	if c.Conn == nil {
		return nil
	}
	// TLS takes five seconds to say goodbye to a peer that reads nothing.
	if last := time.Now().Add(goodbyeTimeout); c.closing.Load() && t.After(last) {
		t = last
	}
	return c.Conn.SetWriteDeadline(t)
}

// A securedConn is a TLS connection that does not wait to be closed.
type securedConn struct {
	*tls.Conn
	raw *rawConn
}

func (c *securedConn) Close() error {
	c.raw.closing.Store(true)
	return c.Conn.Close()
}

// secure has TLS run on the connection, once shake is called.
func (s *service) secure(id string) error {
	config, err := s.node.auth.serverConfig(id)
	if err != nil {
		return err
	}
	raw := &rawConn{Conn: s.conn, r: s.src, w: s.conn, c: s.conn}
	s.tls = &securedConn{tls.Server(raw, config), raw}
	s.conn, s.w, s.src = s.tls, s.tls, s.tls
	return nil
}

// shake does the handshake, if there is one, and learns who the peer is.
func (s *service) shake() error {
	if s.tls == nil {
		return nil
	}
	_ = s.tls.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := s.tls.HandshakeContext(s.ended); err != nil {
		return err
	}
	_ = s.tls.SetDeadline(time.Time{})
	_ = s.tls.SetWriteDeadline(time.Now().Add(bodyTimeout))
	url, err := peerURL(s.tls.ConnectionState())
	s.proven = url
	return err
}
