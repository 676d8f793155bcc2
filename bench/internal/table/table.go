// Package table writes tables in Markdown, a row at a time, so that who watches a
// long measurement sees how it goes.
package table

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Head begins a table with these columns, of which all but the first are aligned
// to the right.
func Head(w io.Writer, columns ...string) {
	Row(w, columns...)
	fmt.Fprintln(w, "|---|"+strings.Repeat("--:|", len(columns)-1))
}

// Row writes a row of a table.
func Row(w io.Writer, cells ...string) {
	fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
}

// Median returns the median of what a function makes of the elements of xs.
func Median[T any](xs []T, f func(T) float64) float64 {
	values := make([]float64, len(xs))
	for i, x := range xs {
		values[i] = f(x)
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}
