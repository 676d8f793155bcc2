package main

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBucketsAreNarrowAndWithoutGaps(t *testing.T) {
	for i := range bucket(1 << 40) {
		if got := bucket(middle(i)); got != i {
			t.Fatalf("the middle %d of bucket %d is in bucket %d", middle(i), i, got)
		}
	}
	for n := uint64(1); n < 1<<40; n += n/100 + 1 {
		if before, at := bucket(n-1), bucket(n); at != before && at != before+1 {
			t.Fatalf("%d is in bucket %d and %d in bucket %d", n-1, before, n, at)
		}
		if off := math.Abs(float64(middle(bucket(n)))-float64(n)) / float64(n); off > 1.0/64 {
			t.Fatalf("%d is counted as %d, off by %.3f", n, middle(bucket(n)), off)
		}
	}
	if i := bucket(math.MaxUint64); i >= 2048 {
		t.Errorf("the last bucket is %d, want less than 2048", i)
	}
}

func TestQuantilesAreThoseOfTheDurations(t *testing.T) {
	var a, b histogram
	for i := range 1000 { // 1 to 1000 µs, in two parts
		h := &a
		if i%3 == 0 {
			h = &b
		}
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	a.merge(b)
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var h histogram
	if err := json.Unmarshal(text, &h); err != nil {
		t.Fatal(err)
	}
	for part, want := range map[float64]time.Duration{0: time.Microsecond, 0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond, 1: time.Millisecond} {
		got := h.quantile(part)
		if off := math.Abs(float64(got-want)) / float64(want); off > 1.0/32 {
			t.Errorf("quantile(%v) = %v, want %v", part, got, want)
		}
	}
	if got := (histogram{}).quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing = %v, want 0", got)
	}
	var backwards histogram
	backwards.add(-time.Second)
	if got := backwards.quantile(0.5); got != 0 {
		t.Errorf("quantile of a negative duration = %v, want 0", got)
	}
}

func TestCPUTicksAreThoseOfUserAndSystem(t *testing.T) {
	const rest = " S 1 2 3 4 -1 5 6 7 8 9 40 2 10 11 20 0"
	for stat, want := range map[string]uint64{
		"17 (redis-server)" + rest:      42,
		"17 (a) R 1 1 1 1 1 1)" + rest:  42, // a name may hold anything
		"17 (short) S 1 2 3 4 -1 5 6 7": 0,
		"":                              0,
	} {
		if got := cpuTicks([]byte(stat)); got != want {
			t.Errorf("cpuTicks(%q) = %d, want %d", stat, got, want)
		}
	}
}

func TestCPUSecondsOfThisProcessGrow(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("needs /proc")
	}
	before := cpuSeconds(os.Getpid())
	deadline := time.Now().Add(20 * time.Second) // many times what it takes
	for cpuSeconds(os.Getpid()) < before+2.0/ticksPerSecond {
		if time.Now().After(deadline) {
			t.Fatalf("cpuSeconds = %v and stays there", cpuSeconds(os.Getpid()))
		}
	}
	if got := cpuSeconds(os.Getpid(), 0); got != 0 { // there is no process 0
		t.Errorf("cpuSeconds with a process that does not exist = %v, want 0", got)
	}
}

func TestCallersAskForTheirOwnKeysUntilTheTimeIsOver(t *testing.T) {
	j := job{Size: 3, Callers: 2}
	var stray atomic.Int64
	c := &client{get: func(_ context.Context, key string) (int, error) {
		switch key {
		case "a", "c": // of the first caller
			return 3, nil
		case "b":
			return 2, nil // cut short
		}
		stray.Add(1)
		return 0, errors.New("nobody's")
	}}
	s := burst{Time: 5 * time.Millisecond}.run(t.Context(), j, c, []string{"a", "b", "c"})
	if s.Gets == 0 || s.Failed == 0 || stray.Load() > 0 {
		t.Errorf("%d Gets, %d failed, %d for other keys, want some, some and none", s.Gets, s.Failed, stray.Load())
	}
	if want := "a value of 2 bytes instead of 3"; s.Error != want {
		t.Errorf("Error = %q, want %q", s.Error, want)
	}
	if s.Seconds < 0.005 || s.Latency.quantile(1) == 0 {
		t.Errorf("it took %v s, at most %v each, want 5 ms at least and something", s.Seconds, s.Latency.quantile(1))
	}
}

func TestFillTakesTheKeysOfTheServer(t *testing.T) {
	j := job{Size: 3, Callers: 1, Keys: 2}
	held := make(map[string]string)
	c := &client{
		get: func(_ context.Context, key string) (int, error) { return len(held[key]), nil },
		put: func(_ context.Context, key, value string) error {
			held[key] = value
			return nil
		},
		owns: func(key string) bool { return strings.HasSuffix(key, "1") },
	}
	got, err := j.fill(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{newKey(1), newKey(11)}, got); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]string{newKey(1): "vvv", newKey(11): "vvv"}, held); d != "" {
		t.Errorf("values (-want +got):\n%s", d)
	}
	if len(got[0]) != keySize {
		t.Errorf("a key has %d bytes, want %d", len(got[0]), keySize)
	}
	c.owns = func(string) bool { return false }
	if _, err := j.fill(t.Context(), c); err == nil {
		t.Error("fill = nil with a server that owns nothing, want an error")
	}
}
