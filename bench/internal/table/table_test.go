package table_test

import (
	"bytes"
	"testing"

	"github.com/peercache/peercache/bench/internal/table"
)

func TestTableIsMarkdown(t *testing.T) {
	var out bytes.Buffer
	table.Head(&out, "name", "ns", "%")
	table.Row(&out, "a", "1", "")
	want := "| name | ns | % |\n|---|--:|--:|\n| a | 1 |  |\n"
	if got := out.String(); got != want {
		t.Errorf("table = %q, want %q", got, want)
	}
}
