package peercache_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/wire"
)

// Streams on users' servers, behind TLS and proxies, and with peers that are broken or
// hostile.

// newStreamNode starts a node on a server of its own, behind what wrap puts before its
// handler, with a cache that keeps no copies.
func newStreamNode(t *testing.T, load peercache.Loader[string], wrap func(http.Handler) http.Handler, change func(*httptest.Server)) *realNode {
	t.Helper()
	opts := peercache.NodeOptions{Logger: discardLogger()}
	mux := http.NewServeMux()
	server := httptest.NewUnstartedServer(wrap(mux))
	scheme := "http://"
	if change != nil {
		change(server)
	}
	if server.TLS == nil {
		server.Start()
	} else {
		server.StartTLS()
		scheme = "https://"
		opts.Transport = server.Client().Transport // the certificates of all test servers are one
	}
	node, err := peercache.NewNode(scheme+server.Listener.Addr().String(), &opts)
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle(node.Handler())
	t.Cleanup(func() {
		_ = node.Leave(t.Context()) // which has ended when this runs
		server.Close()
	})
	return &realNode{Node: node, cache: peercache.New("c", load, &peercache.Options{Node: node, HotTTL: -1})}
}

func asItIs(h http.Handler) http.Handler { return h }

func meetEachOther(t *testing.T, nodes ...*realNode) {
	t.Helper()
	var peers []peercache.Peer
	for _, n := range nodes {
		peers = append(peers, n.Self())
	}
	for _, n := range nodes {
		if err := n.SetPeers(peers...); err != nil {
			t.Fatal(err)
		}
	}
}

// keysOf returns n keys with this prefix that node owns.
func keysOf(node *realNode, prefix string, n int) []string {
	var keys []string
	for i := 0; len(keys) < n; i++ {
		if key := fmt.Sprint(prefix, i); node.cache.Owner(key) == node.Self().URL {
			keys = append(keys, key)
		}
	}
	return keys
}

func TestTimeoutsOfTheServerDoNotCutAStream(t *testing.T) {
	t.Parallel() // it mostly waits
	const timeout = 250 * time.Millisecond
	var conns atomic.Int32
	load := func(_ context.Context, key string) (string, time.Duration, error) {
		<-time.After(3 * timeout)
		return "value of " + key, time.Hour, nil
	}
	asker := newStreamNode(t, load, asItIs, nil)
	owner := newStreamNode(t, load, asItIs, func(s *httptest.Server) {
		s.Config.ReadTimeout, s.Config.WriteTimeout, s.Config.IdleTimeout = timeout, timeout, timeout
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				conns.Add(1)
			}
		}
	})
	meetEachOther(t, asker, owner)
	for _, key := range keysOf(owner, "k", 2) {
		wantValue(t, asker.cache, key)
		<-time.After(3 * timeout)
		wantValue(t, asker.cache, key)
	}
	if s := asker.cache.Stats(); s.PeerGets != 4 || s.PeerErrors != 0 || conns.Load() != 1 {
		t.Errorf("%d fetches, %d without an answer, %d connections, want 4, none, 1", s.PeerGets, s.PeerErrors, conns.Load())
	}
}

func TestStreamsWorkOverTLS(t *testing.T) {
	var nodes []*realNode
	for range 2 {
		nodes = append(nodes, newStreamNode(t, valueOf, asItIs, func(s *httptest.Server) { s.TLS = &tls.Config{MinVersion: tls.VersionTLS12} }))
	}
	meetEachOther(t, nodes...)
	large := strings.Repeat("v", 3<<20)
	key := keysOf(nodes[1], "large", 1)[0]
	if err := nodes[0].cache.Set(t.Context(), key, large, 0); err != nil {
		t.Fatal(err)
	}
	if v, err := nodes[0].cache.Get(t.Context(), key); err != nil || v != large {
		t.Errorf("Get = %d bytes, %v, want %d", len(v), err, len(large))
	}
	for _, key := range keysOf(nodes[1], "k", 100) {
		wantValue(t, nodes[0].cache, key)
	}
	if s := nodes[0].Stats(); s.Streams != 2 || nodes[0].cache.Stats().PeerErrors != 0 {
		t.Errorf("Stats = %+v, want a stream for small values and one for large", s)
	}
}

