package peercache

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// An answering is a transport behind which a process of this boot answers, or with boot 0
// nobody.
type answering struct {
	t     *testing.T
	boot  uint64
	calls int
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Upgrade") != "" {
		return &http.Response{StatusCode: http.StatusNotImplemented, Body: http.NoBody}, nil
	}
	a.calls++
	if a.boot == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	b, err := wire.AppendFrame(nil, &wire.Response{Hello: &wire.Hello{Boot: a.boot}})
	if err != nil {
		a.t.Error(err)
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(b)), Request: r}, nil
}

func TestOneThatAnswersAtAURLCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log recordedLog
		log.least = slog.LevelWarn
		transport := &answering{t: t, boot: 1}
		n, err := NewNode("http://127.0.0.1:8080", &NodeOptions{Transport: transport, Logger: slog.New(&log)})
		if err != nil {
			t.Fatal(err)
		}
		r, err := newRoster(n.self, "127.0.0.1:7946")
		if err != nil {
			t.Fatal(err)
		}
		put := func(boot uint64, s state) {
			t.Helper()
			m := member{url: "http://127.0.0.2:8080", weight: 1, boot: boot, state: s}
			meta, err := m.meta()
			if err == nil {
				err = r.put(m.gossipName(), "127.0.0.2:7946", meta, true)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		counts := func() uint64 { return r.members()[1].boot }
		tw := twins{node: n, gossip: &gossip{roster: r}}

		put(1, stateActive)
		if tw.settle(); transport.calls != 0 || tw.due() != nil {
			t.Errorf("%d questions where URLs are of one process each, want none", transport.calls)
		}
		put(2, stateActive)
		if tw.settle(); counts() != 1 || transport.calls != 1 || tw.due() == nil {
			t.Errorf("boot %d counts after %d questions, want 1, which answers, after one", counts(), transport.calls)
		}
		if tw.settle(); transport.calls != 1 {
			t.Errorf("%d questions at once, want an answer to stand for a while", transport.calls)
		}
		transport.boot = 2 // its server listens now
		time.Sleep(twinsRetry)
		if tw.settle(); counts() != 2 {
			t.Errorf("boot %d counts, want 2, which answers now", counts())
		}
		transport.boot = 0
		time.Sleep(twinsRetry)
		if tw.settle(); counts() != 2 {
			t.Errorf("boot %d counts, want 2, which answered last", counts())
		}
		if len(log.lines) != 0 {
			t.Errorf("logged %q for what a restart looks like too", log.lines)
		}
		for range 4 {
			time.Sleep(twinsRetry)
			tw.settle()
		}
		if len(log.lines) != 1 || !strings.Contains(log.lines[0], "http://127.0.0.2:8080") {
			t.Errorf("logged %q, want one line about what lasts", log.lines)
		}
		r.drop(member{url: "http://127.0.0.2:8080", boot: 2}.gossipName())
		if tw.settle(); counts() != 1 || tw.due() != nil {
			t.Errorf("boot %d counts, want the one that is left", counts())
		}
		_ = n.Leave(t.Context())
	})
}
