package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// file writes a trace and returns its path.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// output runs the program and returns what it prints on both outputs.
func output(t *testing.T, args ...string) (out, warn string) {
	t.Helper()
	var o, w bytes.Buffer
	if err := run(args, &o, &w); err != nil {
		t.Fatalf("run(%q) = %v", args, err)
	}
	return o.String(), w.String()
}

func TestTableOfATraceByHand(t *testing.T) {
	// With room for two, the least recently used policy hits the second and the
	// third 1 and the second 3. Nothing else comes twice.
	path := file(t, "lirs-tiny", strings.Join(strings.Split("1 1 2 1 3 3 4 5", " "), "\n"))
	got, _ := output(t, "-stores", "golang-lru,groupcache/lru", "-capacities", "2,8", path)
	want := `
lirs-tiny: 8 accesses to 5 objects

| capacity | optimum | golang-lru | groupcache/lru | best |
|---|--:|--:|--:|--:|
| 2 | 37.50 | 37.50 | 37.50 | golang-lru |
| 8 | 37.50 | 37.50 | 37.50 | golang-lru |
| average | 37.50 | 37.50 | 37.50 | golang-lru |
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
}

func TestSizedTraceCountsObjectsAndBytes(t *testing.T) {
	path := file(t, "adapt_size-tiny", "1 1 1000\n2 2 3000\n3 1 1000\n4 2 3000\n5 1 1000\n")
	got, _ := output(t, "-bytes", "-stores", "golang-lru,2q", "-capacities", "2000,1MiB", path)
	want := `
adapt_size-tiny: 5 accesses to 2 objects; hit ratio by objects / by bytes, best by objects

| capacity | golang-lru | best |
|---|--:|--:|
| 2000 | 40.00 / 22.22 | golang-lru |
| 1 MiB | 60.00 / 55.56 | golang-lru |
| average | 50.00 / 38.89 | golang-lru |
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
}

func TestDistanceIsToTheBestOfTheOthers(t *testing.T) {
	r := row{optimum: 90, ratios: []ratio{{objects: 50}, {objects: 55}, {objects: 52.5}}}
	var out bytes.Buffer
	libs := libraries(t, "peercache/lru", "golang-lru", "otter")
	c := columns{libs: libs}
	c.head(&out, "x")
	c.row(&out, "y", r)
	want := `| x | optimum | peercache/lru | golang-lru | otter | best | peercache/lru − best |
|---|--:|--:|--:|--:|--:|--:|
| y | 90.00 | 50.00 | 55.00 | 52.50 | golang-lru | -5.00 |
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
}

func TestTracesThatAreNotThereAreSkippedLoudly(t *testing.T) {
	t.Setenv("TRACES", "")
	out, warn := output(t)
	if out != "" || !strings.HasPrefix(warn, "SKIPPED all traces") {
		t.Errorf("without a directory: output %q, warnings %q", out, warn)
	}
	out, warn = output(t, "-traces", t.TempDir())
	for _, set := range defaultSets {
		if !strings.Contains(warn, "SKIPPED "+set.name+":") {
			t.Errorf("no word of %s in %q", set.name, warn)
		}
	}
	if out != "" {
		t.Errorf("output %q, want none", out)
	}
}

func TestDefaultSetReadsTheFilesItNames(t *testing.T) {
	path := file(t, loopFile, "") // not gzip
	var out, warn bytes.Buffer
	if err := run([]string{"-traces", filepath.Dir(path)}, &out, &warn); err == nil {
		t.Error("a file that is there and cannot be read is no error")
	}
}

func TestSyntheticTracesNeedNoFiles(t *testing.T) {
	t.Setenv("TRACES", "")
	out, warn := output(t, "-synthetic", "-limit", "500", "-stores", "peercache/lru-1,golang-lru")
	if warn != "" {
		t.Errorf("warnings %q, want none", warn)
	}
	for _, want := range []string{"zipf-1.0: 500 accesses", "phases: 500 accesses", "Averages over the capacities"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the output", want)
		}
	}
}

func TestCapacities(t *testing.T) {
	for list, want := range map[string][]int64{
		"250":           {250},
		"1,2KiB,3MiB":   {1, 2 << 10, 3 << 20},
		"4GiB":          {4 << 30},
		"":              nil,
		"0":             nil,
		"-1":            nil,
		"1,":            nil,
		"1 MiB":         nil,
		"2147483648GiB": nil, // more than 32 bits of any unit
	} {
		got, err := parseCapacities(list)
		if !slices.Equal(got, want) || (err != nil) != (want == nil) {
			t.Errorf("parseCapacities(%q) = %d, %v, want %d", list, got, err, want)
		}
	}
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	path := file(t, "lirs-tiny", "1\n")
	for _, args := range [][]string{
		{"-stores", "none"},
		{path},
		{"-capacities", "1", path + ".missing"},
		{"-bytes", "-capacities", "1", path},
		{"-stores", "bigcache", "-capacities", "1", path},
	} {
		var out, warn bytes.Buffer
		if err := run(args, &out, &warn); err == nil {
			t.Errorf("run(%q) = nil, want an error", args)
		}
	}
}
