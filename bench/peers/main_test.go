package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMain makes the test binary a child where the program under test starts one.
func TestMain(m *testing.M) {
	if isChild() {
		if err := work(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		return
	}
	// The race detector waits a second before a process ends, for goroutines that
	// are about to race. That is long where twenty children end one after the other.
	if err := os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// withoutServer are the alternatives that every machine can run.
const withoutServer = echo + "," + ours + "," + oursHTTP + "," + group + "," + netHTTP

// output runs the program and returns what it prints. On a busy machine Gets may fail,
// which warns; where all of them do, the program fails.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var out, warn bytes.Buffer
	if err := run(t.Context(), args, &out, &warn); err != nil {
		t.Fatalf("run(%q) = %v\n%s", args, err, &warn)
	}
	if warn.Len() > 0 {
		t.Logf("run(%q) warns %q", args, warn.String())
	}
	return out.String()
}

// cells returns those of the first row of a table that has this name, whatever share
// of its Gets has failed.
func cells(t *testing.T, out, name string) []string {
	t.Helper()
	for line := range strings.Lines(out) {
		row := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		if row[0] == name || strings.HasPrefix(row[0], name+" (") {
			return row
		}
	}
	t.Fatalf("no row of %s in\n%s", name, out)
	return nil
}

func TestShortMeasuresWhatNeedsNoServer(t *testing.T) {
	out := output(t, "-short", "-rows", "100Bx16", "-stores", withoutServer)
	if !strings.Contains(out, "\n## 100 B, 16 callers\n") {
		t.Errorf("the table has no title:\n%s", out)
	}
	for name := range strings.SplitSeq(withoutServer, ",") {
		row := cells(t, out, name)
		if len(row) != 6 || row[1] == "0" || row[2] != "" || row[3] == "0" || row[4] == "0" {
			t.Errorf("row of %s: %q, want a name, Gets, no ratio, and times", name, row)
		}
	}
	if strings.Contains(out, "meant to reach") {
		t.Errorf("goals without what they are measured against:\n%s", out)
	}
}

func TestSealedAlternativesAreInTheRowsThatAskForThem(t *testing.T) {
	out := output(t, "-short", "-rows", "100Bx256,100Bx64", "-stores", echoTLS)
	with, without, ok := strings.Cut(out, "64 callers")
	if !ok {
		t.Fatalf("no second table in\n%s", out)
	}
	if row := cells(t, with, echoTLS); row[1] == "0" {
		t.Errorf("row of %s: %q, want Gets", echoTLS, row)
	}
	if strings.Contains(without, echoTLS) || !strings.Contains(without, "(none of the alternatives)") {
		t.Errorf("a row that does not compare what is sealed:\n%s", without)
	}
}

func TestLargeValuesArriveWhole(t *testing.T) {
	// A value of another length is a Get that failed, and so the server would not even be filled.
	out := output(t, "-short", "-heap", "1", "-rows", "1MiBx1", "-stores", echo+","+echoTLS+","+ours+","+netHTTP)
	if row := cells(t, out, ours); row[1] == "0" {
		t.Errorf("row of %s: %q, want Gets", ours, row)
	}
}

func TestServersOfOthersAreMeasured(t *testing.T) {
	if redisMissing() != nil || memcachedMissing() != nil {
		t.Skip("needs redis-server and memcached")
	}
	out := output(t, "-short", "-rows", "1MiBx1", "-stores", strings.Join([]string{echo, ours, rueidisName, goRedis, memcached}, ","))
	if row := cells(t, out, rueidisName); row[2] != "1.00" {
		t.Errorf("row of %s: %q, want a ratio of 1.00 to itself", rueidisName, row)
	}
	for _, name := range []string{ours, goRedis, memcached} {
		if row := cells(t, out, name); row[1] == "0" || row[2] == "" {
			t.Errorf("row of %s: %q, want Gets and a ratio", name, row)
		}
	}
	if row := cells(t, out, "1MiBx1: Gets per second of peercache to go-redis"); row[1] != "≥ 1.5" || row[2] == "" {
		t.Errorf("goal: %q, want one that was measured", row)
	}
}

func TestServersOfOthersEndWithTheirChild(t *testing.T) {
	if redisMissing() != nil {
		t.Skip("needs redis-server")
	}
	c, at := startServer(t.Context(), t, job{Alternative: rueidisName, Size: 100, Callers: 1, Keys: 1})
	if err := dial(t, at.Address); err != nil {
		t.Errorf("redis-server at %s: %v", at.Address, err)
	}
	if err := c.stop(); err != nil {
		t.Errorf("stop = %v", err)
	}
	if err := dial(t, at.Address); err == nil {
		t.Errorf("somebody still listens at %s", at.Address)
	}
}

func TestWhatTheMachineLacksIsLeftOutLoudly(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var out, warn bytes.Buffer
	args := []string{"-short", "-rows", "100Bx1", "-stores", echo + "," + rueidisName + "," + memcached}
	if err := run(t.Context(), args, &out, &warn); err != nil {
		t.Fatalf("run(%q) = %v", args, err)
	}
	for _, name := range []string{rueidisName, memcached} {
		if !strings.Contains(warn.String(), "NOT MEASURED: "+name) || !strings.Contains(out.String(), "**Not measured: "+name) {
			t.Errorf("nothing is said about %s:\n%s\n%s", name, &warn, &out)
		}
	}
	if row := cells(t, out.String(), echo); row[1] == "0" || row[2] != "" {
		t.Errorf("row of %s: %q, want Gets and no ratio", echo, row)
	}
	args = []string{"-short", "-stores", rueidisName}
	if err := run(t.Context(), args, &out, &warn); err == nil {
		t.Errorf("run(%q) = nil, want an error: there is nothing to measure", args)
	}
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	for _, args := range [][]string{
		{"-rows", "100Bx3"},
		{"-stores", "none"},
		{"-rounds", "0"},
		{"-time", "-1s"},
		{"-heap", "-1"},
		{"surplus"},
	} {
		var out, warn bytes.Buffer
		if err := run(t.Context(), args, &out, &warn); err == nil {
			t.Errorf("run(%q) = nil, want an error", args)
		}
	}
}

func TestRowsAreNamedAfterSizeAndCallers(t *testing.T) {
	want := []string{"100Bx256", "100Bx64", "100Bx16", "100Bx1", "1KiBx256", "64KiBx64", "1MiBx1"}
	if d := cmp.Diff(want, names(rows)); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
	got, err := named(rows, "1MiBx1,100Bx16")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"100Bx16", "1MiBx1"}; !slices.Equal(names(got), want) {
		t.Errorf("named = %q, want %q", names(got), want)
	}
}

