package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/peercache/peercache/bench/internal/stores"
	"github.com/peercache/peercache/bench/internal/table"
	"github.com/peercache/peercache/bench/internal/trace"
)

// A report prints a table for each trace and, at the end, their averages.
type report struct {
	out  io.Writer
	libs []stores.Library

	sections []section // those of traces whose capacities are entries
}

// A section is the averages over the capacities of one trace.
type section struct {
	name string
	row  row
}

// A row is the hit ratios at one capacity, or averages of them, by library.
type row struct {
	optimum float64 // of objects; unknown where capacities are bytes
	ratios  []ratio
}

// average returns the means of all columns.
func average(rows []row) row {
	mean := row{ratios: make([]ratio, len(rows[0].ratios))}
	n := float64(len(rows))
	for _, r := range rows {
		mean.optimum += r.optimum / n
		for i, x := range r.ratios {
			mean.ratios[i].objects += x.objects / n
			mean.ratios[i].bytes += x.bytes / n
		}
	}
	return mean
}

// replay prints the table of one trace.
func (r *report) replay(t trace.Trace, capacities []int64, bytes bool) error {
	bound := stores.ByEntries
	if bytes {
		bound = stores.ByBytes
		if t.Sizes == nil {
			return fmt.Errorf("trace %s has no sizes: capacities cannot be bytes", t.Name)
		}
	}
	libs := slices.DeleteFunc(slices.Clone(r.libs), func(l stores.Library) bool { return l.Bounds&bound == 0 })
	if len(libs) == 0 {
		return errors.New("none of the libraries has this kind of capacity")
	}
	s := newScript(t)
	c := columns{libs: libs, bytes: bytes}
	fmt.Fprintf(r.out, "\n%s: %d accesses to %d objects", t.Name, len(t.Accesses), t.Objects)
	if bytes {
		fmt.Fprint(r.out, "; hit ratio by objects / by bytes, best by objects")
	}
	fmt.Fprint(r.out, "\n\n")
	c.head(r.out, "capacity")

	var rows []row
	for _, capacity := range capacities {
		one := row{}
		config := stores.Config{KeySize: keySize, Serial: true}
		if bytes {
			config.Bytes = capacity
		} else {
			config.Entries = int(capacity)
			one.optimum = percent(int64(trace.Belady(t, int(capacity))), int64(len(t.Accesses)))
		}
		for _, lib := range libs {
			store, err := lib.New(config)
			if err != nil {
				return fmt.Errorf("%s: %w", lib.Name, err)
			}
			one.ratios = append(one.ratios, s.play(store))
			store.Close()
		}
		c.row(r.out, capacityName(capacity, bytes), one)
		rows = append(rows, one)
	}
	mean := average(rows)
	c.row(r.out, "average", mean)
	if !bytes {
		r.sections = append(r.sections, section{t.Name, mean})
	}
	return nil
}

// summarize prints the averages of all traces whose capacities were entries.
func (r *report) summarize() {
	if len(r.sections) < 2 {
		return
	}
	libs := slices.DeleteFunc(slices.Clone(r.libs), func(l stores.Library) bool { return l.Bounds&stores.ByEntries == 0 })
	c := columns{libs: libs}
	fmt.Fprint(r.out, "\nAverages over the capacities of each trace, and over the traces\n\n")
	c.head(r.out, "trace")
	rows := make([]row, len(r.sections))
	for i, s := range r.sections {
		c.row(r.out, s.name, s.row)
		rows[i] = s.row
	}
	c.row(r.out, "average", average(rows))
}

// columns is the layout of a table.
type columns struct {
	libs  []stores.Library
	bytes bool
}

func ours(l stores.Library) bool { return strings.HasPrefix(l.Name, stores.Cache) }

// others reports whether there is anything to compare with.
func (c columns) others() bool {
	return slices.ContainsFunc(c.libs, func(l stores.Library) bool { return !ours(l) })
}

func (c columns) head(w io.Writer, first string) {
	names := []string{first}
	if !c.bytes {
		names = append(names, "optimum")
	}
	for _, l := range c.libs {
		names = append(names, l.Name)
	}
	if c.others() {
		names = append(names, "best")
		for _, l := range c.libs {
			if ours(l) {
				names = append(names, l.Name+" − best")
			}
		}
	}
	table.Head(w, names...)
}

func (c columns) row(w io.Writer, first string, r row) {
	cells := []string{first}
	if !c.bytes {
		cells = append(cells, points(r.optimum))
	}
	for _, x := range r.ratios {
		if c.bytes {
			cells = append(cells, points(x.objects)+" / "+points(x.bytes))
		} else {
			cells = append(cells, points(x.objects))
		}
	}
	if c.others() {
		best := c.best(r)
		cells = append(cells, c.libs[best].Name)
		for i, l := range c.libs {
			if ours(l) {
				cells = append(cells, fmt.Sprintf("%+.2f", r.ratios[i].objects-r.ratios[best].objects))
			}
		}
	}
	table.Row(w, cells...)
}

// best returns the index of the best of the others.
func (c columns) best(r row) int {
	best := -1
	for i, l := range c.libs {
		if !ours(l) && (best < 0 || r.ratios[i].objects > r.ratios[best].objects) {
			best = i
		}
	}
	return best
}

func points(x float64) string { return strconv.FormatFloat(x, 'f', 2, 64) }

func capacityName(capacity int64, bytes bool) string {
	if bytes && capacity%(1<<20) == 0 {
		return strconv.FormatInt(capacity>>20, 10) + " MiB"
	}
	return strconv.FormatInt(capacity, 10)
}
