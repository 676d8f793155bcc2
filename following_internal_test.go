package peercache

import (
	"context"
	"testing"
	"time"
)

func TestManyDeathsAtOnceAreToldOnce(t *testing.T) {
	var tl toll
	second := int64(time.Second)
	for _, c := range []struct {
		at            int64
		deaths, alive int
		n, of         int
		many          bool
	}{
		{0, 0, 9, 0, 9, false},
		{1, 3, 6, 3, 9, false},  // a third
		{2, 1, 5, 4, 9, false},  // not half yet
		{3, 1, 4, 5, 9, true},   // more than half, within seconds
		{4, 1, 3, 6, 9, false},  // told already
		{5, 0, 3, 6, 9, false},  //
		{15, 1, 2, 1, 3, false}, // one is never many
		{26, 2, 0, 2, 2, true},  // all that were left, long after
		{40, 0, 5, 0, 5, false}, //
		{41, 1, 0, 1, 1, false}, // the only peer of a pair
		{60, 2, 2, 2, 4, true},
		{61, 0, 4, 2, 6, false}, // back
	} {
		n, of, many := tl.note(c.at*second, c.deaths, c.alive)
		if n != c.n || of != c.of || many != c.many {
			t.Errorf("second %d: note = %d of %d, %t, want %d of %d, %t", c.at, n, of, many, c.n, c.of, c.many)
		}
	}
}

// A ring is built with the mutex building held, for milliseconds; nobody who looks at
// the ring waits for it.
func TestRingIsReadWhileTheNextIsBuilt(t *testing.T) {
	n, err := NewNode("http://127.0.0.1:8080", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := New("c", func(context.Context, string) (string, time.Duration, error) { return "v", time.Hour, nil }, &Options{Node: n})
	n.building.Lock()
	defer n.building.Unlock()
	got := make(chan error, 1)
	go func() {
		_, err := c.Get(t.Context(), "k")
		n.Peers()
		n.Stats()
		got <- err
	}()
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Get waits for the ring to be built")
	}
}
