package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/peercache/peercache"
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
	// The race detector waits a second before a process ends, for goroutines that are
	// about to race.
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
		t.Fatalf("run(%q) = %v\n%s", args, err, &warn)
	}
	if warn.Len() > 0 {
		t.Logf("run(%q) warns %q", args, warn.String())
	}
	return out.String()
}

// rows returns the cells of the rows of a table that begin with a name.
func rows(out, name string) [][]string {
	var all [][]string
	for line := range strings.Lines(out) {
		row := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		if row[0] == name {
			all = append(all, row)
		}
	}
	return all
}

// wantRows looks at the tables of scenarios, all of which concern entries or none does.
func wantRows(t *testing.T, out string, scenarios int, concern bool) {
	t.Helper()
	for _, name := range names(libraries) {
		all := rows(out, name)
		if len(all) != scenarios {
			t.Errorf("%d rows of %s, want %d:\n%s", len(all), name, scenarios, out)
		}
		for _, row := range all {
			if len(row) != 11 || row[1] == "0" {
				t.Errorf("row of %s: %q, want 11 cells, and Gets", name, row)
			} else if concerned := row[7] != "" && row[7] != "0"; concerned != concern {
				t.Errorf("row of %s: %q entries are concerned, want some: %v", name, row[7], concern)
			}
		}
	}
}

func TestNothingIsLoadedTwiceWhileNothingHappens(t *testing.T) {
	t.Parallel() // it mostly waits
	out := output(t, "-short", "-only", "none")
	wantRows(t, out, 1, false)
	for _, row := range rows(out, "groupcache") {
		if row[9] != "0" {
			t.Errorf("row: %q, want no extra loads", row)
		}
	}
}

func TestDeathsAndNewcomersAreMeasured(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := filepath.Join(t.TempDir(), "new")
	out := output(t, "-short", "-only", "kill,join", "-svg", dir)
	wantRows(t, out, 2, true)
	for _, row := range rows(out, "groupcache") {
		if strings.HasPrefix(row[9], "0 ") {
			t.Errorf("row of groupcache: %q, want loads again", row)
		}
	}
	for _, scenario := range []string{"kill", "join"} {
		for extension, want := range map[string][]string{
			".svg":   {"<svg", "peercache", "groupcache"},
			".jsonl": {`"library":"groupcache"`, `"event":"`, `"hit_ratio":`},
		} {
			content, err := os.ReadFile(filepath.Join(dir, scenario+extension))
			if err != nil {
				t.Error(err)
			}
			for _, part := range want {
				if !strings.Contains(string(content), part) {
					t.Errorf("%s%s does not have %s", scenario, extension, part)
				}
			}
		}
	}
}

func TestRollingRestartBringsAllNodesBack(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	wantRows(t, output(t, "-short", "-only", "rolling", "-svg", dir), 1, true)
	series, err := os.ReadFile(filepath.Join(dir, "rolling.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"−1", "+1", "−2", "+2", "−3", "+3"} {
		if got := strings.Count(string(series), fmt.Sprintf(`"event":%q`, name)); got != len(libraries) {
			t.Errorf("%s happens %d times, want once with each library", name, got)
		}
	}
}

func TestReplicasAreSetWhereThereAreAny(t *testing.T) {
	opts := new(peercache.Options)
	err := replicate(opts, 1)
	if _, exists := reflect.TypeFor[peercache.Options]().FieldByName("Replicas"); exists != (err == nil) {
		t.Errorf("replicate = %v, and the field is there: %v", err, exists)
	}
	if err := canReplicate(0); err != nil {
		t.Errorf("canReplicate(0) = %v", err)
	}
	if got := fmt.Sprintf("%+v", *opts); err == nil && !strings.Contains(got, "Replicas:1") {
		t.Errorf("options %s, want Replicas:1", got)
	}
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	for _, args := range [][]string{
		{"-only", "earthquake"},
		{"-stores", "none"},
		{"-nodes", "1"},
		{"-rate", "0"},
		{"-keys", "-1"},
		{"-after", "0s"},
		{"-replicas", "-1"},
		{"-svg", "main.go/pictures"},
		{"surplus"},
	} {
		var out, warn bytes.Buffer
		if err := run(t.Context(), args, &out, &warn); err == nil {
			t.Errorf("run(%q) = nil, want an error", args)
		}
	}
}

func TestInterruptedRunSaysOnlyThat(t *testing.T) {
	t.Parallel() // it mostly waits
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	var out bytes.Buffer
	err := run(ctx, []string{"-short"}, &out, &out)
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "node") {
		t.Errorf("run = %v, want that it was canceled", err)
	}
}

