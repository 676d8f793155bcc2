package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/peercache/peercache/bench/internal/table"
)

// TestMain makes the test binary a child where the program under test starts one.
func TestMain(m *testing.M) {
	if isChild() {
		if err := serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		return
	}
	// The race detector waits a second before a process ends, for goroutines that
	// are about to race. That is long where fifty children end one after the other.
	if err := os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// output runs the program and returns what it prints.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var out, warn bytes.Buffer
	if err := run(t.Context(), args, &out, &warn); err != nil {
		t.Fatalf("run(%q) = %v", args, err)
	}
	if warn.Len() > 0 {
		t.Errorf("run(%q) warns %q", args, warn.String())
	}
	return out.String()
}

// cells returns those of the row of a table that begins with name.
func cells(t *testing.T, out, name string) []string {
	t.Helper()
	for line := range strings.Lines(out) {
		row := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		if row[0] == name {
			return row
		}
	}
	t.Fatalf("no row of %s in\n%s", name, out)
	return nil
}

func TestHitMeasuresEveryLibrary(t *testing.T) {
	out := output(t, "-short", "-only", "hit", "-procs", "1")
	for _, name := range []string{"peercache", "peercache-node", "peercache/lru", "otter", "ristretto", "golang-lru", "theine", "groupcache-view"} {
		row := cells(t, out, name)
		if len(row) != 7 || slices.Contains(row, "") || strings.HasPrefix(row[1], "0 ") {
			t.Errorf("row of %s: %q, want a name and 6 measurements", name, row)
		}
	}
	if row := cells(t, out, "peercache"); row[2] != "0.00" {
		t.Errorf("a hit of peercache allocates %s times, want 0.00", row[2])
	}
}

func TestMixedMeasuresBothKindsOfCache(t *testing.T) {
	out := output(t, "-short", "-only", "mixed", "-procs", "1,2", "-stores", "peercache,otter,golang-lru")
	roomy, full, ok := strings.Cut(out, "room for a tenth")
	if !ok {
		t.Fatalf("no second table in\n%s", out)
	}
	if row := cells(t, roomy, "otter"); len(row) != 9 {
		t.Errorf("row without evictions: %q, want 8 measurements", row)
	}
	// A tenth of the keys does not get all accesses, whoever sets what is missed.
	for _, name := range []string{"peercache", "golang-lru"} {
		row := cells(t, full, name)
		if len(row) != 11 || row[5] == "0.0" || row[10] == "0.0" {
			t.Errorf("row with evictions: %q, want 10 measurements, misses among them", row)
		}
	}
}

func TestMemoryCountsTheHeap(t *testing.T) {
	out := output(t, "-short", "-only", "memory", "-stores", "map,freecache")
	row := cells(t, out, "map")
	// Key and value take 20 and 100 bytes and are two objects.
	if row[1] < "137" || row[1] > "300" || len(row[1]) != 3 {
		t.Errorf("a map takes %s bytes per entry, want 137 to 300", row[1])
	}
	if row[3] != "2.00" || row[5] != "100.0" {
		t.Errorf("a map has %s objects per entry and %s %%, want 2.00 and 100.0", row[3], row[5])
	}
	if row := cells(t, out, "freecache"); row[3] > "0.10" {
		t.Errorf("freecache has %s objects per entry, want hardly any", row[3])
	}
}

func TestBoundSeesWhatIsCharged(t *testing.T) {
	out := output(t, "-short", "-only", "bound", "-stores", "peercache/lru,otter")
	if row := cells(t, out, "peercache/lru"); row[1] < "0.900" || row[1] > "1.000" {
		t.Errorf("peercache/lru is charged %s of its bound, want 0.900 to 1.000", row[1])
	}
	if row := cells(t, out, "otter"); row[1] != "" || row[2] < "0.50" {
		t.Errorf("otter: %q, want no account and a heap near the bound", row)
	}
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	for _, args := range [][]string{
		{"-only", "hits"},
		{"-stores", "none"},
		{"-procs", "0"},
		{"-rounds", "0"},
		{"-time", "-1s"},
		{"surplus"},
	} {
		var out, warn bytes.Buffer
		if err := run(t.Context(), args, &out, &warn); err == nil {
			t.Errorf("run(%q) = nil, want an error", args)
		}
	}
}

func TestAChildThatCannotDoItsJobIsAnError(t *testing.T) {
	var use memoryUse
	err := once(t.Context(), job{Library: "none", Memory: &memoryJob{Entries: 1}}, &use)
	if err == nil {
		t.Error("a job for a library that there is not = nil, want an error")
	}
	if err := once(t.Context(), job{Library: "map"}, &use); err == nil {
		t.Error("a job that says nothing = nil, want an error")
	}
}

func TestChildrenEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, err := start(ctx, job{Library: "map", Speed: &speedJob{Keys: 10, Filled: 10, Capacity: 10, Asked: 10, Operations: 16}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.burst(burst{Procs: 1, Time: time.Millisecond}); err != nil {
		t.Errorf("burst = %v", err)
	}
	cancel()
	if err := c.stop(); err == nil {
		t.Error("a child whose context has ended stops without an error")
	}
}

func TestCellIsTheMedianAndTheMedianOfRatios(t *testing.T) {
	mine := []sample{{Nanos: 10}, {Nanos: 40}, {Nanos: 30}}
	base := []sample{{Nanos: 10}, {Nanos: 10}, {Nanos: 20}}
	if got, want := cell(mine, base), "30 (1.50)"; got != want {
		t.Errorf("cell = %q, want %q", got, want)
	}
}

func TestMedian(t *testing.T) {
	for want, xs := range map[float64][]float64{2: {3, 1, 2}, 2.5: {4, 1, 3, 2}, 7: {7}} {
		if got := table.Median(xs, func(x float64) float64 { return x }); got != want {
			t.Errorf("table.Median(%v) = %v, want %v", xs, got, want)
		}
	}
}
