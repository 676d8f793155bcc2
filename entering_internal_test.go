package peercache

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// A roundTripper is a transport made of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// newEntering returns the entrance of a node that knows of one active member, which
// answers through transport.
func newEntering(t *testing.T, transport roundTripper) (*Node, *entrance) {
	t.Helper()
	n, err := NewNode("http://127.0.0.1:8080", &NodeOptions{Transport: transport, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRoster(n.self, "127.0.0.1:7946")
	if err != nil {
		t.Fatal(err)
	}
	m := member{url: "http://127.0.0.2:8080", weight: 1, boot: 1, state: stateActive}
	meta, err := m.meta()
	if err == nil {
		err = r.put(m.gossipName(), "127.0.0.2:7946", meta, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.phase = phaseJoined
	return n, newEntrance(n, &gossip{roster: r})
}

// One member says that it does not reach the newcomer, whose server is a moment late. From
// then on no member answers: that one has died, perhaps, and others hang.
//
//	newcomer                               member
//	may I enter? (its server starts)
//	                                       nobody is there
//	                                       dies
//	may I enter? may I enter? …
func TestRefusalThatNobodyRepeatsIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		n, e := newEntering(t, func(r *http.Request) (*http.Response, error) {
			if asked.Add(1) > 20 {
				return nil, io.ErrUnexpectedEOF
			}
			b, err := wire.AppendFrame(nil, &wire.Response{Hello: &wire.Hello{Boot: 1}, Status: wire.Status_UNMET, Text: "refused"})
			if err != nil {
				t.Error(err)
			}
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(b)), Request: r}, nil
		})
		n.background(e.run)
		e.meets("127.0.0.2:7946")
		active := func() bool { return e.gossip.members()[0].state == stateActive }
		for asked.Load() <= 20 {
			time.Sleep(entryFirst)
			if asked.Load() <= 20 && active() {
				t.Fatalf("the node is in the ring after %d refusals", asked.Load())
			}
		}
		time.Sleep(refusalStands / 2)
		if active() {
			t.Errorf("the node is in the ring %v after a refusal", refusalStands/2)
		}
		time.Sleep(refusalStands)
		if !active() {
			t.Errorf("the node stays out of the ring though nobody has refused it for %v", refusalStands)
		}
		n.stop(nil, now())
	})
}

// What answers at a URL may be anything, also something that never ends: heartbeats, as
// far as one can tell.
func TestGreetingEndsThoughTheAnswerDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := newEntering(t, func(r *http.Request) (*http.Response, error) {
			body, beats := io.Pipe()
			go func() {
				for {
					if _, err := beats.Write(wire.Heartbeat); err != nil {
						return
					}
					time.Sleep(beatInterval)
				}
			}()
			t.Cleanup(func() { body.Close() })
			go func() {
				<-r.Context().Done()
				body.CloseWithError(r.Context().Err())
			}()
			return &http.Response{StatusCode: http.StatusOK, Body: body, Request: r}, nil
		})
		greeted := make(chan error, 1)
		start := time.Now()
		go func() {
			_, err := n.greet(n.life, "http://127.0.0.2:8080", stateActive)
			greeted <- err
		}()
		select {
		case err := <-greeted:
			if err == nil {
				t.Error("heartbeats were taken for a greeting")
			}
			t.Logf("%v after %v", err, time.Since(start))
		case <-time.After(time.Minute):
			t.Error("a greeting takes more than a minute")
		}
		n.stop(nil, now())
		time.Sleep(beatInterval) // the peer's goroutine ends
	})
}