func TestHalfOfTheNodesBehindAProxyWithoutUpgradesAreStillOneCluster(t *testing.T) {
	o := &origin{}
	var refused atomic.Int32
	proxy := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				refused.Add(1)
				http.Error(w, "no upgrades here", http.StatusBadGateway)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	var nodes []*realNode
	for i := range 4 {
		wrap := asItIs
		if i%2 == 0 {
			wrap = proxy
		}
		nodes = append(nodes, newStreamNode(t, o.load, wrap, nil))
	}
	meetEachOther(t, nodes...)
	for i := range 200 {
		key := fmt.Sprint("key-", i)
		for _, n := range nodes {
			wantValue(t, n.cache, key)
		}
		if n := o.of(key); n != 1 {
			t.Errorf("%d loads of %s, want 1", n, key)
		}
		if err := nodes[i%4].cache.Remove(t.Context(), key); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	for i, n := range nodes {
		want := int64(2 - i%2) // to the nodes without a proxy but itself
		if s := n.Stats(); s.Streams != want || n.cache.Stats().PeerErrors != 0 {
			t.Errorf("node %d: %d streams, %d fetches without an answer, want %d and none", i, s.Streams, n.cache.Stats().PeerErrors, want)
		}
	}
	if n := refused.Load(); n != 6 {
		t.Errorf("%d upgrades were refused, want one for each way to a node behind a proxy", n)
	}
}

// A rawStream is a client of a stream that says what it likes.
type rawStream struct {
	net.Conn
	frames *wire.Reader
}

// upgradeRaw upgrades a connection to a node with this host.
func upgradeRaw(t *testing.T, conn net.Conn, host string) *rawStream {
	t.Helper()
	_, err := fmt.Fprintf(conn, "POST /_peercache/v1 HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nConnection: Upgrade\r\nUpgrade: peercache/1\r\nContent-Length: 0\r\n\r\n", host, wire.ContentType)
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil) //nolint:bodyclose // of a 101 there is none
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade is answered %s", resp.Status)
	}
	return &rawStream{conn, wire.NewReader(br)}
}

func dialRaw(t *testing.T, s *served) *rawStream {
	t.Helper()
	host := strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/_peercache/v1")
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return upgradeRaw(t, conn, host)
}

func (r *rawStream) send(t *testing.T, m proto.Message) {
	t.Helper()
	if _, err := r.Write(frame(t, m)); err != nil {
		t.Fatal(err)
	}
}

