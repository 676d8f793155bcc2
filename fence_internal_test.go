package peercache

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// The fence by itself. That a process does not run cannot be had in a bubble: the tests
// move the fence's times into the past instead, which is the same.

func newTestFence(t *testing.T) (f *fence, raised *int) {
	t.Helper()
	raised = new(int)
	f = newFence(func() { *raised++ })
	f.start()
	t.Cleanup(f.stop)
	return f, raised
}

// oversleep has the fence find that the process did not run.
func (f *fence) oversleep() {
	const d = 10 * time.Second
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.up == nil {
		f.until.Store(f.until.Load() - int64(d))
	}
	f.alive -= int64(d)
}

func TestFenceStaysDownWhileTheProcessRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, raised := newTestFence(t)
		for range 100 {
			time.Sleep(time.Second)
			if !f.open(now()) {
				t.Fatal("the fence is up")
			}
		}
		if *raised != 0 {
			t.Errorf("raised %d times, want never", *raised)
		}
	})
}

func TestWhoeverSeesThePauseFirstRaisesTheFence(t *testing.T) {
	for name, see := range map[string]func(f *fence){
		"a Get":      func(f *fence) { f.oversleep(); f.open(now()) },
		"the ticker": func(f *fence) { f.oversleep(); time.Sleep(pauseTick); synctest.Wait() },
		"the wall clock": func(f *fence) {
			f.mu.Lock()
			f.ahead -= time.Hour // suspended
			f.mu.Unlock()
			time.Sleep(pauseTick)
			synctest.Wait()
		},
		"the wall clock set back": func(f *fence) {
			f.mu.Lock()
			f.ahead += time.Hour
			f.mu.Unlock()
			time.Sleep(pauseTick)
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, raised := newTestFence(t)
				see(f)
				if f.open(now()) || !f.isUp() || *raised != 1 {
					t.Fatalf("open = %v, up = %v, raised %d times, want it up, once", f.open(now()), f.isUp(), *raised)
				}
				time.Sleep(10 * time.Second)
				if f.open(now()) {
					t.Error("the fence came down by itself")
				}
				if !f.lower(f.times.Load()) || !f.open(now()) {
					t.Error("the fence is not lowered")
				}
				time.Sleep(10 * time.Second)
				if !f.open(now()) {
					t.Error("the fence went up again")
				}
			})
		})
	}
}

// What peers said before a pause says nothing of the pause:
//
//  1. the process wakes, raises the fence, and asks;
//  2. it has the answers, and is stopped for ten seconds;
//  3. it wakes, and lowers the fence for what it heard at 1.
func TestPauseWhileTheFenceIsUpKeepsItUp(t *testing.T) {
	for name, tick := range map[string]bool{"seen by the ticker": true, "seen by nobody yet": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, _ := newTestFence(t)
				f.oversleep()
				f.open(now())
				asked := f.times.Load()
				f.oversleep()
				if tick {
					time.Sleep(pauseTick)
					synctest.Wait()
				}
				if f.lower(asked) || !f.isUp() {
					t.Fatal("the fence is lowered for what was heard before the pause")
				}
				time.Sleep(pauseTick)
				synctest.Wait()
				if asked = f.times.Load(); !f.lower(asked) {
					t.Error("the fence is not lowered for what was heard after the pause")
				}
			})
		})
	}
}

func TestFenceThatIsStoppedStaysDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, raised := newTestFence(t)
		f.oversleep()
		f.open(now())
		asked := f.times.Load()
		f.stop()
		f.lower(asked) // by what was under way
		f.start()      // by a Join that a Leave has overtaken
		time.Sleep(10 * time.Second)
		if !f.open(now()) || f.until.Load() != math.MaxInt64 || *raised != 1 {
			t.Errorf("open = %v, until = %d, raised %d times, want it open for ever", f.open(now()), f.until.Load(), *raised)
		}
	})
}

func TestOnlyTheFirstBehindTheFenceWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newTestFence(t)
		if !f.wait(t.Context()) {
			t.Error("there is a wait without a fence")
		}
		f.oversleep()
		f.open(now())
		for i, want := range []time.Duration{fencePatience, 0, 0} {
			start := time.Now()
			if f.wait(t.Context()) {
				t.Error("the fence is down")
			}
			if d := time.Since(start); d != want {
				t.Errorf("wait %d took %v, want %v", i, d, want)
			}
		}
		time.AfterFunc(fencePatience/2, func() { f.lower(f.times.Load()) })
		f.lower(f.times.Load())
		f.oversleep()
		f.open(now())
		start := time.Now()
		if !f.wait(t.Context()) || time.Since(start) != fencePatience/2 {
			t.Errorf("who waits is let go %v after the fence went up, want %v", time.Since(start), fencePatience/2)
		}
		f.oversleep()
		f.open(now())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if start := time.Now(); f.wait(ctx) || time.Since(start) != 0 {
			t.Error("who has no time waits")
		}
	})
}
