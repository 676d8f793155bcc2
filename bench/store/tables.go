package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"

	"github.com/peercache/peercache/bench/internal/stores"
	"github.com/peercache/peercache/bench/internal/table"
)

// tables are the tables that there are.
var tables = []struct {
	name  string
	print func(context.Context, *plan) error
}{
	{"hit", printHit},
	{"mixed", printMixed},
	{"memory", printMemory},
	{"bound", printBound},
}

func tableNames() []string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.name
	}
	return names
}

// A column is a job that all libraries of a table do, with one number of
// processors.
type column struct {
	name string
	job  speedJob
}

func printHit(ctx context.Context, p *plan) error {
	libs, err := p.libraries(stores.Cache, "peercache-string", "peercache-struct", "peercache-node", "peercache-node-struct",
		stores.LRU, "otter", "otter-ttl", "ristretto", stores.Classic, "sturdyc", "theine", "bigcache", "freecache",
		"groupcache-view", "groupcache-bytes")
	if err != nil {
		return err
	}
	keys := p.pick(100_000, 2_000)
	columns := make([]column, 0, 2)
	for _, c := range []column{{name: "100 B", job: speedJob{ValueSize: 100}}, {name: "1 KiB", job: speedJob{ValueSize: 1 << 10}}} {
		c.job.Keys, c.job.Filled, c.job.Capacity, c.job.Asked = keys, keys, keys, keys
		c.job.Operations = p.operations()
		columns = append(columns, c)
	}
	fmt.Fprintf(p.out, "\n## A hit: Get of a cached key, Zipf over %d keys\n", keys)
	return p.speeds(ctx, libs, columns)
}

func printMixed(ctx context.Context, p *plan) error {
	libs, err := p.libraries(stores.Cache, stores.LRU, "otter", "otter-ttl", "theine", "ristretto", stores.Classic, "sturdyc")
	if err != nil {
		return err
	}
	keys := p.pick(1_000_000, 20_000)
	for _, t := range []struct {
		title string
		job   speedJob
	}{
		{
			"in a cache with room for twice as many: Gets hit, Sets replace",
			speedJob{Capacity: keys, Filled: keys / 2, Asked: keys / 2},
		},
		{
			"in a cache with room for a tenth of them: what a Get misses is set, or loaded",
			speedJob{Capacity: keys / 10, Filled: keys / 5, Asked: keys, Evicting: true},
		},
	} {
		t.job.Keys, t.job.ValueSize, t.job.Operations = keys, 100, p.operations()
		few, many := t.job, t.job
		few.WritePercent, many.WritePercent = 5, 50
		fmt.Fprintf(p.out, "\n## Gets by Zipf, Sets evenly, over %d keys %s\n", t.job.Asked, t.title)
		if err := p.speeds(ctx, libs, []column{{"5 % Sets", few}, {"50 % Sets", many}}); err != nil {
			return err
		}
	}
	return nil
}

// speeds measures all libraries in all columns and prints the table.
func (p *plan) speeds(ctx context.Context, libs []stores.Library, columns []column) error {
	if len(libs) == 0 {
		fmt.Fprintln(p.out, "\n(none of the libraries)")
		return nil
	}
	head := []string{"ns per operation, and ratio to the first row"}
	rows := make([][]string, len(libs))
	for i, lib := range libs {
		rows[i] = []string{lib.Name}
	}
	for _, c := range columns {
		samples, err := p.turns(ctx, libs, c.job)
		if err != nil {
			return err
		}
		for k, procs := range p.procs {
			head = append(head, fmt.Sprintf("%s, GOMAXPROCS=%d", c.name, procs))
			for i := range libs {
				rows[i] = append(rows[i], cell(samples[k][i], samples[k][0]))
			}
		}
		head = append(head, c.name+": allocations", "bytes")
		if c.job.Evicting {
			head = append(head, "Gets that miss, %")
		}
		for i := range libs {
			all := samples[0][i]
			rows[i] = append(rows[i],
				fmt.Sprintf("%.2f", table.Median(all, func(s sample) float64 { return s.Allocs })),
				fmt.Sprintf("%.0f", table.Median(all, func(s sample) float64 { return s.Bytes })))
			misses := 100 * table.Median(all, func(s sample) float64 { return s.Misses }) / (1 - float64(c.job.WritePercent)/100)
			switch {
			case c.job.Evicting:
				rows[i] = append(rows[i], fmt.Sprintf("%.1f", misses))
			case misses > 0:
				rows[i][0] = fmt.Sprintf("%s (misses %.2g %%)", libs[i].Name, misses)
			}
		}
	}
	fmt.Fprintln(p.out)
	table.Head(p.out, head...)
	for _, row := range rows {
		table.Row(p.out, row...)
	}
	return nil
}

