package peercache

import (
	"math"
	"slices"
	"strconv"
	"time"
)

// What a schedule does to its processes, step by step, and what time and gossip do.

func (s *schedule) pick() *process { return s.processes[s.rng.IntN(len(s.processes))] }
func (s *schedule) key() string    { return s.keys[s.rng.IntN(len(s.keys))] }

// step does one thing.
func (s *schedule) step() {
	p := s.pick()
	switch r := s.rng.IntN(1000); {
	case r < 200:
		s.get(p, s.key())
	case r < 270:
		s.operate(p)
	case r < 300:
		if set := slots(1 + s.rng.IntN(int(s.everybody()))); !p.paused {
			s.note("ring of %d is %03b", p.slot, set)
			p.see(set)
		}
	case r < 308:
		s.shareRing()
		s.note("ring of all is %v", s.pick().ring.Load().table.Nodes())
	case r < 325:
		s.part(p)
	case r < 380:
		s.gossip(p, s.pick())
	case r < 388:
		s.sleepOn(p)
	case r < 392:
		s.restart(p)
	case r < 400:
		p.mu.Lock()
		p.shuns ^= only(s.pick().slot)
		p.mu.Unlock()
	case r < 425:
		if q := s.pick(); q != p && !p.paused && p.known().has(q.slot) {
			s.note("%d compares itself with %d", p.slot, q.slot)
			p.coherent.catch.meet(q.url)
		}
	case r < 435:
		s.wait(time.Duration(1+s.rng.IntN(300)) * time.Millisecond)
	case r < 438:
		s.wait(2500 * time.Millisecond)
	case r < 441:
		s.age()
	case r < 450:
		key := s.key()
		s.note("%d hears that %s is hot", p.slot, key)
		p.engine.hot.learn(key)
	case r < 560:
		s.load()
	default:
		s.carry()
	}
}

// carry does something with a message.
func (s *schedule) carry() {
	if len(s.bag) == 0 {
		return
	}
	i := s.rng.IntN(len(s.bag))
	m := s.bag[i]
	if now, ever := s.takes(m); !now && ever {
		return
	}
	what := "delivered"
	r := s.rng.IntN(100)
	switch {
	case r < 8:
		what = "lost"
	case r < 14:
		what = "delivered, and once more later"
	}
	if r < 8 || r >= 14 {
		s.bag = slices.Delete(s.bag, i, i+1)
	}
	s.note("%s from %d to %d: %s", m.kind, m.from.slot, m.to, what)
	if r < 8 {
		m.fail()
		return
	}
	s.pass(m)
}

// load has a loader read, or return.
func (s *schedule) load() {
	if len(s.loads) == 0 {
		return
	}
	i := s.rng.IntN(len(s.loads))
	l := s.loads[i]
	switch {
	case l.by.paused:
	case !l.read:
		l.read = true
		l.it = s.itemOf(strconv.Itoa(s.origin[l.key]))
		s.note("load of %s at %d reads %s", l.key, l.by.slot, l.it.bytes)
	default:
		s.note("load of %s at %d returns %s", l.key, l.by.slot, l.it.bytes)
		s.loads = slices.Delete(s.loads, i, i+1)
		close(l.done)
	}
}

func (s *schedule) itemOf(bytes string) item {
	it := item{bytes: bytes, size: uint32(len(bytes))}
	if s.decodes {
		it.decoded = new(decoded)
	}
	return it
}

// operate has a process begin an invalidation.
func (s *schedule) operate(p *process) {
	if p.paused || s.clock == maxOperations {
		return
	}
	switch r := s.rng.IntN(20); {
	case r < 13:
		s.invalidate(p, "Remove", []string{s.key()})
	case r < 18:
		s.invalidate(p, "Set", []string{s.key()})
	default:
		s.invalidate(p, "Clear", s.keys)
	}
}

// changeView has a process know others than before.
func (s *schedule) changeView(p *process, set slots) {
	p.learn(set)
	s.forgetViews()
}

// forgetViews takes from what each process has known since an invalidation began what it
// does not know any more.
func (s *schedule) forgetViews() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range s.processes {
		told := p.told()
		for _, op := range s.ops {
			op.views[i] &= told
		}
	}
}

// part cuts a process off, or has all reach each other again.
func (s *schedule) part(p *process) {
	if s.rng.IntN(2) == 0 {
		p.side = 1 + s.rng.IntN(2)
		s.note("%d is on side %d", p.slot, p.side)
		s.unfence()
		return
	}
	s.heal()
}

func (s *schedule) heal() {
	for _, p := range s.processes {
		p.side = 0
	}
	s.note("all are on one side")
	s.unfence()
}

// gossip has a process notice of another that it cannot be reached, or is back.
func (s *schedule) gossip(p, q *process) {
	if p == q || p.paused {
		return
	}
	known, reached := p.known(), p.side == q.side && !q.paused
	switch {
	case known.has(q.slot) && !reached:
		s.note("%d forgets %d", p.slot, q.slot)
		s.changeView(p, known&^only(q.slot))
		s.unfence()
	case !known.has(q.slot) && reached:
		s.note("%d meets %d", p.slot, q.slot)
		s.changeView(p, known|only(q.slot))
		p.coherent.meet(q.url)
	}
}

