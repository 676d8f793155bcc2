package peercache

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// recordedLog is a slog.Handler for one goroutine.
type recordedLog struct {
	slog.Handler // nil
	least        slog.Level
	lines        []string
}

func (l *recordedLog) Enabled(_ context.Context, level slog.Level) bool { return level >= l.least }

func (l *recordedLog) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.lines = append(l.lines, line)
	return nil
}

func TestLinesOfMemberlistAreLowered(t *testing.T) {
	for _, test := range []struct {
		line  string
		level slog.Level
		text  string
	}{
		{"[ERR] memberlist: Failed to send ack: x\n", slog.LevelWarn, "Failed to send ack: x"},
		{"[ERROR] memberlist: Failed to compress payload: x\n", slog.LevelWarn, "Failed to compress payload: x"},
		{"[ERR] Failed to shutdown transport: x\n", slog.LevelWarn, "Failed to shutdown transport: x"},
		{"[WARN] memberlist: Refuting a suspect message (from: b)\n", slog.LevelInfo, "Refuting a suspect message (from: b)"},
		{"[INFO] memberlist: Suspect b has failed\n", slog.LevelDebug, "Suspect b has failed"},
		{"[DEBUG] memberlist: Stream connection from=1\n", slog.LevelDebug, "Stream connection from=1"},
		{"Err: Could not set the deadline: x\n", slog.LevelInfo, "Err: Could not set the deadline: x"},
		{"[1 2] x\n", slog.LevelInfo, "[1 2] x"},
		{"", slog.LevelInfo, ""},
	} {
		if level, text := parseGossipLine(test.line); level != test.level || text != test.text {
			t.Errorf("parseGossipLine(%q) = %v, %q, want %v, %q", test.line, level, text, test.level, test.text)
		}
	}
}

func TestLinesOfOneShapeAreLoggedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			logged = recordedLog{least: slog.LevelInfo}
			l      = newGossipLog()
			done   = make(chan struct{})
			wg     sync.WaitGroup
		)
		wg.Go(func() { l.run(slog.New(&logged), done) })
		send := func(lines ...string) {
			for _, line := range lines {
				_, _ = fmt.Fprintln(l, line)
				synctest.Wait()
			}
		}
		send(
			"[ERR] memberlist: Push/Pull with http://b:8080@5f failed: dial tcp 10.0.0.1:7946: i/o timeout",
			"[ERR] memberlist: Push/Pull with http://c:8080@60 failed: dial tcp 10.0.0.2:7946: i/o timeout",
			"[ERR] memberlist: Push/Pull with http://b:8080@5f failed: EOF",
			"[DEBUG] memberlist: Failed UDP ping: http://b:8080@5f (timeout reached)",
		)
		time.Sleep(gossipLogEvery)
		send("[ERR] memberlist: Push/Pull with http://d:8080@61 failed: dial tcp 10.0.0.3:7946: i/o timeout")
		close(done)
		wg.Wait()
		send("[ERR] memberlist: too late")
		want := []string{
			"WARN gossip: Push/Pull with http://b:8080@5f failed: dial tcp 10.0.0.1:7946: i/o timeout",
			"WARN gossip: Push/Pull with http://b:8080@5f failed: EOF",
			"WARN gossip: Push/Pull with http://d:8080@61 failed: dial tcp 10.0.0.3:7946: i/o timeout suppressed=1",
		}
		if diff := cmp.Diff(want, logged.lines); diff != "" {
			t.Errorf("logged (-want +got):\n%s", diff)
		}
	})
}

func TestShapesOfLinesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged recordedLog
		l, done := newGossipLog(), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { l.run(slog.New(&logged), done) })
		word := []byte("aaaa")
		for range gossipLogShapes + 1 { // and the first once more: it was forgotten
			l.print(slog.LevelWarn, string(word))
			synctest.Wait()
			for i := range word {
				if word[i]++; word[i] <= 'z' {
					break
				}
				word[i] = 'a'
			}
		}
		l.print(slog.LevelWarn, "aaaa")
		synctest.Wait()
		close(done)
		wg.Wait()
		if n, want := len(logged.lines), gossipLogShapes+2; n != want {
			t.Errorf("%d lines logged, want %d", n, want)
		}
	})
}