// cell is the median of what was measured, and its ratio to a base by rounds.
func cell(samples, base []sample) string {
	ratios := make([]float64, len(samples))
	for i := range ratios {
		ratios[i] = samples[i].Nanos / base[i].Nanos
	}
	nanos := table.Median(samples, func(s sample) float64 { return s.Nanos })
	return fmt.Sprintf("%.0f (%.2f)", nanos, table.Median(ratios, func(x float64) float64 { return x }))
}

// turns has all libraries do a job, in turns, and returns the samples by number of
// processors, library and round.
func (p *plan) turns(ctx context.Context, libs []stores.Library, j speedJob) (samples [][][]sample, err error) {
	children := make([]*child, len(libs))
	defer func() {
		for i, c := range children {
			if c == nil {
				continue
			}
			if stopped := c.stop(); stopped != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", libs[i].Name, stopped))
			}
		}
	}()
	samples = make([][][]sample, len(p.procs))
	for k := range samples {
		samples[k] = make([][]sample, len(libs))
	}
	for round := range p.rounds + 1 {
		for k, procs := range p.procs {
			for i, lib := range libs {
				if children[i] == nil {
					if children[i], err = start(ctx, job{Library: lib.Name, Speed: &j}); err != nil {
						return nil, err
					}
				}
				s, err := children[i].burst(burst{Procs: procs, Time: p.burst})
				if err != nil {
					return nil, fmt.Errorf("%s: %w", lib.Name, err)
				}
				if round > 0 { // the first fills caches of all kinds
					samples[k][i] = append(samples[k][i], s)
				}
			}
		}
	}
	return samples, nil
}

// burst has a child run once.
func (c *child) burst(b burst) (sample, error) {
	var s sample
	if err := c.requests.Encode(b); err != nil {
		return s, err
	}
	return s, c.answers.Decode(&s)
}

func printMemory(ctx context.Context, p *plan) error {
	libs, err := p.libraries(stores.Cache, "peercache-struct", "peercache-node", "peercache-node-struct", stores.LRU,
		"otter", "otter-ttl", "theine", "ristretto", stores.Classic, "sturdyc", "bigcache", "freecache",
		"groupcache-view", "groupcache/lru", "map")
	if err != nil {
		return err
	}
	j := memoryJob{Entries: p.pick(1_000_000, 20_000), ValueSize: 100}
	fmt.Fprintf(p.out, "\n## Memory: %d entries of %d-byte keys and %d-byte values\n\n", j.Entries, keySize, j.ValueSize)
	table.Head(p.out, "", "heap bytes per entry", "of which charged", "heap objects per entry", "CPU of one GC mark, ms", "entries held, %")
	for _, lib := range libs {
		var use memoryUse
		if err := once(ctx, job{Library: lib.Name, Memory: &j}, &use); err != nil {
			return err
		}
		table.Row(p.out, lib.Name, fmt.Sprintf("%.0f", use.Bytes), known(use.Charged, 0), fmt.Sprintf("%.2f", use.Objects),
			fmt.Sprintf("%.1f", use.MarkMs), strconv.FormatFloat(100*use.Held, 'f', 1, 64))
	}
	return nil
}

func printBound(ctx context.Context, p *plan) error {
	libs, err := p.libraries(stores.Cache, "peercache-struct", "peercache-node", stores.LRU, "otter", "theine", "ristretto",
		"bigcache", "freecache", "groupcache-view")
	if err != nil {
		return err
	}
	j := boundJob{Bytes: int64(p.pick(64, 4)) << 20, Times: 4, Writers: runtime.GOMAXPROCS(0)}
	fmt.Fprintf(p.out, "\n## Bound: %d MiB, set %d times as many bytes in values of %d B to %d KiB, by %d goroutines\n\n",
		j.Bytes>>20, j.Times, smallestValue, largestValue>>10, j.Writers)
	table.Head(p.out, "part of the bound", "charged at most", "live heap at most", "at the end")
	for _, lib := range libs {
		var peak boundPeak
		if err := once(ctx, job{Library: lib.Name, Bound: &j}, &peak); err != nil {
			return err
		}
		table.Row(p.out, lib.Name, known(peak.Charged, 3), fmt.Sprintf("%.2f", peak.Heap), fmt.Sprintf("%.2f", peak.End))
	}
	return nil
}

// known formats a number that is 0 where there is none.
func known(x float64, decimals int) string {
	if x == 0 {
		return ""
	}
	return strconv.FormatFloat(x, 'f', decimals, 64)
}
