// Package table writes tables in Markdown, a row at a time, so that who watches a
// long measurement sees how it goes.
package table

import (
	"fmt"
	"io"
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
