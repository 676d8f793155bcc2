package peercache_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/wire"
)

// What comes in from outside: requests that are no peer's, or a broken one's.

// served is a node behind a server of its own, with one cache.
type served struct {
	node  *peercache.Node
	cache *peercache.Cache[string]
	url   string
}

func serve(t *testing.T, load peercache.Loader[string]) *served {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	node, err := peercache.NewNode(server.URL, &peercache.NodeOptions{Logger: discardLogger()})
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle(node.Handler())
	return &served{node, peercache.New("c", load, &peercache.Options{Node: node}), server.URL + "/_peercache/v1"}
}

// hello is what a node says of itself, learned from an answer.
func (s *served) hello(t *testing.T) *wire.Hello {
	t.Helper()
	_, resp := s.post(t, frame(t, &wire.Request{}), nil)
	if len(resp) == 0 || resp[0].GetHello() == nil {
		t.Fatal("no hello in the answer")
	}
	return resp[0].GetHello()
}

func frame(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := wire.AppendFrame(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *served) post(t *testing.T, body []byte, change func(*http.Request)) (int, []*wire.Response) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", wire.ContentType)
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answers []*wire.Response
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, nil
	}
	for frames := wire.NewReader(resp.Body); ; {
		b, err := frames.Next()
		if err == io.EOF {
			return resp.StatusCode, answers
		}
		var m wire.Response
		if err == nil {
			err = wire.Unmarshal(b, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, &m)
	}
}

