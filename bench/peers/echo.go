package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"runtime"
	"sync"
)

// The least that a fetch can cost: requests and answers as frames over one TCP
// connection, numbered so that all callers can share it, and collected so that many
// travel with one write. Nothing is looked up and nobody can cancel.
//
// A request is the number of the call (4 bytes), the length of the key (2) and the
// key; an answer is the number, the length of the value (4) and the value. Numbers
// are big-endian.

const (
	requestHead = 6
	answerHead  = 8

	// echoBuffer is how much is read and written at once.
	echoBuffer = 64 << 10
)

func serveEcho(ctx context.Context, j job) (*server, error) {
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	return serveFrames(l, j), nil
}

func serveEchoTLS(ctx context.Context, j job) (*server, error) {
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	certificate, err := newCertificate()
	if err != nil {
		return nil, err
	}
	return serveFrames(tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}}), j), nil
}

// listen opens a port on loopback.
func listen(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
}

// newCertificate is one that only says that it is one.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// serveFrames answers everything that comes in with the same value.
func serveFrames(l net.Listener, j job) *server {
	value := []byte(j.newValue())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = answerFrames(conn, value) // the client tells of what breaks
				_ = conn.Close()
			}()
		}
	}()
	return &server{address: l.Addr().String(), pid: os.Getpid()}
}

// answerFrames answers what has arrived and then sends all answers at once.
func answerFrames(conn net.Conn, value []byte) error {
	in, out := bufio.NewReaderSize(conn, echoBuffer), bufio.NewWriterSize(conn, echoBuffer)
	var head [answerHead]byte
	for {
		request, err := in.Peek(requestHead)
		if err != nil {
			return err
		}
		copy(head[:4], request)
		binary.BigEndian.PutUint32(head[4:], uint32(len(value)))
		if _, err := in.Discard(requestHead + int(binary.BigEndian.Uint16(request[4:]))); err != nil {
			return err
		}
		_, _ = out.Write(head[:]) // Flush tells what went wrong before
		_, _ = out.Write(value)
		if in.Buffered() > 0 {
			continue
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

// An echoClient is one connection that callers share.
type echoClient struct {
	conn  net.Conn
	calls []chan []byte // by number; closed when the connection has ended
	wake  chan struct{} // of the goroutine that writes

	writing sync.Mutex // held while something is written; before mu
	spare   []byte     // guarded by writing

	mu   sync.Mutex // guards the fields below
	out  []byte     // not written yet
	free []uint32   // numbers that are not in use
}

var errEchoEnded = errors.New("the connection has ended")

func dialEcho(ctx context.Context, j job) (*client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", j.Server)
	if err != nil {
		return nil, err
	}
	return newEchoClient(conn, j), nil
}

func dialEchoTLS(ctx context.Context, j job) (*client, error) {
	// The handshake is not measured, so nothing is verified in it.
	dialer := &tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(ctx, "tcp4", j.Server)
	if err != nil {
		return nil, err
	}
	return newEchoClient(conn, j), nil
}

func newEchoClient(conn net.Conn, j job) *client {
	c := &echoClient{conn: conn, wake: make(chan struct{}, 1)}
	for i := range j.Callers {
		c.calls = append(c.calls, make(chan []byte, 1))
		c.free = append(c.free, uint32(i))
	}
	go c.read()
	go c.write()
	return &client{get: c.get}
}

func (c *echoClient) get(_ context.Context, key string) (int, error) {
	c.mu.Lock()
	last := len(c.free) - 1
	id := c.free[last]
	c.free = c.free[:last]
	alone := len(c.free) == len(c.calls)-1
	first := len(c.out) == 0
	c.out = binary.BigEndian.AppendUint32(c.out, id)
	c.out = binary.BigEndian.AppendUint16(c.out, uint16(len(key)))
	c.out = append(c.out, key...)
	c.mu.Unlock()

	switch {
	case alone: // nobody could share the write
		c.flush()
	case first:
		select {
		case c.wake <- struct{}{}:
		default: // it will see this too
		}
	}
	value, ok := <-c.calls[id]

	c.mu.Lock()
	c.free = append(c.free, id)
	c.mu.Unlock()
	if !ok {
		return 0, errEchoEnded
	}
	return len(value), nil
}

// write writes what callers have left, when they have all had their turn to leave
// something.
func (c *echoClient) write() {
	for range c.wake {
		runtime.Gosched()
		c.flush()
	}
}

func (c *echoClient) flush() {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	out := c.out
	c.out = c.spare[:0]
	c.mu.Unlock()
	c.spare = out
	if len(out) == 0 {
		return
	}
	if _, err := c.conn.Write(out); err != nil {
		_ = c.conn.Close() // so that reading ends too
	}
}

// read hands answers to who waits for them.
func (c *echoClient) read() {
	defer func() {
		for _, call := range c.calls {
			close(call)
		}
	}()
	in := bufio.NewReaderSize(c.conn, echoBuffer)
	var head [answerHead]byte
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		value := make([]byte, binary.BigEndian.Uint32(head[4:]))
		if _, err := io.ReadFull(in, value); err != nil {
			return
		}
		c.calls[binary.BigEndian.Uint32(head[:])] <- value
	}
}
