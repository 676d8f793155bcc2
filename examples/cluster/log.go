package main

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
)

// A tail keeps the last lines that a process logged, for when it fails.
type tail struct {
	echo func(line []byte) // if not nil, gets each line as well

	mu    sync.Mutex // guards the fields below
	part  []byte     // a line that has not ended
	lines [][]byte
}

// tailLines is how many lines are kept: a panic with one goroutine's stack.
const tailLines = 40

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part = append(t.part, b...)
	for {
		line, rest, ok := bytes.Cut(t.part, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		line = bytes.Clone(line)
		t.part = rest
		if t.lines = append(t.lines, line); len(t.lines) > tailLines {
			t.lines = t.lines[1:]
		}
		if t.echo != nil {
			t.echo(line)
		}
	}
}

// text is what was kept, indented, beginning on a new line; "" if nothing was.
func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, line := range t.lines {
		fmt.Fprintf(&b, "\n    %s", line)
	}
	return b.String()
}