func get(keys ...string) *wire.Request {
	get := &wire.Get{}
	for _, key := range keys {
		get.Keys = append(get.Keys, []byte(key))
	}
	return &wire.Request{Cache: "c", Op: &wire.Request_Get{Get: get}}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	var calls atomic.Int32
	s := serve(t, constant(&calls, "secret", time.Hour))
	if _, err := s.cache.Get(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	ask := get("k")
	ask.Hello = s.hello(t)
	for _, c := range []struct {
		name   string
		body   []byte
		change func(*http.Request)
		want   int
	}{
		{"a peer", frame(t, ask), nil, http.StatusOK},
		{"GET", nil, func(r *http.Request) { r.Method = http.MethodGet }, http.StatusMethodNotAllowed},
		{"PUT", nil, func(r *http.Request) { r.Method = http.MethodPut }, http.StatusMethodNotAllowed},
		{"a path below", frame(t, ask), func(r *http.Request) { r.URL.Path += "/k" }, http.StatusNotFound},
		{"a form", frame(t, ask), func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, http.StatusUnsupportedMediaType},
		{"no type", frame(t, ask), func(r *http.Request) { r.Header.Del("Content-Type") }, http.StatusUnsupportedMediaType},
		{"Origin", frame(t, ask), func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, http.StatusForbidden},
		{"Sec-Fetch-Site", frame(t, ask), func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") }, http.StatusForbidden},
		{"another host", frame(t, ask), func(r *http.Request) { r.Host = "rebound.example" }, http.StatusMisdirectedRequest},
		{"nothing", nil, nil, http.StatusBadRequest},
		{"half a frame", frame(t, ask)[:10], nil, http.StatusBadRequest},
		{"two frames", append(frame(t, ask), frame(t, ask)...), nil, http.StatusBadRequest},
		{"a frame over the limit", []byte{0xff, 0xff, 0xff, 0xff, 0x7f}, nil, http.StatusBadRequest},
		{"no message", []byte{3, 0xff, 0xff, 0xff}, nil, http.StatusBadRequest},
		{"a million elements", frameOf(bytes.Repeat([]byte{0x42, 0}, 1<<20)), nil, http.StatusBadRequest},
	} {
		status, answers := s.post(t, c.body, c.change)
		if status != c.want {
			t.Errorf("%s: status %d, want %d", c.name, status, c.want)
		}
		if c.want == http.StatusOK && (len(answers) != 1 || string(answers[0].GetAnswers()[0].GetValue()) != "secret") {
			t.Errorf("%s: %v, want the value", c.name, answers)
		}
	}
}

// frameOf frames bytes that need not be a message.
func frameOf(b []byte) []byte {
	return append(frameLength(len(b)), b...)
}

func frameLength(n int) []byte {
	var b []byte
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

func TestRequestsThatMakeNoSenseAreAnsweredAsSuch(t *testing.T) {
	var calls atomic.Int32
	s := serve(t, constant(&calls, "v", time.Hour))
	good := s.hello(t)
	hello := func(change func(*wire.Hello)) *wire.Hello {
		h := proto.CloneOf(good)
		change(h)
		return h
	}
	many := get(make([]string, wire.MaxKeys+1)...)
	for _, c := range []struct {
		name  string
		hello *wire.Hello
		req   *wire.Request
		want  wire.Status
	}{
		{"no hello", nil, get("k"), wire.Status_WRONG_VERSION},
		{"a later version", hello(func(h *wire.Hello) { h.Protocol++ }), get("k"), wire.Status_WRONG_VERSION},
		{"other constants", hello(func(h *wire.Hello) { h.Constants++ }), get("k"), wire.Status_WRONG_VERSION},
		{"another cluster", hello(func(h *wire.Hello) { h.Cluster = "x" }), get("k"), wire.Status_WRONG_CLUSTER},
		{"nothing asked", good, &wire.Request{Cache: "c"}, wire.Status_BAD_REQUEST},
		{"a later operation", good, &wire.Request{Cache: "c"}, wire.Status_BAD_REQUEST},
		{"an unknown cache", good, &wire.Request{Cache: "x", Op: get("k").GetOp()}, wire.Status_UNKNOWN_CACHE},
		{"too many keys", good, many, wire.Status_BAD_REQUEST},
		{"a set of an empty key", good, &wire.Request{Cache: "c", Op: &wire.Request_Set{Set: &wire.Set{}}}, wire.Status_BAD_REQUEST},
		{"a set of a large value", good, &wire.Request{Cache: "c", Op: &wire.Request_Set{Set: &wire.Set{
			Key: []byte("k"), Value: make([]byte, wire.MaxValue+1),
		}}}, wire.Status_BAD_REQUEST},
	} {
		c.req.Hello = c.hello
		if _, answers := s.post(t, frame(t, c.req), nil); len(answers) != 1 || answers[0].GetStatus() != c.want || len(answers[0].GetAnswers()) != 0 {
			t.Errorf("%s: %v, want %v and no answer", c.name, answers, c.want)
		}
	}
	req := get("", "k", strings.Repeat("x", 1025))
	req.Hello = good
	_, answers := s.post(t, frame(t, req), nil)
	got := make(map[uint32]wire.Status)
	for _, resp := range answers {
		for _, a := range resp.GetAnswers() {
			got[a.GetIndex()] = a.GetStatus()
		}
	}
	if got[0] != wire.Status_BAD_REQUEST || got[1] != wire.Status_OK || got[2] != wire.Status_BAD_REQUEST {
		t.Errorf("statuses of a bad key, a good one, and one too long: %v", got)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d loads, want one for the only key that makes sense", n)
	}
}

// badPeer is a server that takes the place of a peer.
func badPeer(t *testing.T, h http.HandlerFunc) (cache *peercache.Cache[string], node *peercache.Node, key string) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	node, err := peercache.NewNode("http://127.0.0.1:1", &peercache.NodeOptions{Logger: discardLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = node.Leave(t.Context()) // which has ended when this runs
	})
	if err := node.SetPeers(node.Self(), peercache.Peer{URL: server.URL}); err != nil {
		t.Fatal(err)
	}
	cache = peercache.New("c", (&origin{}).load, &peercache.Options{Node: node})
	for i := 0; key == "" || cache.Owner(key) != server.URL; i++ {
		key = fmt.Sprint("k", i)
	}
	return cache, node, key
}

func TestWhateverAPeerAnswersTheCallerGetsItsValue(t *testing.T) {
	answer := func(m *wire.Response) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			b, err := wire.AppendFrame(nil, m)
			if err != nil {
				panic(err)
			}
			_, _ = w.Write(b)
		}
	}
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	for name, h := range map[string]http.HandlerFunc{
		"nothing": func(http.ResponseWriter, *http.Request) {},
		"404":     http.NotFound,
		"503": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "proxy has no backend", http.StatusServiceUnavailable)
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusPermanentRedirect)
		},
		"a page":          func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"half a frame":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte{100, 1}) },
		"a reset":         func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"another's index": answer(&wire.Response{Answers: []*wire.Answer{{Index: 1 << 31, Value: []byte("wrong")}}}),
		"no answer to it": answer(&wire.Response{}),
		"a later status":  answer(&wire.Response{Answers: []*wire.Answer{{Status: 99, Value: []byte("wrong")}}}),
		"a whole refusal": answer(&wire.Response{Status: wire.Status_WRONG_CLUSTER}),
		"not mine":        answer(&wire.Response{Answers: []*wire.Answer{{Status: wire.Status_NOT_MINE}}}),
		"busy":            answer(&wire.Response{Answers: []*wire.Answer{{Status: wire.Status_BAD_REQUEST}}}),
		"too large":       answer(&wire.Response{Answers: []*wire.Answer{{Value: make([]byte, wire.MaxValue+1)}}}),
		"silence":         func(_ http.ResponseWriter, r *http.Request) { fallSilent(r) },
		"silence half way": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(wire.Heartbeat)
			_ = http.NewResponseController(w).Flush()
			fallSilent(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cache, node, key := badPeer(t, h)
			wantValue(t, cache, key)
			if s := cache.Stats(); s.PeerErrors != 1 || s.Loads != 1 {
				t.Errorf("Stats = %+v, want one peer that failed and one load here", s)
			}
			if s := node.Stats(); s.Failovers != 1 {
				t.Errorf("%d failovers, want 1", s.Failovers)
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went where a peer redirected them, want none", n)
	}
}

