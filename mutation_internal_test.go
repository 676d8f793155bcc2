package peercache

import (
	"testing"
	"time"
)

// Each part of the algorithm is switched off in turn: the schedules must notice.

// A fault is a part that is switched off.
type fault int

const (
	sound fault = iota
	keepsFlights
	sendsNoNeeds
	keepsOneID
	sendsNoAged
	toldOnce
	syncsNothing
	hashesAlike
	keepsAll
	unfenced
	bornNow
	losesWhoAsked
	omitsEarly
)

// harm does to the processes, between two steps, what a fault consists of.
func (s *simulation) harm() {
	switch s.fault {
	case keepsFlights:
		s.eachShard(func(p *process, sh *shard, key string) {
			for kind := range sh.flights {
				if f := sh.flights[kind][key]; f != nil {
					s.held[f] = p
				}
			}
		})
		for f, p := range s.held {
			f.shard.mu.Lock()
			if f.detached && !f.ended && !p.dead.Load() && f.shard.flights[f.kind][f.key] == nil {
				f.detached = false
				f.shard.flights[f.kind][f.key] = f
			}
			f.shard.mu.Unlock()
		}
	case losesWhoAsked:
		for _, p := range s.processes {
			p.coherent.circle.lost.Store(nil)
		}
	case keepsOneID:
		s.eachShard(func(_ *process, sh *shard, key string) {
			if r, ok := sh.memory.ids[key]; ok {
				r.ids = r.ids[len(r.ids)-1:]
				sh.memory.ids[key] = r
			}
		})
	}
}

func (s *simulation) eachShard(f func(p *process, sh *shard, key string)) {
	for _, p := range s.processes {
		for _, key := range scheduleKeys {
			sh := p.engine.store.shard(key)
			sh.mu.Lock()
			f(p, sh, key)
			sh.mu.Unlock()
		}
	}
}

func TestMutationOfEachPartIsNoticed(t *testing.T) {
	for name, broken := range map[string]fault{
		"flights stay attached":                   keepsFlights,
		"a fetch does not say what it needs":      sendsNoNeeds,
		"only the last id of a key is remembered": keepsOneID,
		"a peer does not say that it is behind":   sendsNoAged,
		"a lost message is not repeated":          toldOnce,
		"what was missed is not asked for":        syncsNothing,
		"whom others know is not told":            hashesAlike,
		"what nobody can tell is not dropped for": keepsAll,
		"a value's birth ids are not looked at":   bornNow,
	} {
		t.Run(name, func(t *testing.T) {
			ran, last, _ := runSchedules(t, 1, mutationSchedules, time.Minute, broken)
			if len(last.problems) == 0 {
				t.Fatalf("%d schedules have noticed nothing", ran)
			}
			t.Logf("noticed by schedule %d: %s", ran, last.problems[0])
		})
	}
}

// mutationSchedules is how many may go by before a fault is noticed: some ten times what
// the least noticeable takes.
const mutationSchedules = 20_000

// Random schedules hardly ever stop a process, remove a key without it and ask it before it
// has heard of anything: this one does.
func TestMutationOfTheFenceIsNoticed(t *testing.T) {
	for _, broken := range []fault{sound, unfenced} {
		directed(t, 3, func(t *testing.T, s *schedule, key string) {
			s.fault = broken
			two := s.processes[2]
			s.get(two, key)
			s.deliver(t, "get", 1)
			s.load()
			s.load()
			s.deliver(t, "answer", 2)
			two.paused = true
			s.gossip(s.processes[0], two)
			s.gossip(s.processes[1], two)
			s.invalidate(s.processes[0], "Remove", []string{key})
			s.deliver(t, "invalidate", 1)
			s.deliver(t, "invalidate answered", 0)
			s.resume(two)
			s.get(two, key)
			s.settle()
			s.wait(fencePatience)
			s.flow(time.Second)
			if wrong := len(s.problems) > 0; wrong != (broken == unfenced) {
				t.Errorf("with fault %d: %q", broken, s.problems)
			}
			s.problems = nil
		})
	}
}

// Nor do they often have a process come back, and removals just before and after that.
func TestMutationOfTheReturnIsNoticed(t *testing.T) {
	for _, broken := range []fault{sound, losesWhoAsked, omitsEarly} {
		directed(t, 3, func(t *testing.T, s *schedule, key string) {
			s.fault = broken
			early, late := scheduleKeys[1], scheduleKeys[2]
			s.away(t, key, early, late)
			s.invalidate(s.processes[0], "Set", []string{key})
			s.settle()
			s.invalidate(s.processes[0], "Remove", []string{early})
			s.deliver(t, "invalidate", 1)
			s.deliver(t, "invalidate answered", 0)
			s.comesBack(t)
			s.invalidate(s.processes[0], "Remove", []string{late})
			s.deliverAll()
			for _, key := range []string{early, late} {
				s.get(s.processes[2], key)
				s.settle()
			}
			s.deliverAll()
			if wrong := len(s.problems) > 0; wrong != (broken != sound) {
				t.Errorf("with fault %d: %q", broken, s.problems)
			}
			s.problems = nil
		})
	}
}
