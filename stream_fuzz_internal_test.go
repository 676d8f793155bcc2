package peercache

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/peercache/peercache/internal/wire"
)

// F15: whatever a peer sends, to decode it ends no process and takes no more memory than
// four times what has arrived, and 64 KiB. What the decoders make of it is compared with
// other decoders here and in stream_codec_internal_test.go.

// fixedCost is what may be allocated whatever was sent.
const fixedCost = 64 << 10

// modest fails the test if f allocates more than that for what it is given.
func modest(t *testing.T, given, fixed int, f func()) {
	t.Helper()
	if Race {
		f()
		return
	}
	limit := int64(4*given + fixed)
	var n int64
	for range 5 { // what all goroutines allocate is counted, and another's is not there each time
		if n = allocated(f); n <= limit {
			return
		}
	}
	t.Errorf("%d bytes of a peer take %d bytes of memory, want at most %d", given, n, limit)
}

// wireSamples are messages of all kinds that a node reads.
func wireSamples() []proto.Message {
	hello := &wire.Hello{Protocol: wire.Protocol, Cluster: "c", Url: "http://a", Boot: 9, Constants: 10}
	return []proto.Message{
		&wire.Request{Hello: hello},
		&wire.Request{Id: 3, Cache: "c", Op: &wire.Request_Get{Get: &wire.Get{Keys: [][]byte{{}, []byte("k")}}}},
		&wire.Request{Id: 4, Cache: "c", Op: &wire.Request_Set{Set: &wire.Set{Key: []byte("k"), Value: []byte("v"), TtlMs: 7}}},
		&wire.Request{Id: 5, Op: &wire.Request_Invalidate{Invalidate: &wire.Invalidate{Records: []*wire.Record{{Cache: "c", Keys: [][]byte{{1}}}}}}},
		&wire.Request{Id: 6, Op: &wire.Request_Meet{Meet: &wire.Meet{}}},
		&wire.Request{Id: 7, Op: &wire.Request_Sync{Sync: &wire.Sync{Applied: &wire.Ids{Boots: []uint64{1}, Seqs: []uint64{2}}}}},
		&wire.Request{Id: 8, Op: &wire.Request_Push{Push: &wire.Push{Entries: []*wire.Entry{{Key: []byte("k"), Value: []byte("v"), TtlMs: 7}}}}},
		&wire.Response{Hello: hello, Status: wire.Status_WRONG_CLUSTER, Text: "no"},
		&wire.Response{Id: 1, Answers: []*wire.Answer{{Index: 3, Value: []byte("v"), TtlMs: 7}, {Status: wire.Status_LOAD_FAILED, Text: "no"}}},
		&wire.Response{Working: []uint64{1, 1 << 40}},
	}
}

// addMessages adds what the decoders of messages begin with, and what costs them most:
// elements of two bytes, as many as are read and more.
func addMessages(f *testing.F) {
	f.Helper()
	for _, m := range wireSamples() {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, n := range []int{wire.MaxKeys - 2, wire.MaxKeys, wire.MaxKeys + 1, 8 * wire.MaxKeys} {
		f.Add(bytes.Repeat([]byte{tagResponseAnswers, 0}, n))
		keys := bytes.Repeat([]byte{tagGetKeys, 0}, n)
		f.Add(append(append([]byte{tagRequestGet}, uvarint(len(keys))...), keys...))
	}
	text := bytes.Repeat([]byte{tagResponseText, 2, 0xff, 0xff}, 10_000) // each a text of its own
	f.Add(text)
}

func FuzzInbox(f *testing.F) {
	for _, m := range wireSamples() {
		b, err := wire.AppendFrame(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(b, b...), uint16(3))
	}
	f.Add(append(uvarint(wire.MaxFrame), make([]byte, 5)...), uint16(1000))
	f.Add(append(uvarint(100_000), make([]byte, 5000)...), uint16(4096))
	f.Add(bytes.Repeat([]byte{0xff}, 20), uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		read := func(each func([]byte)) error {
			in := inbox{r: &cutReader{bytes.NewReader(b), max(int(cut), 1)}}
			for {
				frame, _, err := in.next()
				if err != nil {
					return err
				}
				each(frame)
			}
		}
		modest(t, len(b), fixedCost, func() { _ = read(func([]byte) {}) })
		reader := wire.NewReader(bytes.NewReader(b))
		end := read(func(frame []byte) {
			if want, err := reader.Next(); err != nil || !bytes.Equal(frame, want) {
				t.Fatalf("a frame of %d bytes, where the other reader has %d, %v", len(frame), len(want), err)
			}
		})
		// At the same place, and both at the end or neither.
		if _, err := reader.Next(); err == nil || (err == io.EOF) != (end == io.EOF) {
			t.Errorf("the frames end with %v, for the other reader with %v", end, err)
		}
	})
}

