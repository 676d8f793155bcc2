package peercache

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

// gossipLog hands the lines that memberlist prints to a slog.Logger, at a lower
// level and not too often: to a cache a lost peer is an event of an ordinary day.
//
// Lines are queued, and logged on a goroutine of its own. memberlist prints while it
// holds its lock, and a handler that is slow, or asks the node something, would keep
// this process from answering probes.
type gossipLog struct {
	lines chan gossipLine
}

type gossipLine struct {
	level slog.Level
	text  string
	of    string // what tells it from others of its shape, "" for nothing
}

const (
	gossipLogQueue  = 128              // arbitrary; lines beyond it are lost
	gossipLogEvery  = 10 * time.Second // per shape of a line
	gossipLogShapes = 256              // memberlist has about 90 texts; others come from the network's errors
)

func newGossipLog() *gossipLog {
	return &gossipLog{lines: make(chan gossipLine, gossipLogQueue)}
}

// print queues a line. It never blocks.
func (l *gossipLog) print(level slog.Level, text string) { l.printOf("", level, text) }

// printOf queues a line that is about a peer, and is held back only by others about it.
func (l *gossipLog) printOf(peer string, level slog.Level, text string) {
	select {
	case l.lines <- gossipLine{level, text, peer}:
	default:
	}
}

// Write takes one line of a log.Logger without flags.
func (l *gossipLog) Write(b []byte) (int, error) {
	l.print(parseGossipLine(string(b)))
	return len(b), nil
}

// run logs until done is closed; nothing is logged after it has returned.
func (l *gossipLog) run(logger *slog.Logger, done <-chan struct{}) {
	type shape struct {
		until      time.Time // when the next may be logged
		suppressed int
	}
	shapes := make(map[string]*shape)
	for {
		var line gossipLine
		select {
		case line = <-l.lines:
		case <-done:
			return
		}
		if !logger.Enabled(context.Background(), line.level) {
			continue
		}
		key := line.of + " " + gossipLineShape(line.text)
		s := shapes[key]
		if s == nil {
			if len(shapes) >= gossipLogShapes {
				clear(shapes) // a few lines too many, once in a while
			}
			s = new(shape)
			shapes[key] = s
		}
		if time.Now().Before(s.until) {
			s.suppressed++
			continue
		}
		attrs := make([]slog.Attr, 0, 1)
		if s.suppressed > 0 {
			attrs = append(attrs, slog.Int("suppressed", s.suppressed))
		}
		*s = shape{until: time.Now().Add(gossipLogEvery)}
		logger.LogAttrs(context.Background(), line.level, "gossip: "+line.text, attrs...)
	}
}

// parseGossipLine takes the level off a line such as
// "[WARN] memberlist: Refuting a suspect message (from: x)". What memberlist calls
// an error is one packet or one connection that failed, and a warning to us at most.
func parseGossipLine(line string) (slog.Level, string) {
	level := slog.LevelInfo // unmarked: nobody said that it is harmless
	if tag, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(tag, "[") {
		known := true
		switch tag[1:] {
		case "ERR", "ERROR":
			level = slog.LevelWarn
		case "WARN":
			level = slog.LevelInfo
		case "INFO", "DEBUG":
			level = slog.LevelDebug
		default:
			known = false
		}
		if known {
			line = rest
		}
	}
	return level, strings.TrimPrefix(strings.TrimSpace(line), "memberlist: ")
}

// gossipLineShape is a line without the words that tell one peer from another:
// those with a digit (addresses, meta data) or a slash (names).
func gossipLineShape(text string) string {
	var b strings.Builder
	for word := range strings.FieldsSeq(text) {
		if !strings.ContainsAny(word, "0123456789/") {
			b.WriteString(word)
			b.WriteByte(' ')
		}
	}
	return b.String()
}
