package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A color is an SGR code.
type color int

const (
	red    color = 31
	green  color = 32
	yellow color = 33
	faint  color = 2
)

// A painter colors text, or leaves it alone.
type painter func(c color, text string) string

// newPainter returns the painter for an output. NO_COLOR is the convention of
// no-color.org: any value but the empty one turns colors off.
func newPainter(terminal bool, noColor string) painter {
	if !terminal || noColor != "" {
		return func(_ color, text string) string { return text }
	}
	return func(c color, text string) string { return fmt.Sprintf("\x1b[%dm%s\x1b[0m", int(c), text) }
}

// A frame is what one drawing of the display shows.
type frame struct {
	nodes    []snapshot
	progress progress
	elapsed  time.Duration
	total    time.Duration
	note     string // what happened last
}

// lines renders the frame for a terminal of this width: no line is longer, so
// that none wraps and the display keeps its height.
func (f *frame) lines(width int, paint painter) []string {
	const row = "%4s  %-22s %-8s %9s %9s %9s %7s %9s"
	lines := []string{paint(faint, clip(fmt.Sprintf(row, "node", "url", "state", "gets", "hits", "peer gets", "loads", "bytes"), width))}
	for _, n := range f.nodes {
		line := fmt.Sprintf(row, strconv.Itoa(n.id), n.url, n.state,
			count(n.stats.Gets), count(n.stats.Hits), count(n.stats.PeerGets), count(n.loads), size(n.stats.Bytes))
		line = clip(line, width)
		switch n.state {
		case killed, ended:
			line = paint(red, line)
		case starting, joining, leaving:
			line = paint(yellow, line)
		case live:
		}
		lines = append(lines, line)
	}
	return append(lines,
		"",
		clip(bar(f.elapsed, f.total, min(40, max(10, width-50)))+" "+f.clock()+" "+f.progress.phase.String(), width),
		clip(f.counts(), width),
		clip(f.note, width),
	)
}

// line renders the frame as one line, for where nothing can be drawn again.
func (f *frame) line() string {
	live := 0
	for _, n := range f.nodes {
		if n.state.gone() {
			continue
		}
		live++
	}
	return fmt.Sprintf("%s %s, %d nodes: %s", f.clock(), f.progress.phase, live, f.counts())
}

// gone reports whether a process has ended.
func (s state) gone() bool { return s == killed || s == ended }

func (f *frame) clock() string {
	return fmt.Sprintf("%2ds of %ds", int(f.elapsed/time.Second), int(f.total/time.Second))
}

func (f *frame) counts() string {
	p := &f.progress
	return fmt.Sprintf("%s requests, %s retried, %s failed; %s keys, %s loads",
		count(p.requests), count(p.retries), count(p.failures), count(p.keys), count(p.loads))
}

// bar draws how much of total has elapsed, width characters wide.
func bar(elapsed, total time.Duration, width int) string {
	inner := width - 2
	full := 0
	if total > 0 {
		full = int(int64(inner) * int64(min(max(elapsed, 0), total)) / int64(total))
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", inner-full) + "]"
}

// clip cuts text to at most width characters.
func clip(text string, width int) string {
	if runes := []rune(text); len(runes) > width {
		return string(runes[:max(width, 0)])
	}
	return text
}

// count prints n with a comma between thousands.
func count[N int | int64](n N) string {
	digits := strconv.FormatInt(int64(n), 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// size prints a number of bytes in a unit that suits it.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// A display shows frames: on a terminal each in the place of the one before,
// elsewhere as a line now and then. It is safe for concurrent use.
type display struct {
	out      io.Writer
	terminal func() (width, height int, ok bool) // asked for each frame: windows change
	paint    painter

	mu    sync.Mutex    // guards the fields below
	drawn int           // lines of the last frame that are on the screen
	next  time.Duration // elapsed time from which the next plain line is due
	note  string
}

// plainInterval is how often a display that is no terminal prints a line.
// Arbitrary: a handful of lines per run.
const plainInterval = 3 * time.Second

// say tells what has just happened.
func (d *display) say(format string, args ...any) {
	note := fmt.Sprintf(format, args...)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note = note
	if _, _, ok := d.terminal(); !ok {
		fmt.Fprintln(d.out, note)
	}
}

// show shows a frame.
func (d *display) show(f frame) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f.note = d.note
	width, height, ok := d.terminal()
	if !ok {
		if f.elapsed >= d.next {
			fmt.Fprintln(d.out, f.line())
			d.next = f.elapsed.Truncate(plainInterval) + plainInterval
		}
		return
	}
	lines := f.lines(width, d.paint)
	if len(lines) >= height {
		// What has scrolled out of the screen cannot be drawn again; the last
		// lines say most.
		lines = lines[len(lines)-max(1, height-1):]
	}

	var b strings.Builder
	if d.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", d.drawn)
	}
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\n")
	}
	b.WriteString("\x1b[J") // a frame with more lines may have been there
	d.drawn = len(lines)
	_, _ = io.WriteString(d.out, b.String()) // nobody is left to be told
}
