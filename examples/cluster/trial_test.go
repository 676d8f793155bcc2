package main

import (
	"testing"
	"time"
)

func TestScheduleFillsTheDuration(t *testing.T) {
	for _, d := range []time.Duration{48 * time.Second, 10 * time.Minute, time.Hour} {
		if s := newSchedule(config{nodes: 5, duration: d}); s.total != d {
			t.Errorf("a run of %v takes %v", d, s.total)
		}
	}
}

func TestShortRunLeavesTheTimeThatEventsTake(t *testing.T) {
	for _, nodes := range []int{3, 5, 16} {
		s := newSchedule(config{nodes: nodes, duration: 10 * time.Second})
		if s.pause < minPause || s.kill < minKill {
			t.Errorf("%d nodes: pauses of %v and %v for the kill, want %v and %v at least", nodes, s.pause, s.kill, minPause, minKill)
		}
		if least := time.Duration(nodes) * restartTime; s.total < least {
			t.Errorf("%d nodes: %v in all, want %v for the restarts alone", nodes, s.total, least)
		}
	}
}
