package peercache

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// Schedules that random ones have found, step by step.

// directed runs steps on n processes that agree on their ring. The key is one that
// process 1 owns.
func directed(t *testing.T, n int, steps func(t *testing.T, s *schedule, key string)) {
	t.Helper()
	slotTables()
	synctest.Test(t, func(t *testing.T) {
		s := &schedule{simulation: newSimulation(1, sound), origin: make(map[string]int)}
		s.populate(n)
		for _, p := range s.processes {
			p.see(only(1))
		}
		s.keys = scheduleKeys[:1]
		defer s.stop()
		steps(t, s, s.keys[0])
		for _, problem := range s.problems {
			t.Error(problem)
		}
		if t.Failed() {
			t.Logf("the history:\n%s", s)
		}
	})
}

// deliver delivers the first message of a kind that is on its way to a process.
func (s *schedule) deliver(t *testing.T, kind string, to int) {
	t.Helper()
	s.settle()
	i := slices.IndexFunc(s.bag, func(m *message) bool { return m.kind == kind && m.to == to })
	if i < 0 {
		t.Fatalf("no %s is on its way to %d", kind, to)
	}
	m := s.bag[i]
	s.bag = slices.Delete(s.bag, i, i+1)
	s.note("%s from %d to %d: delivered", m.kind, m.from.slot, m.to)
	s.pass(m)
	s.settle()
}

// A Set waits for its owner. Who is declared dead meanwhile keeps what it holds, may be
// asked by others that know it, and so has to be named.
func TestSetNamesWhoWasDeclaredDeadMeanwhile(t *testing.T) {
	directed(t, 3, func(t *testing.T, s *schedule, key string) {
		s.get(s.processes[2], key)
		s.deliver(t, "get", 1)
		s.load()
		s.load()
		s.deliver(t, "answer", 2)

		s.invalidate(s.processes[0], "Set", []string{key})
		s.settle()
		s.processes[2].side = 1
		s.gossip(s.processes[0], s.processes[2])
		s.gossip(s.processes[1], s.processes[2])
		s.deliver(t, "set", 1)
		s.deliver(t, "set answered", 0)
		s.deliver(t, "invalidate", 1)
		s.deliver(t, "invalidate answered", 0)
		if op := s.ops[0]; op.covers != 0 || s.calls != 1 {
			t.Errorf("Set has returned, and process 2 does not know of it")
		}
		s.processes[2].side = 0
		s.deliverAll()
		if op := s.ops[0]; !op.covers.has(2) {
			t.Errorf("Set covers the processes %03b when all have confirmed, want 111", op.covers)
		}
		s.get(s.processes[2], key)
		s.settle()
		s.deliverAll()
	})
}

// Process 2 asks for a key, and is stopped. It is declared dead, and the key removed. When
// it goes on the answer from before the removal is still on its way: a Get that begins then
// must not wait for it.
func TestGetJoinsNoFlightFromBeforeAPause(t *testing.T) {
	directed(t, 3, func(t *testing.T, s *schedule, key string) {
		s.get(s.processes[2], key)
		s.deliver(t, "get", 1)
		s.load()
		s.load()
		s.processes[2].paused = true
		s.gossip(s.processes[0], s.processes[2])
		s.gossip(s.processes[1], s.processes[2])
		s.invalidate(s.processes[0], "Remove", []string{key})
		s.deliver(t, "invalidate", 1)
		s.deliver(t, "invalidate answered", 0)
		if s.ops[0].done != s.clock {
			t.Fatal("Remove has not returned nil")
		}
		s.resume(s.processes[2])
		s.get(s.processes[2], key)
		s.settle()
		s.wait(fencePatience)
		s.deliver(t, "answer", 2)
		s.flow(time.Second)
		if s.gets != 0 {
			t.Errorf("%d Gets wait still", s.gets)
		}
	})
}

// Process 2 does not know of 0, the others do. The first of them confirms, and loses 0 from
// sight then.
func TestRemoveTellsWhomAnyConfirmerKnows(t *testing.T) {
	directed(t, 4, func(t *testing.T, s *schedule, key string) {
		zero, one, two := s.processes[0], s.processes[1], s.processes[2]
		s.get(zero, key)
		s.settle()
		s.deliverAll()

		s.changeView(two, two.known()&^only(0))
		s.invalidate(two, "Remove", []string{key})
		s.deliver(t, "invalidate", 1)
		s.deliver(t, "invalidate answered", 2)
		s.changeView(one, one.known()&^only(0))
		s.deliver(t, "invalidate", 3)
		s.deliver(t, "invalidate answered", 2)
		s.deliver(t, "invalidate", 0)
		s.deliver(t, "invalidate answered", 2)
		s.deliverAll()
		if op := s.ops[0]; op.covers != s.everybody() {
			t.Errorf("Remove covers the processes %04b, want 1111", op.covers)
		}
		s.get(zero, key)
		s.settle()
		s.deliverAll()
	})
}

