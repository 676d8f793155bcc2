package cachetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// A gauge counts what is running, by name.
type gauge struct {
	mu      sync.Mutex // guards the fields below
	running map[string]int
	changed signal // nothing runs any more
}

func (g *gauge) begin(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running == nil {
		g.running = map[string]int{}
	}
	g.running[name]++
}

func (g *gauge) end(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running[name]--; g.running[name] == 0 {
		delete(g.running, name)
	}
	if len(g.running) == 0 {
		g.changed.wake()
	}
}

// drain waits until nothing runs, and returns what does after timeout.
func (g *gauge) drain(timeout time.Duration) map[string]int {
	deadline := time.Now().Add(timeout)
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.running) > 0 && !passed(deadline, time.Now()) {
		await(&g.mu, &g.changed, deadline)
	}
	return maps.Clone(g.running)
}

// counts describes what a gauge holds.
func counts(running map[string]int) string {
	var text []string
	for _, name := range slices.Sorted(maps.Keys(running)) {
		text = append(text, fmt.Sprintf("%s (%d)", name, running[name]))
	}
	return strings.Join(text, ", ")
}
