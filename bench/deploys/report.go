package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/peercache/peercache/bench/internal/table"
)

// print prints the table of a scenario.
func (p *plan) print(s scenario, results []result) {
	fmt.Fprintf(p.out, "\n## %s\n\n", s.heading(p.replicas))
	table.Head(p.out, "", "Gets", "failed", "over 100 ms", "p50, ms: before / during / after", "p99, ms: before / during / after",
		"lowest hit ratio, %", "entries concerned", "asked for", "extra loads", "for each asked for")
	for _, r := range results {
		table.Row(p.out, r.cells()...)
		if r.failure != "" {
			fmt.Fprintf(p.warn, "deploys: %s, %s: a Get failed: %s\n", s.name, r.library, r.failure)
		}
	}
}

// cells are those of a row of the table. What does not say when it was counted was
// counted from the event on.
func (r *result) cells() []string {
	rest := r.rest()
	cells := []string{
		r.library, strconv.Itoa(rest.gets), share(rest.failed, rest.gets), share(rest.slow, rest.gets),
		r.times(func(s summary) time.Duration { return s.p50 }), r.times(func(s summary) time.Duration { return s.p99 }),
		fmt.Sprintf("%.1f", 100*rest.lowest),
	}
	if r.concerned == 0 {
		return append(cells, "", "", strconv.Itoa(r.extra), "")
	}
	return append(cells, strconv.Itoa(r.concerned), strconv.Itoa(r.asked), share(r.extra, r.concerned),
		fmt.Sprintf("%.2f", float64(r.extra)/float64(max(r.asked, 1))))
}

func share(n, of int) string {
	return fmt.Sprintf("%d (%.3g %%)", n, 100*float64(n)/float64(max(of, 1)))
}

// times are those of the three parts.
func (r *result) times(f func(summary) time.Duration) string {
	return millis(f(r.before)) + " / " + millis(f(r.during)) + " / " + millis(f(r.after))
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.3g", float64(d)/float64(time.Millisecond))
}
