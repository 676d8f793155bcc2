package peercache

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How one run goes of which schedule_exhaustive_internal_test.go tries all: three processes,
// one key, and what a scope has begin. A step is that an operation begins, a message is
// delivered, a load reads the origin, or it returns. One message may be lost, or late: who
// waits for the answer gives up before it arrives. No time passes, so that no timer is due,
// but as a step where a scope has it; what is lost is repeated when all steps are taken.

// A scope is what may happen in a run. Sets of processes are bits: 5 is 0 and 2.
type scope struct {
	starts   []start
	warm     slots         // who has read the key before
	before   slots         // of whom the ring was before, 0 if there was none
	rings    [3]slots      // of each process, 0 is of all
	views    [3]slots      // whom each process knows, 0 is all
	missed   slots         // who has missed a Remove of process 1 that nobody remembers with the key any more
	unlogged bool          // no log has that Remove either
	replicas int           // beside the owner
	falling  bool          // the higher a process's number, the shorter what it owns lives; else the longer
	spoiled  step          // of a message: lost, or late
	wait     time.Duration // that may pass once: from confirmTimeout on at any time, else when a message was spoiled
	fault    fault
}

// A start is something that may begin at any time, at one process.
type start struct {
	what string
	at   int
}

// hasty begins the name of an operation whose caller does not wait.
const hasty = "hasty "

func (c scope) String() string {
	text := strings.Trim(fmt.Sprint(c.starts), "[]")
	for _, f := range []struct {
		given  bool
		format string
		value  any
	}{
		{c.warm != 0, "warm %03b", c.warm},
		{c.before != 0, "before %03b", c.before},
		{c.rings != [3]slots{}, "rings %03b", c.rings},
		{c.views != [3]slots{}, "views %03b", c.views},
		{c.missed != 0, "missed by %03b", c.missed},
		{c.unlogged, "unlogged %t", c.unlogged},
		{c.replicas > 0, "replicas %d", c.replicas},
		{c.falling, "falling %t", c.falling},
		{c.spoiled.verb != "", "spoiled %v", c.spoiled},
		{c.wait > 0, "wait %v", c.wait},
	} {
		if f.given {
			text += fmt.Sprintf(", "+f.format, f.value)
		}
	}
	return text
}

// A step has the same name in all orders: the n-th of a kind that a process does, or sends
// to another, comes by the same whatever happens elsewhere.
type step struct {
	name name
	verb string

	reads, writes touched
}

type name struct {
	kind        string
	from, to, n int
}

func (a step) String() string {
	return fmt.Sprintf("%s %d from %d to %d: %s", a.name.kind, a.name.n, a.name.from, a.name.to, a.verb)
}

func (a step) same(b step) bool { return a.name == b.name && a.verb == b.verb }

// commutes reports whether two steps that are possible lead to the same in both orders.
func (a step) commutes(b step) bool {
	return a.name != b.name && a.writes&(b.reads|b.writes) == 0 && b.writes&a.reads == 0
}

// What a step touches is a set of these. That a Get returns touches none beside the memory:
// it is held against what was promised when it began, and a Set's value against whether that
// Set had returned by then.
type touched uint16

const (
	calendar   touched = 1 << (2*maxProcesses + iota) // the count of invalidations, and the origin
	promises                                          // what is promised to Gets that begin
	everything = ^touched(0)
)

// memoryOf is what a process holds and knows, and what it runs for keys. postOf is what it
// has to deliver, and who waits for that: a confirmation touches nothing else.
func memoryOf(i int) touched { return 1 << i }
func postOf(i int) touched   { return 1 << (maxProcesses + i) }

// An option is a step that is possible.
type option struct {
	step
	take func()
}

// A trial is a run of a scope.
type trial struct {
	*schedule
	scope  scope
	past   int    // operations before it
	begun  []bool // of the starts
	spoilt bool
	waited bool
	names  map[any]name
	counts map[name]int
}