// next returns the next response that is no heartbeat.
func (r *rawStream) next(t *testing.T) *wire.Response {
	t.Helper()
	for {
		b, err := r.frames.Next()
		var m wire.Response
		if err == nil {
			err = wire.Unmarshal(b, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(m.GetWorking()) == 0 {
			return &m
		}
	}
}

func TestStreamAnswersWhateverIsAskedByItsID(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(_ context.Context, key string) (string, time.Duration, error) {
		if key == "slow" {
			<-release
		}
		return "value of " + key, time.Hour, nil
	})
	r := dialRaw(t, s)
	r.send(t, &wire.Request{Hello: s.hello(t)})
	if m := r.next(t); m.GetHello().GetUrl() != s.node.Self().URL || m.GetStatus() != wire.Status_OK {
		t.Fatalf("the hello is answered %v", m)
	}
	ask := func(id uint64, req *wire.Request) {
		req.Id = id
		r.send(t, req)
	}
	ask(1, get("slow"))
	for id, c := range map[uint64]struct {
		req  *wire.Request
		want wire.Status
	}{
		2:       {&wire.Request{Cache: "x", Op: get("k").GetOp()}, wire.Status_UNKNOWN_CACHE},
		3:       {get(make([]string, wire.MaxKeys+1)...), wire.Status_BAD_REQUEST},
		4:       {&wire.Request{Cache: "c"}, wire.Status_BAD_REQUEST},
		5:       {&wire.Request{Cache: "c", Op: &wire.Request_Set{Set: &wire.Set{Boot: 1, Seq: 1, Key: []byte("set"), Value: []byte("v")}}}, wire.Status_OK},
		6:       {&wire.Request{Op: &wire.Request_Invalidate{Invalidate: &wire.Invalidate{}}}, wire.Status_OK},
		7:       {&wire.Request{Op: &wire.Request_Meet{Meet: &wire.Meet{}}}, wire.Status_OK},
		1 << 60: {&wire.Request{Cache: "c", Op: &wire.Request_Set{Set: &wire.Set{}}}, wire.Status_BAD_REQUEST},
	} {
		ask(id, c.req)
		if m := r.next(t); m.GetId() != id || m.GetStatus() != c.want {
			t.Errorf("request %d is answered %v, want %v", id, m, c.want)
		}
	}
	ask(8, get("set", "", strings.Repeat("x", 1025)))
	got := make(map[uint32]*wire.Answer)
	for len(got) < 3 {
		m := r.next(t)
		if m.GetId() != 8 {
			t.Errorf("response %v, want one to request 8", m)
		}
		for _, a := range m.GetAnswers() {
			got[a.GetIndex()] = a
		}
	}
	if string(got[0].GetValue()) != "v" || got[1].GetStatus() != wire.Status_BAD_REQUEST || got[2].GetStatus() != wire.Status_BAD_REQUEST {
		t.Errorf("answers to a key that was set and two bad ones: %v", got)
	}
	close(release)
	if m := r.next(t); m.GetId() != 1 || string(m.GetAnswers()[0].GetValue()) != "value of slow" {
		t.Errorf("the slow request is answered %v", m)
	}
}

func TestStreamOfAnotherClusterOrVersionIsToldAndClosed(t *testing.T) {
	s := serve(t, valueOf)
	for want, change := range map[wire.Status]func(*wire.Hello){
		wire.Status_WRONG_CLUSTER: func(h *wire.Hello) { h.Cluster = "x" },
		wire.Status_WRONG_VERSION: func(h *wire.Hello) { h.Protocol++ },
	} {
		h := s.hello(t)
		change(h)
		r := dialRaw(t, s)
		r.send(t, &wire.Request{Hello: h})
		if m := r.next(t); m.GetStatus() != want || m.GetText() == "" {
			t.Errorf("answered %v, want %v", m, want)
		}
		if _, err := r.frames.Next(); err != io.EOF {
			t.Errorf("read after the refusal: %v, want EOF", err)
		}
	}
}

func TestRubbishIsDisconnectedCountedAndLoggedOnceAMinute(t *testing.T) {
	var log warnings
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	node, err := peercache.NewNode(server.URL, &peercache.NodeOptions{Logger: slog.New(&log)})
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle(node.Handler())
	s := &served{node: node, url: server.URL + "/_peercache/v1"}
	for i, rubbish := range [][]byte{
		{3, 0xff, 0xff, 0xff},          // no message
		{0xff, 0xff, 0xff, 0xff, 0x7f}, // over the limit
		[]byte("GET / HTTP/1.1\r\nHost: " + strings.Repeat("x", 100) + "\r\n\r\n"), // another protocol
	} {
		r := dialRaw(t, s)
		r.send(t, &wire.Request{Hello: s.hello(t)})
		r.next(t)
		if _, err := r.Write(rubbish); err != nil {
			t.Fatal(err)
		}
		if b, err := r.frames.Next(); err == nil {
			t.Errorf("rubbish %d is answered %q, want the connection closed", i, b)
		}
		eventually(t, "it is counted", func() bool { return node.Stats().Rubbish == int64(i+1) })
	}
	if n := log.with("makes no sense"); n != 1 {
		t.Errorf("%d warnings of three connections within a minute, want 1: %q", n, log.lines)
	}
}

// streamPeer is a peer that upgrades, introduces itself, and then does what talk does.
func streamPeer(talk func(r *rawStream)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: peercache/1\r\n\r\n")
		s := &rawStream{conn, wire.NewReader(rw)}
		if _, err := s.frames.Next(); err != nil {
			return
		}
		b, err := wire.AppendFrame(nil, &wire.Response{Hello: &wire.Hello{}})
		if err != nil {
			panic(err)
		}
		if _, err := conn.Write(b); err == nil {
			talk(s)
		}
	}
}

