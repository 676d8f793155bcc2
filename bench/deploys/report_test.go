package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// measured is a run of five ticks of half a second, with an event before the third.
func measured() result {
	quick := tick{Micros: []uint32{1000, 1000}, Keys: []uint32{1, 2}}
	hit := tick{Micros: []uint32{2000, 120_000}, Keys: []uint32{1, 3}, Failed: 1, Loads: []uint32{1}, repeated: 1}
	r := result{
		library: "one", ticks: []tick{quick, quick, hit, {}, quick}, event: 2, width: 500 * time.Millisecond,
		events:    []happening{{tick: 0.5, name: "kill 1"}},
		concerned: 10, asked: 2, extra: 1,
	}
	r.before, r.during, r.after = summarize(r.ticks[:2], r.width), summarize(r.ticks[2:4], r.width), summarize(r.ticks[4:], r.width)
	return r
}

func TestRowCountsFromTheEventOn(t *testing.T) {
	r := measured()
	want := []string{"one", "4", "1 (25 %)", "1 (25 %)", "1 / 2 / 1", "1 / 120 / 1", "50.0", "10", "2", "1 (10 %)", "0.50"}
	if d := cmp.Diff(want, r.cells()); d != "" {
		t.Errorf("cells (-want +got):\n%s", d)
	}
	r.concerned, r.asked = 0, 0
	want = append(want[:7], "", "", "1", "")
	if d := cmp.Diff(want, r.cells()); d != "" {
		t.Errorf("cells where nothing happens (-want +got):\n%s", d)
	}
}

func TestSeriesIsCountedInSecondsFromTheEvent(t *testing.T) {
	var out bytes.Buffer
	if err := writeSeries(&out, []result{measured()}); err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, m)
	}
	if len(lines) != 6 {
		t.Fatalf("%d lines, want 5 ticks and an event:\n%s", len(lines), &out)
	}
	want := map[string]any{
		"library": "one", "second": 0.0, "gets": 2.0, "failed": 1.0, "slow": 1.0, "loads": 1.0, "repeated": 1.0,
		"hit_ratio": 0.5, "p50_ms": 2.0, "p99_ms": 120.0,
	}
	if d := cmp.Diff(want, lines[2]); d != "" {
		t.Errorf("the first tick of the event (-want +got):\n%s", d)
	}
	if lines[0]["second"] != -1.0 || lines[3]["hit_ratio"] != nil {
		t.Errorf("the first tick is at %v and the quiet one has the hit ratio %v, want -1 and null", lines[0]["second"], lines[3]["hit_ratio"])
	}
	want = map[string]any{"library": "one", "second": 0.25, "event": "kill 1"}
	if d := cmp.Diff(want, lines[5]); d != "" {
		t.Errorf("the event (-want +got):\n%s", d)
	}
}

func TestPictureHasAllLibraries(t *testing.T) {
	other := measured()
	other.library = "other"
	f := figure(scenarios[0].heading(0), []result{measured(), other})
	if d := cmp.Diff([]string{"one", "other"}, f.Series); d != "" {
		t.Errorf("series (-want +got):\n%s", d)
	}
	if len(f.Panels) != 2 || len(f.Panels[0].Lines) != 2 || len(f.Events) != 2 || f.Events[1].Series != 1 {
		t.Fatalf("%+v, want two panels of two lines, and an event of each library", f)
	}
	if got := f.Panels[0].Lines[1][2]; got.X != 0.25 || got.Y != 50 {
		t.Errorf("the hit ratio of the first tick of the event is at %v, want its middle, 0.25 s, and 50 %%", got)
	}
	if got := f.Panels[1].Lines[0][2]; got.Y != 120 {
		t.Errorf("the p99 of the first tick of the event is at %v, want 120 ms", got)
	}
}

func TestHeadingTellsOfReplicas(t *testing.T) {
	s := scenario{title: "Something", replicas: 1}
	for replicas, want := range map[int]string{
		0: "Something, peercache with Options.Replicas = 1",
		2: "Something, peercache with Options.Replicas = 2",
	} {
		if got := s.heading(replicas); got != want {
			t.Errorf("heading(%d) = %q, want %q", replicas, got, want)
		}
	}
	s.replicas = 0
	if got := s.heading(0); got != "Something" {
		t.Errorf("heading(0) = %q without replicas, want the title", got)
	}
}