// Process 0 gives a Set's value to an owner that it does not know any more, by a ring that
// is older. The owner may get it at any time, so that it has to be told of the Set as well.
func TestSetNamesTheOwnerThatItTried(t *testing.T) {
	directed(t, 3, func(t *testing.T, s *schedule, key string) {
		zero := s.processes[0]
		s.changeView(zero, only(0))
		s.invalidate(zero, "Set", []string{key})
		s.settle()
		s.wait(confirmTimeout)
		s.wait(confirmTimeout)
		s.settle()
		if op := s.ops[0]; op.done == s.clock {
			t.Error("Set returned nil, and the owner, which may get the value still, does not know of it")
		}
		s.deliverAll()
	})
}

// A value that is peeked at brings the id of a removal. What a fetch from before brings is
// older than that, and must not be kept beside it.
func TestPeekDetachesTheFetchesFromBefore(t *testing.T) {
	directed(t, 3, func(t *testing.T, s *schedule, key string) {
		e := s.processes[2].engine
		var b begun
		_, fetch, err := e.join(t.Context(), key, &b)
		if err != nil || fetch == nil || fetch.kind != fetchFlight {
			t.Fatalf("join = %v, %v, want a fetch", fetch, err)
		}
		_, load, err := e.joinLoad(key, 0, true, &begun{})
		if err != nil || load == nil {
			t.Fatalf("joinLoad = %v, %v, want a load", load, err)
		}
		birth := ids{{7, 1}}
		it, _ := e.itemFrom([]byte("new"), 60_000, false)
		if !e.store.mayEnd(load, birth) || !e.store.end(load, outcome{item: it}) {
			t.Fatal("the load cannot end with what was peeked at")
		}
		old, _ := e.itemFrom([]byte("old"), 60_000, false)
		e.store.end(fetch, outcome{item: old})
		if e.store.invalidate(key, birth) {
			t.Error("the removal is not known of")
		}
		if it, ok := e.store.peek(key); !ok || it.bytes != "new" {
			t.Errorf("memory has %q, %t, want what was peeked at", it.bytes, ok)
		}
	})
}

// away has process 2 hold keys, and be stopped for so long that the others declare it dead.
func (s *schedule) away(t *testing.T, keys ...string) {
	t.Helper()
	two := s.processes[2]
	for _, key := range keys {
		s.get(two, key)
		s.deliver(t, "get", 1)
		s.load()
		s.load()
		s.deliver(t, "answer", 2)
	}
	two.paused = true
	s.gossip(s.processes[0], two)
	s.gossip(s.processes[1], two)
}

// comesBack has process 2 go on, and ask the others what it missed. It serves from memory
// before gossip has it back.
func (s *schedule) comesBack(t *testing.T) {
	t.Helper()
	two := s.processes[2]
	s.resume(two)
	two.coherent.fence.open(now())
	for other := range 2 {
		s.deliver(t, "sync", other)
		s.deliver(t, "sync answered", 2)
	}
	if two.coherent.fence.isUp() {
		t.Fatal("all have answered, and the fence is up still")
	}
}

// Gossip takes a tenth of a second and more to have a process back that was declared dead
// and goes on. A Remove in between must be told to it: it serves from memory already.
func TestRemoveTellsWhoHasAskedWhatItMissed(t *testing.T) {
	for name, by := range map[string]int{"by one that it has asked": 0, "by one that has not heard its question": 3} {
		t.Run(name, func(t *testing.T) {
			directed(t, 4, func(t *testing.T, s *schedule, key string) {
				s.changeView(s.processes[2], only(0)|only(1)|only(2))
				s.changeView(s.processes[3], only(0)|only(1)|only(3))
				s.away(t, key)
				s.comesBack(t)
				s.invalidate(s.processes[by], "Remove", []string{key})
				s.settle()
				s.deliverAll()
				if op := s.ops[0]; op.done != s.clock || !op.covers.has(2) {
					t.Errorf("Remove covers the processes %04b, want 2 among them", op.covers)
				}
				s.get(s.processes[2], key)
				s.settle()
				s.deliverAll()
			})
		})
	}
}