func TestWhateverAPeerSaysOnAStreamTheCallerGetsItsValue(t *testing.T) {
	reply := func(m *wire.Response) func(*rawStream) {
		return func(r *rawStream) {
			for {
				b, err := r.frames.Next()
				var req wire.Request
				if err != nil || wire.Unmarshal(b, &req) != nil {
					return
				}
				resp := proto.CloneOf(m)
				resp.Id = req.GetId()
				out, err := wire.AppendFrame(nil, resp)
				if err != nil {
					panic(err)
				}
				_, _ = r.Write(out)
			}
		}
	}
	for name, c := range map[string]struct {
		talk    func(*rawStream)
		rubbish int64
	}{
		"nothing, and closes":  {func(r *rawStream) { _, _ = r.frames.Next() }, 0},
		"closes at once":       {func(*rawStream) {}, 0},
		"silence":              {func(r *rawStream) { _, _ = io.Copy(io.Discard, r) }, 0},
		"no message":           {func(r *rawStream) { _, _ = r.frames.Next(); _, _ = r.Write([]byte{3, 0xff, 0xff, 0xff}) }, 1},
		"a frame too large":    {func(r *rawStream) { _, _ = r.Write([]byte{0xff, 0xff, 0xff, 0xff, 0x7f}) }, 1},
		"half a frame":         {func(r *rawStream) { _, _ = r.frames.Next(); _, _ = r.Write([]byte{100, 8, 1}) }, 0},
		"another's index":      {reply(&wire.Response{Answers: []*wire.Answer{{Index: 1 << 31, Value: []byte("wrong")}}}), 1},
		"too large":            {reply(&wire.Response{Answers: []*wire.Answer{{Value: make([]byte, wire.MaxValue+1)}}}), 1},
		"a later status":       {reply(&wire.Response{Answers: []*wire.Answer{{Status: 99, Value: []byte("wrong")}}}), 0},
		"a whole refusal":      {reply(&wire.Response{Status: wire.Status_WRONG_CLUSTER}), 0},
		"not mine":             {reply(&wire.Response{Answers: []*wire.Answer{{Status: wire.Status_NOT_MINE}}}), 0},
		"no answer to it":      {reply(&wire.Response{}), 1},
		"large, again":         {reply(&wire.Response{Answers: []*wire.Answer{{Status: 16}}}), 0},
		"answers nobody asked": {reply(&wire.Response{Answers: []*wire.Answer{{Status: wire.Status_NOT_MINE}, {Value: []byte("wrong")}}}), 0},
	} {
		t.Run(name, func(t *testing.T) {
			cache, node, key := badPeer(t, streamPeer(c.talk))
			wantValue(t, cache, key)
			if s := cache.Stats(); s.PeerErrors != 1 || s.Loads != 1 {
				t.Errorf("Stats = %+v, want one peer that failed and one load here", s)
			}
			if s := node.Stats(); s.Failovers != 1 || s.Rubbish < c.rubbish {
				t.Errorf("%d failovers, %d times rubbish, want 1 and %d", s.Failovers, s.Rubbish, c.rubbish)
			}
		})
	}
}

func TestAnswersToUnknownRequestsAreIgnored(t *testing.T) {
	cache, node, key := badPeer(t, streamPeer(func(r *rawStream) {
		var req wire.Request
		for req.GetGet() == nil {
			b, err := r.frames.Next()
			if err != nil || wire.Unmarshal(b, &req) != nil {
				return
			}
		}
		var out []byte
		var err error
		for _, id := range []uint64{0, 1, req.GetId() + 1, req.GetId() + 1<<13, 1<<64 - 1, req.GetId()} {
			v := "wrong"
			if id == req.GetId() {
				v = "value of " + string(req.GetGet().GetKeys()[0])
			}
			out, err = wire.AppendFrame(out, &wire.Response{Id: id, Answers: []*wire.Answer{{Value: []byte(v)}}})
			if err != nil {
				panic(err)
			}
		}
		_, _ = r.Write(out)
		_, _ = r.frames.Next()
	}))
	wantValue(t, cache, key)
	if s := cache.Stats(); s.Loads != 0 || node.Stats().Rubbish != 0 {
		t.Errorf("%d loads here, %d times rubbish, want the peer's answer", s.Loads, node.Stats().Rubbish)
	}
}

