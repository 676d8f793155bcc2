package peercache

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/consistenthash"
	"github.com/peercache/peercache/internal/wire"
)

// Simulated processes: each has a real store, real flights and a real ledger, and sends
// its messages into a bag, out of which a schedule takes them in any order, twice or never.
// What is done to the processes, and what must hold, is in schedule_check_internal_test.go.

// A process is a network that ends in the bag of its simulation.
type process struct {
	sim      *simulation
	slot     int // of its URL: who starts anew has the same
	url      string
	boot     uint64
	coherent *coherence
	engine   *engine
	mover    *mover
	ring     atomic.Pointer[ring]
	life     context.Context
	end      context.CancelFunc
	work     sync.WaitGroup

	// Changed between steps only.
	side   int  // messages pass among processes of one side
	paused bool // it takes no messages and does nothing
	late   bool // it did not run for long, and has not noticed yet
	dead   atomic.Bool

	mu    sync.Mutex // guards the fields below
	knows slots      // its view of the cluster, itself among it
	shuns slots      // whom its breakers let nobody ask
}

// slots are a set of processes.
type slots uint8

func (s slots) has(i int) bool { return s>>i&1 != 0 }

func only(i int) slots { return 1 << i }

const maxProcesses = 4

func slotURL(i int) string { return fmt.Sprintf("http://127.0.0.1:%d", 8001+i) }

// slotTables are the tables of all sets of processes: to build one takes longer than a
// schedule.
var slotTables = sync.OnceValue(func() (tables [1 << maxProcesses]*consistenthash.Table) {
	for set := range tables {
		var nodes []consistenthash.Node
		for i := range maxProcesses {
			if slots(set).has(i) {
				nodes = append(nodes, consistenthash.Node{ID: slotURL(i), Weight: 1})
			}
		}
		tables[set] = consistenthash.New(nodes)
	}
	return tables
})

func newProcess(s *simulation, i int, boot uint64) *process {
	p := &process{sim: s, slot: i, url: slotURL(i), boot: boot, knows: only(i)}
	p.life, p.end = context.WithCancel(context.Background())
	p.coherent = newCoherence(p, boot, func(name string) *engine {
		if p.engine == nil || name != p.engine.name {
			return nil
		}
		return p.engine
	})
	p.coherent.ledger.mostRecords = s.mostRecords
	p.see(only(i))
	e := &engine{name: "c", seed: consistenthash.Seed("c"), opts: s.opts, node: p}
	e.gate = gate{max: e.opts.MaxLoads, start: func(c *call) { go e.call(c) }, overload: e.overload}
	e.loader = func(_ context.Context, keys []string) []loaded { return []loaded{p.load(keys[0])} }
	if s.decodes {
		e.decode = func(bytes string) (any, error) { return bytes, nil }
	}
	e.store = newStore(e.seed, e.opts, p)
	e.readReplicas()
	p.engine = e
	p.mover = newMover(p, func() []*engine { return []*engine{e} })
	return p
}

// see gives the process the ring of a set.
func (p *process) see(set slots) {
	defer func(prev *ring) {
		if prev != nil {
			p.mover.turned(prev.table)
		}
	}(p.ring.Load())
	r := &ring{version: 1, table: slotTables()[set], url: p.url}
	r.self = slices.IndexFunc(r.table.Nodes(), func(n consistenthash.Node) bool { return n.ID == p.url })
	if prev := p.ring.Load(); prev != nil {
		r.version = prev.version + 1
		r.recent = append(r.recent, recentTable{prev.table, prev.self, after(now(), graceWindow)})
		r.recent = append(r.recent, prev.recent[:min(len(prev.recent), maxRecent-1)]...)
	}
	p.ring.Store(r)
}

func (p *process) view() *ring                   { return p.ring.Load() }
func (p *process) coherence() *coherence         { return p.coherent }
func (p *process) lifetime() context.Context     { return p.life }
func (p *process) departed(string) (int64, bool) { return 0, false }
func (p *process) healthy(string) bool           { return true }
func (p *process) underWay(string) int32         { return 0 }
func (p *process) moves() *mover                 { return p.mover }
func (p *process) passedOver(bool, int)          {}
func (p *process) unregister(*engine)            {}
func (p *process) log() *slog.Logger             { return slog.New(slog.DiscardHandler) }
func (p *process) forgetIDs(before int64)        { p.engine.store.forgetIDs(before) }

