package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/peercache/peercache/bench/internal/table"
)

// A goal is a ratio that peercache is meant to reach.
type goal struct {
	row    string
	mine   string
	others []string // the best of them in each round
	bound  float64

	// latency says that the medians of single Gets are compared, of which less is
	// better; else it is Gets per second.
	latency bool

	note string
}

// goals are those that there are.
var goals = []goal{
	{row: "100Bx256", mine: ours, others: []string{rueidisName}, bound: 2.5},
	{row: "100Bx256", mine: ours, others: []string{group}, bound: 15},
	{row: "100Bx256", mine: ours, others: []string{echo}, bound: 0.6, note: "wished for"},
	{row: "100Bx64", mine: ours, others: []string{rueidisName}, bound: 2},
	{row: "100Bx16", mine: ours, others: []string{rueidisName}, bound: 1.3},
	{row: "100Bx1", mine: ours, others: []string{rueidisName}, bound: 1.25, latency: true},
	{row: "1KiBx256", mine: ours, others: []string{rueidisName}, bound: 2.5},
	{row: "64KiBx64", mine: ours, others: []string{goRedis, rueidisName, memcached}, bound: 1.5},
	{row: "64KiBx64", mine: ours, others: []string{echo}, bound: 0.9, note: "instead of the one above"},
	{row: "1MiBx1", mine: ours, others: []string{goRedis}, bound: 1.5},
	{row: "100Bx256", mine: oursTLS, others: []string{rueidisName}, bound: 2},
	{row: "1MiBx1", mine: oursTLS, others: []string{goRedis}, bound: 0.65},
}

// printGoals prints the goals beside what was measured, if any of it was.
func (p *plan) printGoals(r results) {
	var lines [][]string
	for _, g := range goals {
		if measured, ok := g.measured(r); ok {
			lines = append(lines, g.cells(measured))
		}
	}
	if len(lines) == 0 {
		return
	}
	fmt.Fprint(p.out, "\n## What peercache is meant to reach\n\n")
	table.Head(p.out, "ratio", "wanted", "measured", "met")
	for _, line := range lines {
		table.Row(p.out, line...)
	}
}

// measured returns the ratio, the median of those within rounds, unless one of those
// it takes was not measured.
func (g goal) measured(r results) (ratio float64, ok bool) {
	f, better := sample.rate, func(a, b float64) bool { return a > b }
	if g.latency {
		f, better = sample.p50, func(a, b float64) bool { return a < b }
	}
	mine := find(r[g.row], g.mine)
	if mine == nil {
		return 0, false
	}
	best := make([]float64, len(mine))
	for i, name := range g.others {
		other := find(r[g.row], name)
		if other == nil {
			return 0, false
		}
		for round, s := range other {
			if x := f(s); i == 0 || better(x, best[round]) {
				best[round] = x
			}
		}
	}
	values := make([]float64, len(mine))
	for round, s := range mine {
		values[round] = f(s) / best[round]
	}
	return table.Median(values, func(x float64) float64 { return x }), true
}

func (g goal) cells(measured float64) []string {
	what, sign, met := "Gets per second", "≥", measured >= g.bound
	if g.latency {
		what, sign, met = "p50", "≤", measured <= g.bound
	}
	other := g.others[0]
	if len(g.others) > 1 {
		other = "the best of " + strings.Join(g.others, ", ")
	}
	name := fmt.Sprintf("%s: %s of %s to %s", g.row, what, g.mine, other)
	if g.note != "" {
		name += " (" + g.note + ")"
	}
	verdict := "no"
	if met {
		verdict = "yes"
	}
	return []string{name, sign + " " + strconv.FormatFloat(g.bound, 'g', -1, 64), strconv.FormatFloat(measured, 'f', 2, 64), verdict}
}
