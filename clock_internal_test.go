package peercache

import (
	"testing"
	"testing/synctest"
	"time"
)

// A timer is late when the processors are busy: the clock that it moves says that a
// value is within its life when that is over.
func TestLateClockMakesNoValueLiveLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const late = 200 * time.Millisecond
		for _, staleFor := range []time.Duration{0, time.Second} {
			opts := &Options{StaleFor: staleFor}
			s := newStore(0, opts.withDefaults(), nil)
			stored := now()
			s.set("key", item{bytes: "v", size: 1, expires: stored + int64(late)})
			s.clock.state.Store(running) // and no timer
			time.Sleep(late)
			if _, _, seen := s.get("key"); s.clock.time() != stored || seen != doubtful {
				t.Errorf("get by a clock that is %v late sees %d, want %d", late, seen, doubtful)
			}
			if _, stale, ok := s.look("key"); ok != (staleFor > 0) || stale != ok {
				t.Errorf("look = %t, stale %t, with StaleFor %v", ok, stale, staleFor)
			}
		}
	})
}

func TestClockIsStoppedByNobodyReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &newStore(0, (*Options)(nil).withDefaults(), nil).clock
		for range 3 {
			if got := c.time(); got != now() {
				t.Errorf("the first read is %v off, want the exact time", time.Duration(now()-got))
			}
			for range 10 {
				time.Sleep(tick / 2)
				if off := now() - c.time(); off < 0 || off > int64(tick) {
					t.Errorf("a running clock is %v off, want at most %v", time.Duration(off), tick)
				}
			}
			time.Sleep(3 * tick)
			if got := c.state.Load(); got != stopped {
				t.Errorf("state %d after three ticks without a read, want %d", got, stopped)
			}
			time.Sleep(time.Hour)
		}
	})
}
