package peercache_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/peercache/peercache/internal/wire"
)

// Those who attack a node: what they send, at once or a byte now and then.

// victim is in all keys and values that nobody but peers may see. Attackers know keys.
const victim = "of-the-victim"

// An attacker knows where a node is, what can be overheard on the way to it, and all of
// the protocol.
type attacker struct {
	host    string // of the node's URL
	secrets string // ids of the secrets, which are no secrets
	payload [][]byte
	dial    func() (net.Conn, error)
	rng     *rand.Rand // of the requests' order, by one goroutine

	heard atomic.Int64 // bytes
	told  atomic.Int64 // times a key or value was among them
}

func newAttacker(t *testing.T, url, secrets string, seed uint64) *attacker {
	t.Helper()
	host := strings.TrimPrefix(url, "http://")
	a := &attacker{host: host, secrets: secrets, rng: rand.New(rand.NewPCG(seed, 0))}
	a.dial = func() (net.Conn, error) {
		return new(net.Dialer).DialContext(context.Background(), "tcp", host) //nolint:usetesting // the slow ones are ended by their own hand
	}
	a.payload = a.payloads(t)
	return a
}

// text is a request's head.
func (a *attacker) text(method, host string, lines ...string) []byte {
	return []byte(method + " /_peercache/v1 HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n")
}

// upgraded is a request to upgrade that is granted, and what follows it.
func (a *attacker) upgraded(then ...[]byte) []byte {
	lines := []string{"Content-Type: " + wire.ContentType, "Connection: Upgrade", "Upgrade: peercache/1"}
	if a.secrets != "" {
		lines = append(lines, "Peercache-Secrets: "+a.secrets)
	}
	return bytes.Join(append([][]byte{a.text("POST", a.host, lines...)}, then...), nil)
}

// posted is a request by plain HTTP.
func (a *attacker) posted(body []byte) []byte {
	return append(a.text("POST", a.host, "Content-Type: "+wire.ContentType, fmt.Sprint("Content-Length: ", len(body))), body...)
}

// payloads are what is sent at once. An empty one stands for random bytes.
func (a *attacker) payloads(t *testing.T) [][]byte {
	t.Helper()
	ask := get("key-" + victim)
	another := proto.CloneOf(ask)
	another.Hello = &wire.Hello{Protocol: wire.Protocol, Cluster: "another", Url: "http://127.0.0.1:1"}
	forged := frame(t, &wire.Response{Id: 1 << 13, Answers: []*wire.Answer{{Value: []byte("forged")}}})
	oversize := []byte{0xff, 0xff, 0xff, 0xff, 0x7f}
	bomb := frameOf(bytes.Repeat([]byte{0x2a, 0}, 8*wire.MaxKeys))
	half := frame(t, ask)[:5]
	hello := frame(t, &wire.Request{Hello: another.GetHello()})
	peers := "Content-Type: " + wire.ContentType
	upgrade := []string{"Connection: Upgrade", "Upgrade: peercache/1"}
	return [][]byte{
		nil, nil,
		a.text("GET", a.host, peers),
		a.text("PUT", a.host, peers, "Content-Length: 3"),
		a.text("POST", "rebound.example", peers),
		a.text("POST", a.host, "Content-Type: text/plain", "Content-Length: 0"),
		a.text("POST", a.host, "Content-Type: application/x-peercache2", "Content-Length: 100"),
		a.text("POST", a.host, peers, "Origin: http://evil.example", "Content-Length: 0"),
		a.text("POST", a.host, peers, "Transfer-Encoding: chunked", "X: "+strings.Repeat("x", 60_000)),
		a.text("POST", a.host, peers, "Connection: Upgrade", "Upgrade: websocket"),
		a.text("POST", a.host, peers, "Upgrade: peercache/1"),
		a.text("POST", a.host, append(upgrade, "Content-Type: text/plain")...),
		a.text("POST", a.host, append(upgrade, peers, "Peercache-Secrets: "+strings.Repeat(",", 10_000))...),
		a.text("POST", a.host, append(upgrade, peers, "Peercache-Secrets: 00112233445566778899aabbccddeeff")...),
		a.posted(nil),
		a.posted(oversize),
		a.posted(half),
		a.posted(bomb),
		a.posted(forged),
		a.posted(frame(t, ask)),
		a.posted(frame(t, another)),
		a.posted(append(frame(t, another), frame(t, another)...)),
		a.posted([]byte{3, 0xff, 0xff, 0xff}),
		a.upgraded(),
		a.upgraded(half),
		a.upgraded(oversize),
		a.upgraded(bomb),
		a.upgraded(forged),
		a.upgraded(frame(t, ask)),
		a.upgraded(hello, frame(t, ask)),
		a.upgraded(bytes.Repeat([]byte{0}, 100)),
		a.upgraded([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}),
		{22, 3, 1, 0, 5, 1, 0, 0, 1, 3},
	}
}

