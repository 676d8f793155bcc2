package main

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/peercache/peercache/bench/internal/table"
)

// A series is the samples of an alternative, by round.
type series struct {
	name    string
	samples []sample
}

// results are all series by row.
type results map[string][]series

// find returns the samples of an alternative, nil if it was not measured.
func find(all []series, name string) []sample {
	if i := slices.IndexFunc(all, func(s series) bool { return s.name == name }); i >= 0 {
		return all[i].samples
	}
	return nil
}

// print prints the table of a row.
func (p *plan) print(r row, all []series) {
	fmt.Fprintf(p.out, "\n## %s\n\n", r.title())
	if len(all) == 0 {
		fmt.Fprintln(p.out, "(none of the alternatives)")
		return
	}
	table.Head(p.out, "", "Gets per second", "ratio to "+base, "p50, µs", "p99, µs", "CPU seconds per million Gets")
	for _, s := range all {
		table.Row(p.out, s.cells(find(all, base))...)
	}
}

// cells are those of a row of the table.
func (s series) cells(reference []sample) []string {
	name := s.name
	var gets, failed int64
	var cpu float64
	for _, x := range s.samples {
		gets += x.Gets
		failed += x.Failed
		cpu += x.CPU
	}
	if failed > 0 {
		name = fmt.Sprintf("%s (%.2g %% failed)", name, 100*float64(failed)/float64(gets+failed))
	}
	ratio, perMillion := "", ""
	if reference != nil {
		ratio = strconv.FormatFloat(ratios(s.samples, reference, sample.rate), 'f', 2, 64)
	}
	if cpu > 0 { // a tick of the system's clock is long: no medians here
		perMillion = fmt.Sprintf("%.3g", 1e6*cpu/float64(gets))
	}
	return []string{
		name,
		fmt.Sprintf("%.0f", table.Median(s.samples, sample.rate)),
		ratio,
		fmt.Sprintf("%.0f", table.Median(s.samples, sample.p50)),
		fmt.Sprintf("%.0f", table.Median(s.samples, sample.p99)),
		perMillion,
	}
}

func (s sample) p50() float64 { return micros(s.Latency.quantile(0.50)) }
func (s sample) p99() float64 { return micros(s.Latency.quantile(0.99)) }

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// ratios returns the median of the ratios within rounds.
func ratios(mine, other []sample, f func(sample) float64) float64 {
	values := make([]float64, len(mine))
	for i := range values {
		values[i] = f(mine[i]) / f(other[i])
	}
	return table.Median(values, func(x float64) float64 { return x })
}
