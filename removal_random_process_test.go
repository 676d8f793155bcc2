package peercache_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Calls and faults at random, among processes.

var minutes = flag.Int("minutes", 10, "with -long, for how many minutes processes change keys at random while they are stopped, killed and started")

// F8: whatever happens to the processes, what a Get returns was not known to be old.
func TestRandomChangesAndFaultsOfProcesses(t *testing.T) {
	length := 10 * time.Second
	if *long {
		length = time.Duration(*minutes) * time.Minute
	} else {
		t.Parallel() // it mostly waits
	}
	seed := cmp.Or(*seedFrom, rand.Uint64())
	t.Logf("-seed %d chooses the same faults and calls", seed)
	s := &shake{fleet: newFleet(t), keys: 60}
	for range 5 {
		s.add()
	}
	s.settle()

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range uint64(8) {
		wg.Go(func() { s.call(ctx, rand.New(rand.NewPCG(seed, w))) })
	}
	rng := rand.New(rand.NewPCG(seed, 100))
	var faults []func(*rand.Rand)
	for end := time.Now().Add(length); time.Now().Before(end); {
		if len(faults) == 0 { // each once before any comes again
			faults = []func(*rand.Rand){s.nap, s.pause, s.pause, s.replace, s.exchange}
			if *long {
				faults = append(faults, s.settleNow, s.partition, s.partition, s.nap, s.pause)
			}
			rng.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
		}
		faults[0](rng)
		faults = faults[1:]
		<-time.After(time.Duration(rng.IntN(500)) * time.Millisecond)
	}
	s.settle()
	cancel()
	wg.Wait()
	s.settle()
	for _, m := range s.living() {
		for i := range s.keys {
			m.get(fmt.Sprint("key-", i))
		}
		_, stats, _ := m.do("stats", "", "")
		t.Logf("%s: %s", m.url, stats)
	}
	t.Logf("%d Gets, %d of them of what was changed before the process was noticed, %d changes, of which %d partial, %d faults in %v",
		s.gets.Load(), s.unseen.Load(), s.changes.Load(), s.partial.Load(), s.faults, length)
	if s.partial.Load() == 0 || s.gets.Load() < 1000 {
		t.Errorf("%d partial changes, %d Gets: the test shows nothing", s.partial.Load(), s.gets.Load())
	}
}

// A shake is a fleet to which things happen.
type shake struct {
	*fleet

	keys                   int
	faults                 int
	gets, changes, partial atomic.Int64

	mu      sync.Mutex // guards members
	members []*member  // that have not ended
}

func (s *shake) living() []*member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.members)
}

// add starts one more process.
func (s *shake) add() {
	s.t.Helper()
	var seeds []string
	for _, m := range s.living() {
		seeds = append(seeds, m.gossip)
	}
	m := s.start(seeds...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = append(s.members, m)
}

// end ends a process.
func (s *shake) end(m *member, how syscall.Signal) {
	s.mu.Lock()
	s.members = slices.DeleteFunc(s.members, func(other *member) bool { return other == m })
	s.mu.Unlock()
	m.signal(how)
	_ = m.wait() // that it was killed, or nothing
}

// call makes calls, mostly Gets, of all processes that run.
func (s *shake) call(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		members := s.living()
		m, key := members[rng.IntN(len(members))], fmt.Sprint("key-", rng.IntN(s.keys))
		what := rng.IntN(20)
		switch {
		case m.stopped.Load():
			runtime.Gosched()
		case what >= 4:
			m.get(key)
			s.gets.Add(1)
		default:
			if m.change(key, what == 0) {
				s.partial.Add(1)
			}
			s.changes.Add(1)
		}
	}
}

// stop stops some processes for a while.
func (s *shake) stop(rng *rand.Rand, n int, length time.Duration) {
	s.faults++
	members := s.living()
	rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	for _, m := range members[:n] {
		m.signal(syscall.SIGSTOP)
	}
	<-time.After(length)
	for _, m := range members[:n] {
		m.signal(syscall.SIGCONT)
	}
}

// nap is a pause that nobody may notice.
func (s *shake) nap(rng *rand.Rand) {
	s.stop(rng, 1, time.Duration(200+rng.IntN(1200))*time.Millisecond)
}

// pause is one after which the process is taken for dead, or not quite.
func (s *shake) pause(rng *rand.Rand) {
	s.stop(rng, 1, time.Duration(1500+rng.IntN(3000))*time.Millisecond)
}

// partition cuts two processes off, and ends what they were about to say to each other.
func (s *shake) partition(rng *rand.Rand) {
	s.stop(rng, 2, time.Duration(4000+rng.IntN(5000))*time.Millisecond)
}

// replace kills a process and starts another.
func (s *shake) replace(rng *rand.Rand) {
	s.faults++
	s.end(s.living()[rng.IntN(4)], syscall.SIGKILL)
	s.add()
}

// exchange starts a process and has another leave.
func (s *shake) exchange(rng *rand.Rand) {
	s.faults++
	s.add()
	s.end(s.living()[rng.IntN(4)], syscall.SIGTERM)
}

func (s *shake) settleNow(*rand.Rand) { s.settle() }

// settle waits until all see each other, and as long after as it may take until all have
// heard of what not all had confirmed: with that they are served nothing older.
func (s *shake) settle() {
	s.t.Helper()
	owed := s.takeOwed()
	living := make(map[string]bool)
	members := s.living()
	eventually(s.t, "all see each other", func() bool {
		return !slices.ContainsFunc(members, func(m *member) bool {
			_, n, _ := m.do("peers", "", "")
			return n != fmt.Sprint(len(members))
		})
	})
	<-time.After(3 * time.Second)
	for _, m := range members {
		living[m.url] = true
	}
	s.deliver(owed, living)
}