func newTrial(c scope) *trial {
	s := &schedule{simulation: newSimulation(uint64(3+c.replicas), c.fault), origin: make(map[string]int)}
	s.opts.MaxBytes = 1 << 20 // of one shard: it is made for each run
	if c.unlogged {
		s.mostRecords = 1
	}
	s.keys = scheduleKeys[:1]
	s.populate(3)
	for i, p := range s.processes {
		p.ring.Store(nil) // of a process that is alone: it might act for all keys
		p.see(cmp.Or(c.before, c.rings[i], s.everybody()))
	}
	for i, p := range s.processes {
		if c.warm.has(i) {
			s.get(p, s.keys[0])
			s.settle()
			s.deliverAll()
		}
	}
	if c.missed != 0 {
		s.miss(c.missed)
		if c.unlogged {
			s.invalidate(s.processes[2], "Remove", scheduleKeys[1:2])
			s.settle()
			s.deliverAll()
		}
	}
	for i, p := range s.processes {
		p.learn(cmp.Or(c.views[i], s.everybody()))
		if c.before != 0 {
			p.see(cmp.Or(c.rings[i], s.everybody()))
		}
	}
	r := &trial{
		schedule: s, scope: c, past: len(s.ops), begun: make([]bool, len(c.starts)),
		names: make(map[any]name), counts: make(map[name]int),
	}
	r.evenOut()
	return r
}

// miss has process 1 remove the key, some not hear of it, and a minute pass.
func (s *schedule) miss(missed slots) {
	s.invalidate(s.processes[1], "Remove", s.keys)
	s.settle()
	for len(s.bag) > 0 {
		m := s.bag[0]
		s.bag = s.bag[1:]
		if missed.has(m.to) {
			m.fail()
		} else {
			s.pass(m)
		}
		s.settle()
	}
	s.age()
}

// name names a message or a load.
func (r *trial) name(of any, kind string, from, to int) name {
	named, ok := r.names[of]
	if !ok {
		named = name{kind: kind, from: from, to: to}
		r.counts[named]++
		named.n = r.counts[named]
		r.names[of] = named
	}
	return named
}

// options returns what is possible. A step that is stays so until it is taken: nothing is
// instead of another.
func (r *trial) options() (all []option) {
	for i, st := range r.scope.starts {
		equal := slices.Index(r.scope.starts[:i], st) // of equal ones the first begins first
		if !r.begun[i] && (equal < 0 || r.begun[equal]) {
			all = append(all, r.startOf(i, st))
		}
	}
	for _, m := range r.bag {
		all = append(all, r.deliveryOf(m))
	}
	for _, l := range r.loads {
		all = append(all, r.loadOf(l))
	}
	if c := r.scope; c.wait > 0 && !r.waited && (r.spoilt || c.wait >= confirmTimeout) {
		all = append(all, option{step{name{kind: "time"}, "passes", 0, everything}, func() {
			r.waited = true
			r.sleep(c.wait)
		}})
	}
	return all
}

func (r *trial) startOf(i int, st start) option {
	p, key, next := r.processes[st.at], r.keys[0], (st.at+1)%len(r.processes)
	begins := func(reads, writes touched, f func()) option {
		return option{step{name{st.what, st.at, st.at, i + 1}, "begins", reads, writes}, func() {
			r.begun[i] = true
			f()
		}}
	}
	switch st.what {
	case "Get":
		return begins(promises, memoryOf(st.at), func() { r.get(p, key) })
	case "Turn": // it hears that the ring is of all
		return begins(0, memoryOf(st.at), func() { p.see(r.everybody()) })
	case "Push": // to the owner
		return begins(0, memoryOf(st.at), func() { p.mover.send(p.engine.owner(key), p.engine, key) })
	case "Compare": // with the next process
		return begins(0, memoryOf(st.at), func() { p.coherent.catch.meet(slotURL(next)) })
	case "Forget": // the next process, which is said to be dead
		return begins(0, everything, func() { r.changeView(p, p.known()&^only(next)) })
	case "Meet": // it
		return begins(0, everything, func() {
			r.changeView(p, p.known()|only(next))
			p.coherent.meet(slotURL(next))
		})
	}
	what, inHaste := strings.CutPrefix(st.what, hasty)
	return begins(0, memoryOf(st.at)|postOf(st.at)|calendar, func() {
		ctx := p.life
		if inHaste {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			ctx = ended
		}
		r.invalidateUntil(ctx, p, what, r.keys)
	})
}

