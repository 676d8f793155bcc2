package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache"
)

var plain = newPainter(false, "")

func someFrame() frame {
	return frame{
		nodes: []snapshot{
			{
				id: 1, state: live, url: "http://127.0.0.1:40001", loads: 1234,
				stats: peercache.Stats{Gets: 1234567, Hits: 7, PeerGets: 99, Bytes: 3 << 20},
			},
			{id: 2, state: killed, url: "http://127.0.0.1:40002"},
			{id: 3, state: starting},
		},
		progress: progress{phase: kill, requests: 12345, failures: 0, retries: 2, loads: 678, keys: 670},
		elapsed:  6 * time.Second,
		total:    24 * time.Second,
		note:     "node 2 was killed",
	}
}

func TestTableShowsEachNodeAndTheProgress(t *testing.T) {
	f := someFrame()
	want := []string{
		"node  url                    state         gets      hits peer gets   loads     bytes",
		"   1  http://127.0.0.1:40001 live     1,234,567         7        99   1,234   3.0 MiB",
		"   2  http://127.0.0.1:40002 killed           0         0         0       0       0 B",
		"   3                         starting         0         0         0       0       0 B",
		"",
		"[#########-----------------------------]  6s of 24s kill -9",
		"12,345 requests, 2 retried, 0 failed; 670 keys, 678 loads",
		"node 2 was killed",
	}
	if diff := cmp.Diff(want, f.lines(100, plain)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestNoLineIsWiderThanTheTerminal(t *testing.T) {
	f := someFrame()
	f.note = strings.Repeat("é", 500)
	for width := range 200 {
		for _, line := range f.lines(width, plain) {
			if n := len([]rune(line)); n > width {
				t.Errorf("at width %d a line has %d characters: %s", width, n, line)
			}
		}
	}
}

func TestColorsAreForTerminalsOnly(t *testing.T) {
	for _, c := range []struct {
		terminal bool
		noColor  string
		want     string
	}{
		{true, "", "\x1b[31mx\x1b[0m"},
		{true, "1", "x"},
		{false, "", "x"},
		{false, "1", "x"},
	} {
		if got := newPainter(c.terminal, c.noColor)(red, "x"); got != c.want {
			t.Errorf("terminal %t, NO_COLOR=%q: %q, want %q", c.terminal, c.noColor, got, c.want)
		}
	}
}

func TestColorsAddNothingElse(t *testing.T) {
	f := someFrame()
	codes := regexp.MustCompile(`\x1b\[\d+m`)
	var got []string
	for _, line := range f.lines(80, newPainter(true, "")) {
		got = append(got, codes.ReplaceAllString(line, ""))
	}
	if diff := cmp.Diff(f.lines(80, plain), got); diff != "" {
		t.Errorf("lines (-plain +colored):\n%s", diff)
	}
}

func TestBarFillsFromEmptyToFull(t *testing.T) {
	for _, c := range []struct {
		elapsed, total time.Duration
		want           string
	}{
		{0, 10, "[----------]"},
		{5, 10, "[#####-----]"},
		{10, 10, "[##########]"},
		{11, 10, "[##########]"},
		{-1, 10, "[----------]"},
		{1, 0, "[----------]"},
		{time.Hour, 2 * time.Hour, "[#####-----]"},
	} {
		if got := bar(c.elapsed, c.total, 12); got != c.want {
			t.Errorf("bar(%d, %d) = %s, want %s", c.elapsed, c.total, got, c.want)
		}
	}
}

func TestNumbersAreReadable(t *testing.T) {
	for n, want := range map[int]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567", -1234: "-1,234", -123: "-123"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 3 << 29: "1536.0 MiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
}

// screen is a display whose output a test can read.
func screen(width, height int, terminal bool) (*display, *strings.Builder) {
	var out strings.Builder
	return &display{
		out:      &out,
		terminal: func() (int, int, bool) { return width, height, terminal },
		paint:    plain,
	}, &out
}

func TestFrameIsDrawnOverTheOneBefore(t *testing.T) {
	d, out := screen(100, 24, true)
	d.show(someFrame())
	if strings.Contains(out.String(), "A\r") {
		t.Errorf("the first frame moves the cursor up: %q", out)
	}
	height := strings.Count(out.String(), "\n")
	out.Reset()
	d.show(someFrame())
	if want := fmt.Sprintf("\x1b[%dA\r", height); !strings.HasPrefix(out.String(), want) {
		t.Errorf("the second frame begins with %.10q, want %q", out, want)
	}
}

func TestFrameFitsALowTerminal(t *testing.T) {
	for height := 1; height < 12; height++ {
		d, out := screen(100, height, true)
		d.show(someFrame())
		if n := strings.Count(out.String(), "\n"); n > max(1, height-1) {
			t.Errorf("%d lines in a terminal %d high", n, height)
		}
	}
}

func TestOutputThatIsNoTerminalGetsALineNowAndThen(t *testing.T) {
	d, out := screen(0, 0, false)
	for elapsed := time.Duration(0); elapsed < 2*plainInterval; elapsed += 100 * time.Millisecond {
		f := someFrame()
		f.elapsed = elapsed
		d.show(f)
	}
	d.say("node %d is new", 6)
	want := " 0s of 24s kill -9, 2 nodes: 12,345 requests, 2 retried, 0 failed; 670 keys, 678 loads\n" +
		" 3s of 24s kill -9, 2 nodes: 12,345 requests, 2 retried, 0 failed; 670 keys, 678 loads\n" +
		"node 6 is new\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}