// A client that sends requests and reads no answer.
func TestReaderThatIsSlowHoldsLittleMemoryAndIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBareNodes(t, 1)
		b.setPeers()
		value := strings.Repeat("v", 4<<10)
		cache := peercache.New("c", func(context.Context, string) (string, time.Duration, error) { return value, time.Hour, nil }, &peercache.Options{Node: b.nodes[0]})
		if _, err := cache.Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		l := &pipeListener{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{Handler: b.handlers["127.0.0.1:8001"], ReadHeaderTimeout: time.Second}
		go func() { _ = server.Serve(l) }()
		defer server.Close()
		client, conn := net.Pipe()
		l.conns <- conn
		r := upgradeRaw(t, client, "127.0.0.1:8001")
		hello := helloOf(t, b)
		var wg sync.WaitGroup
		wg.Go(func() { r.send(t, &wire.Request{Hello: hello}) })
		r.next(t)
		wg.Wait()

		req := get("k")
		req.Id = 1
		batch := strings.Repeat(string(frame(t, req)), 100)
		start := time.Now()
		sent := 0
		for ; sent < 1000; sent++ { // 400 MiB of answers
			if _, err := io.WriteString(client, batch); err != nil {
				break
			}
		}
		// What is read of the requests before the first answer is taken: an inbox, and
		// the answers that fit the queue.
		if sent > 50 {
			t.Errorf("%d requests were read and no answer taken", 100*sent)
		}
		if d := time.Since(start); d < time.Second || d > 10*time.Second {
			t.Errorf("disconnected after %v, want about 5s", d)
		}
		client.Close()
	})
}

// helloOf is what the first of bare nodes says of itself.
func helloOf(t *testing.T, b *bareNodes) *wire.Hello {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:8001/_peercache/v1", strings.NewReader(string(frame(t, &wire.Request{}))))
	r.Header.Set("Content-Type", wire.ContentType)
	w := httptest.NewRecorder()
	b.handlers["127.0.0.1:8001"].ServeHTTP(w, r)
	body, err := wire.NewReader(w.Body).Next()
	var m wire.Response
	if err == nil {
		err = wire.Unmarshal(body, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.GetHello()
}

func TestConnectionThatSaysNothingIsClosed(t *testing.T) {
	for name, c := range map[string]struct {
		say  func(t *testing.T, r *rawStream, hello *wire.Hello)
		most time.Duration
	}{
		"no hello": {func(*testing.T, *rawStream, *wire.Hello) {}, 5 * time.Second},
		"half a frame": {func(t *testing.T, r *rawStream, h *wire.Hello) {
			r.send(t, &wire.Request{Hello: h})
			_, _ = r.Write([]byte{100, 1})
		}, 5 * time.Second},
		"no request": {func(t *testing.T, r *rawStream, h *wire.Hello) { r.send(t, &wire.Request{Hello: h}) }, 75 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBareNodes(t, 1)
				l := &pipeListener{make(chan net.Conn), make(chan struct{})}
				server := &http.Server{Handler: b.handlers["127.0.0.1:8001"], ReadHeaderTimeout: time.Second}
				go func() { _ = server.Serve(l) }()
				defer server.Close()
				client, conn := net.Pipe()
				l.conns <- conn
				r := upgradeRaw(t, client, "127.0.0.1:8001")
				hello := helloOf(t, b)
				go c.say(t, r, hello)
				start := time.Now()
				for {
					if _, err := r.frames.Next(); err != nil {
						break
					}
				}
				if d := time.Since(start); d < c.most-time.Second || d > c.most+time.Second {
					t.Errorf("closed after %v, want %v", d, c.most)
				}
				client.Close()
			})
		})
	}
}

// Both nodes are in this process: a fetch allocates its flight, that one's channel, the
// inquiry and the value where it is asked for, and the key where it is answered.
func TestFetchAllocatesLittle(t *testing.T) {
	n, keys := fetchPair(t, 100)
	allocs := testing.AllocsPerRun(1000, func() {
		if _, err := n.cache.Get(t.Context(), keys[0]); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 5 {
		t.Errorf("a fetch allocates %v times at both ends together, want 5", allocs)
	}
}