func (r *trial) deliveryOf(m *message) option {
	named, spoiled := r.name(m, m.kind, m.from.slot, m.to), r.scope.spoiled
	if named == spoiled.name && !r.spoilt {
		asker := m.from
		if m.only != nil {
			asker = m.only
		}
		return option{step{named, spoiled.verb, 0, hears(m.kind, asker.slot)}, func() {
			r.spoilt = true
			if spoiled.verb == "lost" {
				r.takeOut(m)
			}
			m.fail()
		}}
	}
	writes := memoryOf(m.to)
	switch {
	case m.only != nil:
		writes = hears(m.kind, m.to)
	case m.kind == "sync": // which is a sign of life
		writes |= postOf(m.to)
	}
	return option{step{named, "delivered", 0, writes}, func() {
		r.takeOut(m)
		r.pass(m)
	}}
}

// hears is what it touches that a process hears what has become of what it asked for.
func hears(kind string, at int) touched {
	switch strings.TrimSuffix(kind, " answered") {
	case "invalidate":
		return postOf(at)
	case "set": // others are told then
		return memoryOf(at) | postOf(at)
	default:
		return memoryOf(at)
	}
}

func (r *trial) takeOut(m *message) {
	r.bag = slices.DeleteFunc(r.bag, func(o *message) bool { return o == m })
}

func (r *trial) loadOf(l *loading) option {
	named := r.name(l, "load", l.by.slot, l.by.slot)
	if !l.read {
		return option{step{named, "reads", calendar, 0}, func() {
			l.read = true
			l.it = r.itemOf(strconv.Itoa(r.origin[l.key]))
		}}
	}
	return option{step{named, "returns", 0, memoryOf(l.by.slot)}, func() {
		r.loads = slices.DeleteFunc(r.loads, func(o *loading) bool { return o == l })
		close(l.done)
	}}
}

// evenOut has all that a process holds, and that is no copy, live for a time of its own. It
// is drawn at random else, and where a push meets another value the one that lives longer
// stays.
func (r *trial) evenOut() {
	for i, p := range r.processes {
		life := time.Duration(5+i) * time.Hour
		if r.scope.falling {
			life = time.Duration(5-i) * time.Hour
		}
		p.engine.store.update(r.keys[0], now(), func(it *item) {
			if !it.copied {
				it.expires = after(now(), life)
			}
		})
	}
}

// take takes a step, and returns it with all that it has touched.
func (r *trial) take(o option) step {
	r.note("%v", o.step)
	ended := len(r.ops) - r.calls
	o.take()
	r.settle()
	r.evenOut()
	if len(r.ops)-r.calls > ended {
		o.reads |= calendar
		o.writes |= promises
	}
	return o.step
}

// finish checks what must be when no step is possible any more: all calls have returned,
// and all processes know of all.
func (r *trial) finish() {
	if r.spoilt || r.waited || r.scope.missed != 0 {
		r.flow(2 * deliverLongest)
	}
	r.checkQuiet()
	waitsForAll := r.scope.wait < confirmTimeout && !slices.ContainsFunc(r.scope.starts, func(st start) bool {
		return strings.HasPrefix(st.what, hasty)
	})
	for _, op := range r.ops[r.past:] {
		if op.done == math.MaxInt && waitsForAll {
			r.problem("%s %d has not returned nil", op.what, op.n)
		}
	}
	if !r.agree() {
		r.problem("the ledgers do not agree: %v", r.ledgers())
	}
	r.getAll()
	r.checkQuiet()
}

// returned is what the calls of a trial have returned.
func (r *trial) returned() string {
	var lines []string
	for line := range strings.Lines(r.String()) {
		if strings.Contains(line, " returns ") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