// note looks for what must not be heard in what was.
func (a *attacker) note(b []byte) {
	a.heard.Add(int64(len(b)))
	if bytes.Contains(b, []byte(victim)) {
		a.told.Add(1)
	}
}

// request sends a bad request and hears the answer.
func (a *attacker) request(payload []byte) error {
	conn, err := a.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = conn.Write(payload) // which is refused in the middle of it
	_ = conn.(*net.TCPConn).CloseWrite()
	b, _ := io.ReadAll(io.LimitReader(conn, 1<<20))
	a.note(b)
	return nil
}

// flood sends n bad requests, at most one each millisecond: faster ones would show what
// the system does with two processes that want all of it.
func (a *attacker) flood(t *testing.T, n int) {
	t.Helper()
	work := make(chan []byte)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for payload := range work {
				if err := a.request(payload); err != nil {
					t.Errorf("a bad request cannot even be sent: %v", err)
				}
			}
		})
	}
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for range n {
		<-pace.C
		payload := a.payload[a.rng.IntN(len(a.payload))]
		if payload == nil {
			payload = make([]byte, 1+a.rng.IntN(4000))
			for i := range payload {
				payload[i] = byte(a.rng.Uint32())
			}
		}
		work <- payload
	}
	close(work)
	wg.Wait()
}

// impersonate shows certificates that it has made itself, as a peer would, and asks.
func (a *attacker) impersonate(t *testing.T) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	template.Subject.CommonName = "http://" + a.host
	template.Subject.Organization = []string{"peercache"}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := a.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write(a.upgraded()); err != nil {
		t.Fatal(err)
	}
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil { //nolint:bodyclose // of a 101 there is none
		t.Fatal(err)
	}
	secured := tls.Client(conn, &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // an attacker does not mind
		NextProtos:         []string{"peercache/1"},
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	_, _ = secured.Write(frame(t, &wire.Request{Hello: &wire.Hello{Protocol: wire.Protocol}}))
	_, _ = secured.Write(frame(t, get("key-"+victim)))
	b, err := io.ReadAll(secured)
	a.note(b)
	if len(b) != 0 || err == nil {
		t.Errorf("who has made a certificate himself is answered %d bytes, %v", len(b), err)
	}
}

// stalled are the ways not to finish something.
func (a *attacker) stalled() [][]byte {
	head := a.text("POST", a.host, "Content-Type: "+wire.ContentType)
	return [][]byte{
		nil,                // says nothing
		head[:len(head)-2], // never ends its headers
		a.text("POST", a.host, "Content-Type: "+wire.ContentType, "Content-Length: 1000"),
		a.upgraded(),
		a.upgraded([]byte{100, 11}), // half a frame
		a.upgraded([]byte{0xff, 0xff, 0xff, 0x0f, 10}),         // a little of a very large one
		a.upgraded([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 200}), // a little of a handshake
		a.text("GET", a.host),                                  // is answered, and stays
	}
}

// dribble keeps n connections open until ctx ends, each in a way of its own, and says a
// byte on each now and then. Where a node closes one it opens another, a second after that
// at the earliest: else they would not be slow. It returns when all have been opened once;
// wait waits until all are closed.
func (a *attacker) dribble(ctx context.Context, n int) (wait func()) {
	var all, opened sync.WaitGroup
	ways := a.stalled()
	opened.Add(n)
	for i := range n {
		all.Go(func() {
			for first := true; ctx.Err() == nil; first = false {
				next := time.After(time.Second)
				a.stall(ctx, ways[i%len(ways)], func() {
					if first {
						opened.Done()
					}
				})
				select {
				case <-next:
				case <-ctx.Done():
				}
			}
		})
	}
	opened.Wait()
	return all.Wait
}

func (a *attacker) stall(ctx context.Context, say []byte, opened func()) {
	conn, err := a.dial()
	opened()
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		b := make([]byte, 1024)
		for {
			n, err := conn.Read(b)
			a.note(b[:n])
			if err != nil {
				return
			}
		}
	}()
	for open := true; open; {
		if _, err := conn.Write(say); err != nil {
			break
		}
		say = []byte{'x'}
		select {
		case <-gone:
			open = false
		case <-time.After(time.Second):
		}
	}
	conn.Close()
	<-gone
}