func TestAddressesAreHandedOutOnce(t *testing.T) {
	seen := make(map[string]bool)
	for range 50 {
		address, err := freeAddress(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if seen[address] {
			t.Errorf("%s is handed out again", address)
		}
		seen[address] = true
	}
}

// startOne starts a node of a library that is alone.
func startOne(ctx context.Context, t *testing.T, library string) (*child, *recorder, string) {
	t.Helper()
	var addresses [2]string
	for i := range addresses {
		var err error
		if addresses[i], err = freeAddress(ctx); err != nil {
			t.Fatal(err)
		}
	}
	rec := newRecorder(time.Second, time.Hour)
	c, err := startChild(ctx, job{
		Library: library, Address: addresses[0], Gossip: addresses[1],
		Keys: 10, Size: 100, Epoch: rec.epoch.UnixNano(), Tick: rec.width,
	}, rec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c, rec, addresses[0]
}

// listens reports whether somebody does.
func listens(t *testing.T, address string) bool {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp4", address)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func TestChildObeysUntilItIsStopped(t *testing.T) {
	for _, library := range names(libraries) {
		c, rec, address := startOne(t.Context(), t, library)
		if !listens(t, address) {
			t.Errorf("%s: nobody listens at %s", library, address)
		}
		if _, err := c.do(command{Meet: 1}); err != nil {
			t.Errorf("%s: meet = %v", library, err)
		}
		if _, err := c.do(command{Fill: &fill{Step: 1}}); err != nil {
			t.Errorf("%s: fill = %v", library, err)
		}
		if a, err := c.do(command{Owned: true}); err != nil || len(a.Owned) != 10 {
			t.Errorf("%s: owned = %v, %v, want all 10 keys", library, a.Owned, err)
		}
		if _, err := c.do(command{Rate: new(0.0)}); err != nil { // and it reports
			t.Errorf("%s: rate = %v", library, err)
		}
		if got := summarize(rec.part(0, len(rec.ticks)), rec.width); got.loads != 10 || got.repeated != 0 {
			t.Errorf("%s: %d loads, %d repeated, want 10 and none", library, got.loads, got.repeated)
		}
		if err := c.stop(); err != nil {
			t.Errorf("%s: stop = %v", library, err)
		}
		if listens(t, address) {
			t.Errorf("%s: somebody still listens at %s", library, address)
		}
	}
}

func TestChildLeavesOnSIGTERM(t *testing.T) {
	for _, library := range names(libraries) {
		c, _, address := startOne(t.Context(), t, library)
		if err := c.leave(); err != nil {
			t.Errorf("%s: leave = %v", library, err)
		}
		if listens(t, address) {
			t.Errorf("%s: somebody still listens at %s", library, address)
		}
	}
}

func TestKilledChildAnswersNobody(t *testing.T) {
	c, _, _ := startOne(t.Context(), t, "groupcache")
	c.kill()
	if _, err := c.do(command{Meet: 1}); err == nil {
		t.Error("do = nil after a kill, want an error")
	}
}

func TestChildrenEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, _, address := startOne(ctx, t, "peercache")
	cancel()
	if err := c.stop(); err == nil {
		t.Error("a child whose context has ended stops without an error")
	}
	if listens(t, address) {
		t.Errorf("somebody still listens at %s", address)
	}
}

func TestChildThatFailsIsNoNode(t *testing.T) {
	_, _, address := startOne(t.Context(), t, "groupcache")
	rec := newRecorder(time.Second, time.Hour)
	for _, j := range []job{{Library: "none"}, {Library: "groupcache", Address: address, Keys: 1, Tick: time.Second}} {
		if c, err := startChild(t.Context(), j, rec); err == nil {
			c.kill()
			t.Errorf("startChild(%+v) = nil, want an error", j)
		}
	}
}

func TestCommandThatFailsIsAnError(t *testing.T) {
	c, _, _ := startOne(t.Context(), t, "peercache")
	if err := c.leave(); err != nil {
		t.Fatal(err)
	}
	cl := &cluster{nodes: []*node{{number: 7, child: c}}}
	if err := cl.all(cl.nodes, func(int) command { return command{Meet: 1} }); err == nil || !strings.Contains(err.Error(), "node 7") {
		t.Errorf("all = %v, want an error of node 7", err)
	}
}