func (p *process) dropAll() {
	if p.sim.fault != keepsAll {
		p.engine.store.drop()
	}
}

func (p *process) known() slots {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.knows
}

func (p *process) learn(set slots) {
	p.coherent.circle.turn(p.others(set))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.knows = set
}

// others returns the URLs of the others of a set.
func (p *process) others(set slots) (urls []string) {
	for i := range maxProcesses {
		if i != p.slot && set.has(i) {
			urls = append(urls, slotURL(i))
		}
	}
	return urls
}

// told returns whom the process has told of invalidations, itself among them.
func (p *process) told() (set slots) {
	set = only(p.slot)
	for _, url := range p.coherent.audience().peers {
		set |= only(p.sim.slotOf(url))
	}
	return set
}

func (p *process) audience() audience {
	known := p.known()
	return audience{peers: p.others(known), hash: uint64(known)}
}

func (p *process) alive(boot uint64) bool {
	known := p.known()
	return slices.ContainsFunc(p.sim.all(), func(o *process) bool { return o.boot == boot && known.has(o.slot) })
}

func (p *process) admit(peer string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.shuns.has(p.sim.slotOf(peer))
}

func (p *process) background(f func()) bool {
	if p.life.Err() != nil {
		return false
	}
	p.work.Go(f)
	return true
}

// An exchange is an inquiry on its way. All happens to it between steps, but for its
// beginning.
type exchange struct {
	q      *inquiry
	from   *process
	number int
	left   int
	ended  bool
}

func (x *exchange) end(err error) {
	if !x.ended {
		x.ended = true
		x.q.end(err)
	}
}

func (x *exchange) answer(a keyAnswer) {
	if x.ended || x.q.marked(a.i) {
		return
	}
	x.q.answer(a)
	if x.left--; x.left == 0 {
		x.end(nil)
	}
}

func (p *process) ask(peer string, q *inquiry) {
	s := p.sim
	aged, _ := p.coherent.ledger.aged()
	get := q.request().GetGet()
	if s.fault == sendsNoAged {
		aged = nil
	}
	if s.fault == sendsNoNeeds {
		get.Needs = nil
	}
	s.mu.Lock()
	ended := s.over || p.dead.Load()
	x := &exchange{q: q, from: p, number: len(s.exchanges), left: len(q.flights)}
	if !ended {
		s.exchanges = append(s.exchanges, x)
	}
	s.mu.Unlock()
	if ended {
		q.end(errLeft)
		return
	}
	s.put(&message{
		kind: "get", from: p, to: s.slotOf(peer), order: x.number,
		deliver: func(at *process) { at.serveGet(x, get, aged) },
		fail:    func() { x.end(errSilent) },
	})
}

// serveGet is what a stream's reader does with a request for keys.
func (p *process) serveGet(x *exchange, get *wire.Get, aged ids) {
	s := p.sim
	reply := func(i int, answer func()) {
		deliver := func(*process) { answer() }
		if p.dead.Load() { // a connection that breaks
			deliver = func(*process) { x.end(errSilent) }
		}
		s.put(&message{
			kind: "answer", from: p, to: x.from.slot, only: x.from, order: x.number*maxScheduleKeys + i,
			deliver: deliver,
			fail:    func() { x.end(errSilent) },
		})
	}
	if !p.coherent.current(aged, x.from.url) {
		reply(0, func() { x.end(statusError(wire.Status_BEHIND, "")) })
		return
	}
	wanted := demandsOf(get)
	var b begun
	watching := replying(func(f *flight, i int) {
		a := answerOf(f.outcome, now())
		reply(i, func() { a.came = now(); x.answer(keyAnswer{i, a}) })
	})
	for i, key := range get.GetKeys() {
		a, load := p.engine.answer(wire.String(key), wanted.of(i), &b)
		if load != nil {
			load.watch(watching, i)
			continue
		}
		reply(i, func() { a.came = now(); x.answer(keyAnswer{i, a}) })
	}
	p.engine.run(p.life, b)
}

type replying func(f *flight, i int)