// A cutReader gives out a few bytes at a time.
type cutReader struct {
	r *bytes.Reader
	n int
}

func (c *cutReader) Read(b []byte) (int, error) { return c.r.Read(b[:min(len(b), c.n)]) }

func FuzzMemoryOfAStreamsMessages(f *testing.F) {
	addMessages(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		modest(t, len(b), fixedCost, func() {
			var r response
			_ = r.parse(b)
		})
		modest(t, len(b), fixedCost, func() {
			var g getRequest
			_ = g.parse(b)
		})
	})
}

// A tag that takes more bytes than it needs is another spelling of a field: to pass it over
// would be to read another message than the generated code does.
func TestTagsInAnotherSpellingAreMalformed(t *testing.T) {
	for _, b := range [][]byte{
		{tagResponseID | 0x80, 0, 48},
		{tagResponseAnswers | 0x80, 0x80, 0, 0},
		{tagResponseAnswers, 4, tagAnswerValue | 0x80, 0, 1, 'v'},
	} {
		var r response
		if err := r.parse(b); !errors.Is(err, errMalformed) {
			t.Errorf("parse(%x) = %v, want %v", b, err, errMalformed)
		}
		var m wire.Response
		if err := wire.Unmarshal(b, &m); err != nil {
			t.Errorf("the generated code does not read %x: %v: the test shows nothing", b, err)
		}
	}
}

// FuzzMemoryOfGeneratedMessages is for what the generated code decodes: all that is no
// Get and no answer on a stream. An element of a list takes two bytes on the wire and a
// struct in memory, and a packed number one byte and eight, so that more than elsewhere is
// allowed: for as many elements as a message may have, and twice for each byte.
func FuzzMemoryOfGeneratedMessages(f *testing.F) {
	const elementCost, mostElements = 192, 8 * wire.MaxKeys
	addMessages(f)
	f.Add(append([]byte{6<<3 | 2}, append(uvarint(100_000), make([]byte, 100_000)...)...)) // packed numbers
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []proto.Message{&wire.Request{}, &wire.Response{}} {
			elements := min(len(b)/2, mostElements)
			modest(t, 2*len(b), fixedCost+elements*elementCost, func() { _ = wire.Unmarshal(b, m) })
		}
	})
}

// FuzzMemoryOfMeta is for what gossip carries, beside FuzzParseMeta.
func FuzzMemoryOfMeta(f *testing.F) {
	good, err := sampleMember().meta()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("http://10.0.0.5:8080@102030405060708", good)
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		ringConstants() // which the first to ask computes
		modest(t, len(name)+len(b), fixedCost, func() {
			r, err := newRoster(sampleMember(), "10.0.0.9:7946")
			if err != nil {
				t.Fatal(err)
			}
			if err := r.put(name, "10.0.0.5:7946", b, true); err == nil && len(r.members()) > 2 {
				t.Errorf("%d members", len(r.members()))
			}
		})
	})
}

// fuzzNode is a node that asks nobody.
func fuzzNode(f *testing.F) *Node {
	f.Helper()
	n, err := NewNode("http://10.0.0.5:8080", &NodeOptions{Secret: bytes.Repeat([]byte{1}, 32), AlternateSecret: bytes.Repeat([]byte{2}, 32)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(n.end)
	return n
}

// parameters are n of a media type.
func parameters(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ";%x=1", i)
	}
	return b.String()
}

