package cachetest

import (
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
)

// A logged is a testing.TB that keeps what is logged.
type logged struct {
	testing.TB
	lines []string
}

func (l *logged) Log(args ...any) { l.lines = append(l.lines, fmt.Sprint(args...)) }

func TestNothingIsLoggedAfterTheTest(t *testing.T) {
	tb := &logged{TB: t}
	l := &testLog{tb: tb}
	logger := slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	logger.Info("before")
	l.end()
	logger.Info("after")
	if got, want := fmt.Sprint(tb.lines), "[level=INFO msg=before]"; got != want {
		t.Errorf("logged %s, want %s", got, want)
	}
}

func TestBubbleIsRecognised(t *testing.T) {
	if inBubble() {
		t.Error("in a bubble outside of one")
	}
	synctest.Test(t, func(t *testing.T) {
		if !inBubble() {
			t.Error("not in a bubble inside one")
		}
	})
}