func (a replying) flightEnded(f *flight, i int) { a(f, i) }

// A result is how a call ends.
type result struct {
	resp *wire.Response
	err  error
}

// birth is how the ids of the birth of a key's value travel to a process.
func (s *simulation) birth(w *wire.Ids, to *process, key []byte) *wire.Ids {
	if s.fault == bornNow {
		return to.engine.store.known(string(key)).toWire()
	}
	return w
}

func (p *process) call(ctx context.Context, peer string, req *wire.Request) (*wire.Response, error) {
	s := p.sim
	results := make(chan result, 1)
	end := func(r result) bool {
		select {
		case results <- r:
			return ctx.Err() == nil
		default: // it has ended
			return false
		}
	}
	kind, fenced := "call", false
	switch op := req.GetOp().(type) {
	case *wire.Request_Set:
		kind = "set"
		if aged, _ := p.coherent.ledger.aged(); s.fault != sendsNoAged {
			req.Aged = aged.toWire()
		}
	case *wire.Request_Sync:
		kind, fenced = "sync", p.coherent.fence.isUp()
		if s.fault == syncsNothing {
			return &wire.Response{Synced: &wire.Synced{Applied: op.Sync.GetApplied()}}, nil
		}
	case *wire.Request_Peek:
		kind = "peek"
		if aged, _ := p.coherent.ledger.aged(); s.fault != sendsNoAged {
			req.Aged = aged.toWire()
		}
	case *wire.Request_Push:
		kind = "push"
	case *wire.Request_Invalidate:
		kind = "invalidate"
		if s.fault == toldOnce && !s.firstTime(p, peer, op.Invalidate) {
			return &wire.Response{}, nil
		}
	}
	s.put(&message{
		kind: kind, from: p, to: s.slotOf(peer),
		deliver: func(at *process) {
			for _, entry := range req.GetPush().GetEntries() {
				entry.Birth = s.birth(entry.GetBirth(), at, entry.GetKey())
			}
			answered := now()
			resp := at.coherent.serve(req, idsOf(req.GetAged()), p.url)
			if s.fault == hashesAlike {
				resp.Members = nil
			}
			if synced := resp.GetSynced(); s.fault == omitsEarly && synced != nil {
				applied := idsOf(synced.GetApplied())
				synced.Records = slices.DeleteFunc(synced.GetRecords(), func(r *wire.Record) bool { return r.GetSeq() > applied.of(r.GetBoot()) })
			}
			s.put(&message{
				kind: kind + " answered", from: at, to: p.slot, only: p,
				deliver: func(*process) {
					for _, a := range resp.GetAnswers() {
						a.Birth = s.birth(a.GetBirth(), p, req.GetPeek().GetKeys()[a.GetIndex()])
					}
					err := statusError(resp.GetStatus(), resp.GetText())
					if end(result{resp, err}) && fenced && len(resp.GetMembers()) == 0 {
						s.mu.Lock()
						s.answers[[2]*process{p, at}] = answered
						s.mu.Unlock()
					}
				},
				fail: func() { end(result{nil, errSilent}) },
			})
		},
		fail: func() { end(result{nil, errSilent}) },
	})
	select {
	case r := <-results:
		return r.resp, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A loading is a call of the loader. The schedule lets it read the origin, and return.
type loading struct {
	by   *process
	key  string
	read bool
	it   item
	err  error
	done chan struct{}
}

func (p *process) load(key string) loaded {
	s := p.sim
	l := &loading{by: p, key: key, done: make(chan struct{})}
	s.mu.Lock()
	over := s.over || p.dead.Load()
	if !over {
		s.begun = append(s.begun, l)
	}
	s.mu.Unlock()
	if over {
		return loaded{err: errLeft}
	}
	<-l.done
	return loaded{item: l.it, err: l.err}
}

// A message is something on its way. It is delivered to whoever is at the slot by then.
type message struct {
	kind    string
	from    *process
	to      int
	only    *process // the one whom it concerns, if it is an answer
	order   int      // among others of the same step
	deliver func(at *process)
	fail    func() // tells the sender of a request that it was in vain
}

// A simulation is processes, and what is on its way between them.
type simulation struct {
	opts        Options
	decodes     bool
	mostRecords int
	fault       fault
	rng         *rand.Rand

	// Of the schedule's goroutine.
	bag   []*message
	loads []*loading
	held  map[*flight]*process // by a fault that keeps detached flights

	mu        sync.Mutex // guards the fields below
	processes []*process // by slot
	sent      []*message // in this step
	begun     []*loading // in this step
	exchanges []*exchange
	told      map[string]bool
	answers   map[[2]*process]int64 // when the second last answered the first, which asked behind its fence
	over      bool
}

func newSimulation(seed uint64, broken fault) *simulation {
	const long = 10 * time.Hour // than any schedule
	replicas := int(seed % 3)
	return &simulation{
		opts:        (&Options{HotTTL: long, MaxTTL: long, LoadTimeout: long, Replicas: replicas}).withDefaults(),
		mostRecords: maxRecords,
		fault:       broken,
		rng:         rand.New(rand.NewPCG(seed, 0)),
		told:        make(map[string]bool),
		answers:     make(map[[2]*process]int64),
		held:        make(map[*flight]*process),
	}
}

func (s *simulation) slotOf(url string) int { return int(url[len(url)-1]-'0') - 1 }

func (s *simulation) put(m *message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, m)
}

func (s *simulation) all() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.processes)
}

