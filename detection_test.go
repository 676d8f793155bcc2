package peercache_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/cachetest"
)

// How long a death takes to be noticed by all, in clusters of more sizes with -long. The time of a bubble is that of the
// protocol alone; processes on loopback, with -long, do as well
// (TestDeathsOfProcessesAreNoticed).
func TestDeathIsNoticedInAboutThreeSeconds(t *testing.T) {
	sizes, kills := []int{3}, 20
	if *long {
		sizes, kills = []int{2, 3, 5, 10}, 50
	}
	for _, n := range sizes {
		t.Run(fmt.Sprint(n, " nodes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cachetest.NewCluster(t, n)
				var took []time.Duration
				for range kills {
					// Until the one before is forgotten: deaths in a row take longer, since
					// memberlist waits for the dead to share a suspicion. And then to
					// anywhere between two probes.
					time.Sleep(70*time.Second + rand.N(time.Second))
					last := c.Len() - 1
					c.Kill(last)
					start := time.Now()
					c.Converge()
					took = append(took, time.Since(start))
					c.Add()
					c.Converge()
				}
				slices.Sort(took)
				shortest, median, longest := took[0], took[len(took)/2], took[len(took)-1]
				t.Logf("%d kills of one of %d: noticed by all after min %v, median %v, max %v", len(took), n, shortest, median, longest)
				if shortest < 2*time.Second {
					t.Errorf("noticed after %v: pauses of 2s are to be forgiven", shortest)
				}
				if median > 4*time.Second || longest > 10*time.Second {
					t.Errorf("noticed after %v, at most %v, want about 3s, and never 10s", median, longest)
				}
			})
		})
	}
}