// The same for a Remove whose caller knows nobody else, and begins before the question.
func TestRemoveTellsWhoAsksWhileItBegins(t *testing.T) {
	directed(t, 3, func(t *testing.T, s *schedule, key string) {
		zero := s.processes[0].coherent
		s.away(t, key)
		known := zero.audience()
		answer := func() {
			zero.serve(&wire.Request{Op: &wire.Request_Sync{Sync: &wire.Sync{}}}, nil, s.processes[2].url)
		}
		answer()
		r := zero.ledger.draw("c", []string{key})
		zero.ledger.apply(r)
		done := make(chan error, 1)
		go func() {
			done <- zero.publish(t.Context(), audience{hash: known.hash}, []*removal{r}, after(now(), confirmTimeout))
		}()
		s.settle()
		select {
		case err := <-done:
			t.Errorf("it returns %v before process 2 has confirmed, whose answer does not have it", err)
		default:
		}
		s.resume(s.processes[2])
		for other := range 2 { // process 2 knows 1
			s.deliver(t, "invalidate", 2-other)
			s.deliver(t, "invalidate answered", 0)
		}
		if err := <-done; err != nil {
			t.Errorf("it returns %v when process 2 has confirmed, want nil", err)
		}
	})
}

// Who has asked and dies then is waited for no longer than any that dies.
func TestRemoveDoesNotTellWhoHasAskedLongAgo(t *testing.T) {
	directed(t, 3, func(t *testing.T, s *schedule, key string) {
		s.away(t, key)
		s.comesBack(t)
		s.processes[2].side = 1
		s.wait(contactLife + time.Millisecond)
		s.invalidate(s.processes[0], "Remove", []string{key})
		s.deliver(t, "invalidate", 1)
		s.deliver(t, "invalidate answered", 0)
		if op := s.ops[0]; op.done != s.clock {
			t.Error("Remove waits for a process that asked long ago and is dead")
		}
	})
}

// Process 0 has started anew while 2 was away, and does not know it: it would not tell it of
// a Remove that begins after its answer.
func TestAnswerOfWhoDoesNotKnowTheProcessLowersNoFence(t *testing.T) {
	directed(t, 3, func(t *testing.T, s *schedule, key string) {
		s.away(t, key)
		s.restart(s.processes[0])
		s.deliverAll()
		two := s.processes[2]
		s.changeView(two, only(0)|only(2)) // with 1 it has lost contact
		s.resume(two)
		two.coherent.fence.open(now())
		s.deliver(t, "sync", 0)
		s.deliver(t, "sync answered", 2)
		if !two.coherent.fence.isUp() {
			t.Error("the fence is lowered for the answer of a process that does not know this one")
		}
		s.invalidate(s.processes[0], "Remove", []string{key})
		s.settle()
		s.deliverAll()
		s.wait(fencePatience)
		s.get(two, key)
		s.settle()
		s.deliverAll()
		s.gossip(s.processes[0], two)
		s.flow(time.Second)
		if two.coherent.fence.isUp() {
			t.Error("the fence is up a second after process 0 has heard of the one behind it")
		}
		if it, ok := two.engine.store.peek(key); ok && it.bytes != "1" {
			t.Errorf("memory has %q, which was removed", it.bytes)
		}
	})
}

// What is applied beyond one that is not is missed by who has been away as well:
//
//  1. process 0 draws an id for a Set, whose owner is slow to take it;
//  2. it draws the next for a Remove, which all apply, before they have that of the Set;
//  3. process 2 comes back. What the others have applied in a row ends before the two.
func TestWhoComesBackHearsWhatCameEarly(t *testing.T) {
	directed(t, 3, func(t *testing.T, s *schedule, a string) {
		b := scheduleKeys[1]
		s.away(t, a, b)
		s.invalidate(s.processes[0], "Set", []string{a})
		s.settle()
		s.invalidate(s.processes[0], "Remove", []string{b})
		s.deliver(t, "invalidate", 1)
		s.deliver(t, "invalidate answered", 0)
		if s.ops[1].done != s.clock {
			t.Fatal("Remove has not returned nil")
		}
		s.comesBack(t)
		s.get(s.processes[2], b)
		s.settle()
		s.deliverAll()
		if s.gets != 0 || s.calls != 0 {
			t.Errorf("%d Gets and %d calls wait still", s.gets, s.calls)
		}
	})
}
