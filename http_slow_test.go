package peercache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
	"github.com/peercache/peercache/internal/wire"
)

// Peers, clients and middleware that are slow, mute or in the way.

// pipeListener hands a server the other ends of net.Pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { close(l.done); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8001} }

func TestStalledRequestIsCutOff(t *testing.T) {
	for name, body := range map[string][]byte{
		"half a frame":           {100, 1, 2, 3},
		"a frame over the limit": {0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBareNodes(t, 1)
				l := &pipeListener{make(chan net.Conn), make(chan struct{})}
				server := &http.Server{Handler: b.handlers["127.0.0.1:8001"], ReadTimeout: 20 * time.Second, IdleTimeout: time.Minute}
				go func() { _ = server.Serve(l) }()
				client, conn := net.Pipe()
				l.conns <- conn
				go func() {
					fmt.Fprintf(client, "POST /_peercache/v1 HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\n", wire.ContentType)
					_, _ = client.Write(body)
				}()
				ended := make(chan struct{})
				go func() {
					_, _ = io.Copy(io.Discard, client)
					close(ended)
				}()
				start := time.Now()
				select {
				case <-ended:
				case <-time.After(time.Hour):
					t.Errorf("the connection of a client that stalls is still open after %v", time.Since(start))
				}
				client.Close()
				server.Close()
			})
		})
	}
}

func TestEmptyAnswerConfirmsNothing(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, h := range map[string]http.HandlerFunc{
		"nothing": func(http.ResponseWriter, *http.Request) {},
		"a heartbeat": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(wire.Heartbeat)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cache, _, key := badPeer(t, h)
			if err := cache.Remove(t.Context(), key); !errors.Is(err, peercache.ErrPartial) {
				t.Errorf("Remove: %v, want ErrPartial: the peer has said nothing", err)
			}
			if err := cache.Set(t.Context(), key, "v", 0); !errors.Is(err, peercache.ErrPartial) {
				t.Errorf("Set: %v, want ErrPartial: the peer has said nothing", err)
			}
		})
	}
}

// slowBody gives out a part each pause, and heeds its request's context.
type slowBody struct {
	ctx   context.Context
	r     *bytes.Reader
	part  int
	pause time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	select {
	case <-time.After(b.pause):
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
	return b.r.Read(p[:min(len(p), b.part)])
}
func (*slowBody) Close() error { return nil }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestPeerThatSendsALargeValueIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := strings.Repeat("v", wire.MaxValue)
		answer := frame(t, &wire.Response{Answers: []*wire.Answer{{Value: []byte(value), TtlMs: 1000}}})
		node, err := peercache.NewNode("http://127.0.0.1:8001", &peercache.NodeOptions{
			Logger: discardLogger(),
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) { // 12 MiB/s, a hundred megabit
				return &http.Response{StatusCode: http.StatusOK, Body: &slowBody{r.Context(), bytes.NewReader(answer), 12 << 20 / 1000, time.Millisecond}}, nil
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = node.Leave(t.Context()) // which has ended when this runs
		})
		if err := node.SetPeers(node.Self(), peercache.Peer{URL: "http://127.0.0.1:8002"}); err != nil {
			t.Fatal(err)
		}
		o := &origin{}
		cache := peercache.New("c", o.load, &peercache.Options{Node: node})
		key := "k"
		for i := 0; cache.Owner(key) == node.Self().URL; i++ {
			key = fmt.Sprint("k", i)
		}
		if v, err := cache.Get(t.Context(), key); err != nil || v != value {
			t.Errorf("Get = %d bytes, %v, want the %d the owner sends", len(v), err, len(value))
		}
		if s := cache.Stats(); s.PeerErrors != 0 || s.Loads != 0 {
			t.Errorf("Stats = %+v, want an answer of the owner", s)
		}
		time.Sleep(time.Second) // the body's end is read after the value was given out
	})
}

func TestTimeToDecodeIsNotTheOwnersSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cachetest.NewCluster(t, 2)
		codec := peercache.Codec{
			Marshal: json.Marshal,
			Unmarshal: func(b []byte, v any) error {
				time.Sleep(400 * time.Millisecond) // a large value on a busy machine
				return json.Unmarshal(b, v)
			},
		}
		big := strings.Repeat("v", 2<<20)
		var loads atomic.Int32
		caches := cachetest.Caches(c, "c", func(context.Context, string) (any, time.Duration, error) {
			loads.Add(1)
			return big, time.Hour, nil
		}, &peercache.Options{Codec: codec})
		var keys []string
		for i := 0; len(keys) < 4; i++ {
			if key := fmt.Sprint("k", i); caches[0].Owner(key) == c.Node(1).Self().URL {
				keys = append(keys, key)
			}
		}
		if got, err := caches[0].GetMany(t.Context(), keys); err != nil || len(got) != len(keys) {
			t.Errorf("GetMany: %d values, %v", len(got), err)
		}
		if n := loads.Load(); n != int32(len(keys)) || caches[0].Stats().PeerErrors != 0 {
			t.Errorf("%d loads of %d keys, %d peer errors; want one each and none", n, len(keys), caches[0].Stats().PeerErrors)
		}
	})
}