// FuzzUpgradeText is for the text of the request to upgrade, and of its answer.
func FuzzUpgradeText(f *testing.F) {
	n := fuzzNode(f)
	ids := strings.Join(n.auth.ids(), ",")
	for _, text := range []string{
		"Content-Type: application/x-peercache\r\nConnection: keep-alive, Upgrade\r\nUpgrade: peercache/1\r\nPeercache-Secrets: " + ids,
		"Content-Type: application/x-peercache\r\nPeercache-Secret: " + n.auth.ids()[1],
		"Content-Type: application/x-peercache" + parameters(2000),
		"Peercache-Secrets: " + strings.Repeat(",", 10_000),
		"Upgrade: peercache/1\r\nConnection: " + strings.Repeat(",", 10_000),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("POST /_peercache/v1 HTTP/1.1\r\nHost: " + n.host + "\r\n" + text + "\r\n\r\n")))
		if err != nil {
			return // it gets no further than the server
		}
		modest(t, len(text), fixedCost, func() {
			n.refuse(r)
			if id, ok := n.chooseSecret(r); wantsStream(r) && ok {
				if _, err := n.auth.serverConfig(id); err != nil {
					t.Errorf("the secret %q was chosen: %v", id, err)
				}
			}
			if _, err := n.auth.clientConfig(r.Header.Get(secretHeader), "http://10.0.0.6:8080"); err != nil {
				_ = n.barred("http://10.0.0.6:8080", err)
			}
		})
	})
}

// A script is a connection whose other side has said all that it says.
type script struct {
	net.Conn
	r io.Reader
}

func (s script) Read(b []byte) (int, error)  { return s.r.Read(b) }
func (s script) Write(b []byte) (int, error) { return len(b), nil }
func (script) Close() error                  { return nil }
func (script) SetDeadline(time.Time) error   { return nil }

// FuzzHandshake is for what arrives on an upgraded connection before anybody is known,
// at both ends. To agree on keys takes memory of its own.
func FuzzHandshake(f *testing.F) {
	n := fuzzNode(f)
	id := n.auth.ids()[0]
	server, err := n.auth.serverConfig(id)
	if err != nil {
		f.Fatal(err)
	}
	client, err := n.auth.clientConfig(id, n.self.url)
	if err != nil {
		f.Fatal(err)
	}
	var first bytes.Buffer
	hello := tls.Client(saying{script{r: strings.NewReader("")}, &first}, client)
	if err := hello.HandshakeContext(f.Context()); !errors.Is(err, io.EOF) {
		f.Fatal(err)
	}
	f.Add(first.Bytes())
	f.Add([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		modest(t, len(b), fixedCost, func() {
			if tls.Server(script{r: bytes.NewReader(b)}, server).HandshakeContext(t.Context()) == nil {
				t.Error("the handshake of a stranger succeeds at the server")
			}
		})
		modest(t, len(b), fixedCost, func() {
			if tls.Client(script{r: bytes.NewReader(b)}, client).HandshakeContext(t.Context()) == nil {
				t.Error("the handshake of a stranger succeeds at the client")
			}
		})
	})
}

// saying records what is said.
type saying struct {
	script
	w io.Writer
}

func (s saying) Write(b []byte) (int, error) { return s.w.Write(b) }

// FuzzCertificate is for what a peer shows.
func FuzzCertificate(f *testing.F) {
	n := fuzzNode(f)
	own := n.auth.trusts[0]
	authority := &x509.Certificate{PublicKeyAlgorithm: x509.Ed25519, PublicKey: own.authority}
	f.Add(own.certificate.Leaf.Raw)
	other, err := newAuth(bytes.Repeat([]byte{3}, 32), nil, "c", "http://x")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(other.trusts[0].certificate.Leaf.Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return
		}
		modest(t, len(b), fixedCost, func() {
			state := tls.ConnectionState{NegotiatedProtocol: authALPN, PeerCertificates: []*x509.Certificate{c}}
			if url, err := own.verify(state); err == nil && authority.CheckSignature(x509.PureEd25519, c.RawTBSCertificate, c.Signature) != nil {
				t.Errorf("a certificate that nobody has signed is %q's", url)
			}
		})
	})
}