// fallSilent returns when the client has gone, which the server notices only once
// it has read the body.
func fallSilent(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(proxy.Close)
	t.Setenv("HTTP_PROXY", proxy.URL)
	node, err := peercache.NewNode("http://127.0.0.1:1", &peercache.NodeOptions{Insecure: true, Logger: discardLogger(), Network: &peercache.Network{
		Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			if addr != "192.0.2.7:80" {
				t.Errorf("dialled %s, want the peer", addr)
			}
			return nil, fmt.Errorf("no route to %s", addr)
		},
		Listen:       func(string, string) (net.Listener, error) { return nil, net.ErrClosed },
		ListenPacket: func(string, string) (net.PacketConn, error) { return nil, net.ErrClosed },
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.SetPeers(node.Self(), peercache.Peer{URL: "http://192.0.2.7"}); err != nil {
		t.Fatal(err)
	}
	cache := peercache.New("c", (&origin{}).load, &peercache.Options{Node: node})
	for i := range 20 {
		wantValue(t, cache, fmt.Sprint("k", i))
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the proxy was asked %d times, want never", n)
	}
}

func TestAddressesThatNoPeerHasAreNeverDialled(t *testing.T) {
	for _, host := range []string{"169.254.169.254", "0.0.0.0", "224.0.0.1", "[fe80::1]", "[ff02::1]", "[::]"} {
		conn, err := peercache.DialPeer(t.Context(), &peercache.Network{
			Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
				t.Errorf("dialled %s", addr)
				return nil, net.ErrClosed
			},
		}, host+":80")
		if err == nil {
			conn.Close()
			t.Errorf("dial of %s: no error", host)
		}
	}
}