// sleepOn stops a process, or lets it go on. If that took long it finds out.
func (s *schedule) sleepOn(p *process) {
	if !p.paused {
		if !slices.ContainsFunc(s.processes, func(q *process) bool { return q.paused }) {
			p.paused = true
			s.note("%d is stopped", p.slot)
		}
		return
	}
	s.resume(p)
}

func (s *schedule) resume(p *process) {
	p.paused = false
	s.note("%d goes on", p.slot)
	if s.fault != unfenced {
		if f := p.coherent.fence; !f.isUp() {
			p.late = true
			f.until.Store(now() - 1)
			if s.closing || s.rng.IntN(2) == 0 {
				f.open(now()) // as its ticker does, before a Get
			}
		}
	}
	reached, known := slots(0), p.known() // who is asked, and answers
	for _, q := range s.processes {
		if q != p && q.side == p.side && known.has(q.slot) {
			reached |= only(q.slot)
		}
	}
	if reached == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range s.ops {
		if op.done != math.MaxInt && op.covers&reached == reached {
			for _, key := range op.keys {
				s.fences[p.slot][key] = max(s.fences[p.slot][key], op.n)
			}
		}
	}
}

// unfence forgets what those behind their fence must know: whom they would ask is not
// there, or does not know it, or others answer who do not.
func (s *schedule) unfence() {
	for i, p := range s.processes {
		if p.coherent.fence.until.Load() != math.MaxInt64 {
			clear(s.fences[i])
		}
	}
}

// restart has a process die, and another one begin at its URL.
func (s *schedule) restart(old *process) {
	if old.paused || s.boots >= uint64(len(s.processes))+2 {
		return
	}
	s.note("%d dies and starts anew", old.slot)
	s.kill(old)
	s.unfence()
	p := s.newProcess(old.slot)
	p.side = old.side
	p.see(slots(1 + s.rng.IntN(int(s.everybody()))))
	s.mu.Lock()
	s.processes = slices.Clone(s.processes)
	s.processes[p.slot] = p
	gone := only(p.slot)
	for _, op := range s.ops {
		op.audience &^= gone
		op.covers &^= gone
		op.lost = op.by.dead.Load() && op.covers == 0
		op.views[p.slot] = 0
		for i := range op.views {
			op.views[i] &^= gone
		}
	}
	s.mu.Unlock()
	known := only(p.slot)
	for _, q := range s.processes {
		if q != p && q.side == p.side && !q.paused {
			known |= only(q.slot)
		}
	}
	s.changeView(p, known)
	for _, q := range s.processes {
		switch {
		case q == p:
		case known.has(q.slot):
			p.coherent.meet(q.url)
			p.coherent.catch.meet(q.url)
			if q.known().has(p.slot) {
				q.coherent.meet(p.url)
			}
		}
	}
	if known == only(p.slot) {
		p.coherent.ledger.found()
	}
}

// wait has time pass.
func (s *schedule) wait(d time.Duration) {
	s.note("%v pass", d)
	s.tick()
	s.sleep(d)
	s.forgetViews()
}

// tick has processes notice that they did not run.
func (s *schedule) tick() {
	for _, p := range s.processes {
		if p.late {
			p.coherent.fence.open(now())
		}
	}
}

// age has ids be forgotten: more than a minute passes, after which nothing is on its way
// that was before.
func (s *schedule) age() {
	s.note("all that is on its way is lost, and a minute passes")
	s.aged = true
	s.loseAll()
	s.tick()
	s.sleep(idsLife + time.Second)
	s.forgetViews()
	s.settle()
	s.loseAll()
	for _, p := range s.processes {
		if !p.paused {
			p.coherent.net.forgetIDs(now() - int64(idsLife))
		}
	}
}

func (s *schedule) loseAll() {
	for len(s.bag) > 0 {
		bag := s.bag
		s.bag = nil
		for _, m := range bag {
			m.fail()
		}
		s.settle()
	}
}

// deliverAll delivers until nothing is on its way. Loaders return at once.
func (s *schedule) deliverAll() {
	for range 10_000 {
		switch {
		case len(s.loads) > 0 && (len(s.bag) == 0 || s.rng.IntN(3) == 0):
			s.load()
		case len(s.bag) > 0:
			i := s.rng.IntN(len(s.bag))
			m := s.bag[i]
			s.bag = slices.Delete(s.bag, i, i+1)
			s.note("%s from %d to %d: delivered", m.kind, m.from.slot, m.to)
			s.pass(m)
		default:
			return
		}
		s.settle()
	}
	s.problem("messages do not come to an end")
}

// flow has time pass while messages are delivered.
func (s *schedule) flow(d time.Duration) {
	const pace = 50 * time.Millisecond
	for range d / pace {
		s.deliverAll()
		s.sleep(pace)
		s.forgetViews()
		s.settle()
	}
	s.deliverAll()
}
