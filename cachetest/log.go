package cachetest

import (
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// A testLog writes to a test's log until the test ends; a test panics that is
// logged to later.
type testLog struct {
	tb testing.TB

	mu    sync.Mutex // guards the fields below, and is held while logging, so that end can wait for it
	ended bool
}

func (l *testLog) handler() slog.Handler {
	if !testing.Testing() || !testing.Verbose() {
		return slog.DiscardHandler
	}
	return slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo})
}

func (l *testLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return 0, io.ErrClosedPipe
	}
	l.tb.Log(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}