// firstTime reports whether a process tells a peer of an invalidation for the first time.
func (s *simulation) firstTime(p *process, peer string, op *wire.Invalidate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := false
	for _, r := range op.GetRecords() {
		name := fmt.Sprint(p.boot, peer, r.GetSeq())
		first = first || !s.told[name]
		s.told[name] = true
	}
	return first
}

// settle waits until nothing moves any more, and takes what was sent. The order in which
// goroutines came to run does not matter afterwards.
func (s *simulation) settle() {
	synctest.Wait()
	s.mu.Lock()
	sent, begun := s.sent, s.begun
	s.sent, s.begun = nil, nil
	s.mu.Unlock()
	slices.SortStableFunc(sent, func(a, b *message) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.from.slot, b.from.slot), cmp.Compare(a.to, b.to), cmp.Compare(a.order, b.order))
	})
	slices.SortStableFunc(begun, func(a, b *loading) int {
		return cmp.Or(cmp.Compare(a.by.slot, b.by.slot), cmp.Compare(a.key, b.key))
	})
	s.bag = append(s.bag, sent...)
	s.loads = append(s.loads, begun...)
	for _, p := range s.processes {
		f := p.coherent.fence
		p.late = p.late && !f.isUp()
		if p.paused || p.late {
			continue
		}
		f.mu.Lock() // it runs
		f.alive = now()
		if f.up == nil {
			f.until.Store(math.MaxInt64)
		}
		f.mu.Unlock()
	}
	s.harm()
}

// sleep has time pass, with nothing delivered.
func (s *simulation) sleep(d time.Duration) { time.Sleep(d) }

// takes reports whether a message can be delivered now, and whether ever.
func (s *simulation) takes(m *message) (now, ever bool) {
	at := s.processes[m.to]
	if m.only != nil && m.only != at {
		return false, false
	}
	return !at.paused, at.side == m.from.side || m.from.dead.Load()
}

// pass delivers a message, or has it fail where it cannot be delivered any more.
func (s *simulation) pass(m *message) {
	if _, ever := s.takes(m); !ever {
		m.fail()
		return
	}
	m.deliver(s.processes[m.to])
}

// kill ends a process without notice.
func (s *simulation) kill(p *process) {
	s.mu.Lock()
	p.dead.Store(true)
	exchanges := slices.Clone(s.exchanges)
	s.mu.Unlock()
	p.coherent.stop()
	p.end()
	for _, x := range exchanges {
		if x.from == p {
			x.end(errLeft)
		}
	}
	s.loads = slices.DeleteFunc(s.loads, func(l *loading) bool {
		if l.by == p {
			l.err = errLeft
			close(l.done)
		}
		return l.by == p
	})
	p.engine.close()
}

// stop ends all processes, and returns when none of their goroutines runs any more.
func (s *simulation) stop() {
	s.settle()
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	for _, p := range s.processes {
		s.kill(p)
	}
	s.settle()
	for _, p := range s.processes {
		p.work.Wait()
	}
}
