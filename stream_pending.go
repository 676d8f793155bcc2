package peercache

import (
	"bytes"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// Requests on a stream that are answered when loads end, or when the fence is down, and the
// heartbeats meanwhile.

// A pendingGet is a request of which some keys are being loaded.
type pendingGet struct {
	service *service
	engine  *engine
	id      uint64
	loads   []pendingLoad
	left    int // guarded by the writer's mutex
}

type pendingLoad struct {
	flight *flight
	index  int // of the key
}

// await has the ends of the loads answered.
func (p *pendingGet) await() {
	p.left = len(p.loads)
	p.service.work(p.id)
	for _, l := range p.loads {
		l.flight.watch(p, l.index)
	}
}

// flightEnded queues the answer to a key that was loaded. It runs where the load ended.
func (p *pendingGet) flightEnded(f *flight, i int) {
	if f.outcome.err != nil {
		go p.answerError(f, i)
		return
	}
	p.answer(f.key, i, answerOf(f.outcome, now()))
}

// answerError is for loads that failed: what the error says is the user's code.
func (p *pendingGet) answerError(f *flight, i int) {
	a := answer{status: wire.Status_LOAD_FAILED, text: "the loader's error panicked when it was asked for its text"}
	defer func() {
		if v := recover(); v != nil {
			p.service.node.logger.Error("peercache: a loader's error panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		p.answer(f.key, i, a)
	}()
	a = answerOf(f.outcome, now())
}

func (p *pendingGet) answer(key string, i int, a answer) {
	s := p.service
	if len(a.value) > largeValue && !s.large {
		if _, kept := p.engine.store.fresh(key); kept { // else the value would have to be loaded again
			a = answer{status: wire.Status_LARGE}
		}
	}
	s.mu.Lock()
	if s.out.size+len(a.value) > maxQueued {
		a = answer{status: wire.Status_BUSY, text: "the asker takes no answers"}
	}
	if s.broken == nil {
		s.out.answer(p.id, i, a)
	}
	p.left--
	if p.left == 0 {
		delete(s.working, p.id)
		s.node.handlers.Add(-1)
	}
	s.drainLocked()
	s.mu.Unlock()
}

// hold answers a request once the fence is down, if that is soon. Were the asker told at
// once that this node is behind, another one would load what is here in memory most
// likely, each time that a wall clock is set (TestWrongWallClockMovesNoExpiryAndCausesNoLoad).
func (s *service) hold(id uint64, e *engine, keys [][]byte, wanted demands) {
	if s.node.handlers.Load() >= maxHandlers {
		s.send(&wire.Response{Id: id, Status: wire.Status_BEHIND})
		return
	}
	held := make([][]byte, len(keys)) // what was read is overwritten next
	for i, key := range keys {
		held[i] = bytes.Clone(key)
	}
	s.node.handlers.Add(1)
	s.work(id)
	waiting := s.node.background(func() {
		down := s.node.coherent.fence.wait(s.ended)
		s.release(id)
		if down {
			s.answerGet(id, e, held, wanted)
		} else {
			s.send(&wire.Response{Id: id, Status: wire.Status_BEHIND})
		}
		s.flush()
	})
	if !waiting {
		s.release(id)
		s.send(&wire.Response{Id: id, Status: wire.Status_DRAINING})
	}
}

// release undoes what hold did for the time of the wait.
func (s *service) release(id uint64) {
	s.node.handlers.Add(-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.working, id)
}

// work notes that a request is being worked on, of which heartbeats tell the peer.
func (s *service) work(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working == nil {
		s.working = make(map[uint64]struct{})
	}
	s.working[id] = struct{}{}
	if !s.beating {
		s.beating = true
		time.AfterFunc(beatInterval, s.beat)
	}
}

// beat tells the peer which of its requests are being worked on.
func (s *service) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.working) == 0 || s.closed {
		s.beating = false
		return
	}
	time.AfterFunc(beatInterval, s.beat)
	if s.out.size > inboxMost {
		return // what is queued already says that this node is alive, once the peer takes it
	}
	resp := &wire.Response{Working: make([]uint64, 0, len(s.working))}
	for id := range s.working {
		resp.Working = append(resp.Working, id)
	}
	s.queueLocked(resp)
	s.drainLocked()
}