func TestEveryCallerHasKeysOfItsOwn(t *testing.T) {
	for _, r := range rows {
		if got := r.keys(); got < r.callers || got*r.size > 16<<20 {
			t.Errorf("%s: %d keys, want one for each caller at least and 16 MiB of values at most", r.name(), got)
		}
	}
}

func TestChildrenEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, at := startServer(ctx, t, job{Alternative: echo, Size: 100, Callers: 1, Keys: 1})
	cancel()
	if err := c.stop(); err == nil {
		t.Error("a child whose context has ended stops without an error")
	}
	if err := dial(t, at.Address); err == nil {
		t.Errorf("somebody still listens at %s", at.Address)
	}
}

func TestInterruptedRunSaysOnlyThat(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	args := []string{"-rounds", "1000", "-time", "10ms", "-rows", "100Bx1", "-stores", echo + "," + netHTTP}
	time.AfterFunc(50*time.Millisecond, cancel)
	err := run(ctx, args, &out, &out)
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), echo) {
		t.Errorf("run = %v, want that it was canceled", err)
	}
}

func TestClientWhoseServerIsGoneEndsAllTheSame(t *testing.T) {
	if redisMissing() != nil {
		t.Skip("needs redis-server")
	}
	// rueidis tries again for as long as it may.
	j := job{Alternative: rueidisName, Size: 100, Callers: 4, Keys: 4}
	serving, at := startServer(t.Context(), t, j)
	j.Server = at.Address
	c, err := startChild(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	var ready bool
	if err := c.answer(starting, &ready); err != nil {
		t.Fatal(err)
	}
	if err := serving.stop(); err != nil {
		t.Errorf("stop = %v", err)
	}
	if err := c.requests.Encode(burst{Time: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(); err != nil { // not killed
		t.Errorf("stop = %v", err)
	}
}

func TestChildWithoutAnAnswerIsKilled(t *testing.T) {
	c, _ := startServer(t.Context(), t, job{Alternative: echo, Size: 100, Callers: 1, Keys: 1})
	var v any
	if err := c.answer(time.Millisecond, &v); err == nil || !strings.Contains(err.Error(), "no answer within 1ms") {
		t.Errorf("answer = %v, want that there was none", err)
	}
	if err := c.stop(); err == nil {
		t.Error("a child that was killed stops without an error")
	}
}

func TestChildThatFailsIsNoAnswer(t *testing.T) {
	// Nobody listens at the server's address.
	c, err := startChild(t.Context(), job{Alternative: echo, Size: 100, Callers: 1, Keys: 1, Server: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	var ready bool
	if err := c.answer(starting, &ready); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("answer = %v, want that the process ended", err)
	}
	if err := c.stop(); err == nil {
		t.Error("a child that failed stops without an error")
	}
}

// startServer starts the server of a job.
func startServer(ctx context.Context, t *testing.T, j job) (*child, place) {
	t.Helper()
	c, err := startChild(ctx, j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.stop() })
	var at place
	if err := c.answer(starting, &at); err != nil {
		t.Fatal(err)
	}
	return c, at
}

// dial reports whether somebody listens.
func dial(t *testing.T, address string) error {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp4", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