func TestHandlerWorksBehindWritersThatCannotFlush(t *testing.T) {
	b := newBareNodes(t, 2)
	for host, h := range b.handlers {
		b.handlers[host] = http.TimeoutHandler(h, 10*time.Second, "")
	}
	b.setPeers()
	o := &origin{}
	caches := bareCaches(b, "c", func(ctx context.Context, key string) (string, time.Duration, error) {
		_, _, _ = o.load(ctx, key)
		return strings.Repeat("v", 1<<20), time.Hour, nil
	}, nil)
	var keys []string
	for i := 0; len(keys) < 3; i++ {
		if key := fmt.Sprint("k", i); caches[0].Owner(key) == b.nodes[1].Self().URL {
			keys = append(keys, key)
		}
	}
	if got, err := caches[0].GetMany(t.Context(), keys); err != nil || len(got) != len(keys) {
		t.Errorf("GetMany: %d values, %v", len(got), err)
	}
	for _, key := range keys {
		if n := o.of(key); n != 1 {
			t.Errorf("%s was loaded %d times, want once, by its owner", key, n)
		}
	}
}

func TestRefusalsRepeatLittleOfWhatTheyRefuse(t *testing.T) {
	var calls atomic.Int32
	s := serve(t, constant(&calls, "v", time.Hour))
	h := s.hello(t)
	h.Cluster = strings.Repeat("x", 20<<20)
	req := get("k")
	req.Hello = h
	_, answers := s.post(t, frame(t, req), nil)
	if len(answers) != 1 || answers[0].GetStatus() != wire.Status_WRONG_CLUSTER || len(answers[0].GetText()) > wire.MaxText {
		t.Errorf("%d answers, the first with %d bytes of text, want at most %d", len(answers), len(answers[0].GetText()), wire.MaxText)
	}
}

func TestTextOfAnErrorStaysWithinItsLimit(t *testing.T) {
	s := serve(t, func(context.Context, string) (string, time.Duration, error) {
		return "", 0, errors.New(strings.Repeat("\xffa", 2000))
	})
	req := get("k")
	req.Hello = s.hello(t)
	_, answers := s.post(t, frame(t, req), nil)
	for _, resp := range answers {
		for _, a := range resp.GetAnswers() {
			if len(a.GetText()) > wire.MaxText {
				t.Errorf("a text of %d bytes, want at most %d", len(a.GetText()), wire.MaxText)
			}
		}
	}
}

func TestRefusedRequestThatStallsIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBareNodes(t, 1)
		l := &pipeListener{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{Handler: b.handlers["127.0.0.1:8001"]}
		go func() { _ = server.Serve(l) }()
		client, conn := net.Pipe()
		l.conns <- conn
		go fmt.Fprint(client, "POST /_peercache/v1 HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nContent-Length: 1000\r\n\r\n")
		ended := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, client)
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(time.Hour):
			t.Error("the connection of a refused client that stalls is still open after an hour")
		}
		client.Close()
		server.Close()
	})
}

func TestRequestsInFlightToAPeerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound, more = 4096, 100
		var flying, most atomic.Int64
		node, err := peercache.NewNode("http://127.0.0.1:1", &peercache.NodeOptions{
			Logger: discardLogger(),
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				most.Store(max(most.Load(), flying.Add(1)))
				defer flying.Add(-1)
				<-r.Context().Done() // silent
				return nil, r.Context().Err()
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = node.Leave(t.Context()) }()
		peer := peercache.Peer{URL: "http://127.0.0.1:9"}
		if err := node.SetPeers(node.Self(), peer); err != nil {
			t.Fatal(err)
		}
		cache := peercache.New("c", (&origin{}).load, &peercache.Options{Node: node, MaxLoads: -1})
		var busy, values atomic.Int64
		var wg sync.WaitGroup
		for i, n := 0, 0; n < bound+more; i++ {
			key := fmt.Sprint("key-", i)
			if cache.Owner(key) != peer.URL {
				continue
			}
			n++
			wg.Go(func() {
				_, err := cache.Get(t.Context(), key)
				switch {
				case err == nil:
					values.Add(1)
				case errors.Is(err, peercache.ErrOverloaded):
					busy.Add(1)
				default:
					t.Errorf("Get: %v", err)
				}
			})
		}
		wg.Wait()
		if values.Load() != bound || busy.Load() != more || most.Load() > bound {
			t.Errorf("%d values, %d refused, %d in flight at once, want %d, %d and at most %d",
				values.Load(), busy.Load(), most.Load(), bound, more, bound)
		}
	})
}
