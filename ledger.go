package peercache

import (
	"sync"
	"sync/atomic"
	"time"
)

// What a process knows of invalidations: which it has applied, whosever they were, and
// the last of them as records, for others who missed them. Who is told of what is in
// delivery.go, how what was missed is found out in catchup.go, what an invalidation does
// to a cache in store.go.

const (
	// maxRecords and maxLogBytes bound the log: at a thousand Removes a second it reaches
	// back a minute. Who has missed more than that drops everything.
	maxRecords  = 1 << 16
	maxLogBytes = 8 << 20

	// idsLife is how long ids are remembered key by key: longer than anything that could
	// bring an old value is on its way. A fetch that waits for a load that takes longer
	// is detached by what comes meanwhile, and keeps nothing.
	idsLife = 60 * time.Second

	// maxEarly bounds the ids of one process that came before some that have not. What is
	// beyond is applied too, and asked for once more.
	maxEarly = 1 << 10

	// maxBoots bounds the processes whose ids are told apart and spoken of, dead ones
	// included: 200 of them restarted twenty times (arbitrary). Beyond, of the one that was
	// heard of longest ago only the end of the unbroken run is kept, for maxPast of them
	// (1.5 MiB; years of deploys): others may have kept another choice, and what they say
	// must not seem to be missed, or all would drop everything, over and over.
	maxBoots = 1 << 12
	maxPast  = 1 << 16
)

// A removal is a call of Set, Remove or Clear as the others are told of it, or as much
// of the call as a frame holds. It never changes.
type removal struct {
	id
	cache string
	keys  []string // none: all that the cache holds
	at    int64    // when this process heard of it
}

// removalOverhead is what a removal takes beside its keys (measured on 64-bit machines).
const removalOverhead = 160

func (r *removal) size() int {
	n := removalOverhead
	for _, key := range r.keys {
		n += 16 + len(key)
	}
	return n
}

// A ledger is what one process knows of invalidations. Its methods neither wait nor call
// the network.
type ledger struct {
	boot  uint64
	cache func(name string) *engine // nil if there is none of that name

	mostRecords int // maxRecords, but in tests

	agedVersion            atomic.Uint64 // changes whenever what aged returns does
	pulled, passed, clears atomic.Int64  // invalidations that were missed: got later, never, and for which all was dropped

	mu      sync.Mutex // guards the fields below; a leaf: stores age ids with theirs held
	seq     uint64     // of the last id that was drawn here
	boots   map[uint64]*progress
	past    map[uint64]uint64 // the end of the unbroken run of processes that are not in boots
	order   []uint64          // of past, the oldest first
	log     []*removal        // the oldest first, from gone on
	gone    int
	bytes   int
	adopted bool // it has what was before it from others, or was the first
}

func newLedger(boot uint64, cache func(string) *engine) *ledger {
	return &ledger{boot: boot, cache: cache, mostRecords: maxRecords, boots: make(map[uint64]*progress)}
}

// progressLocked returns what is known of a process's invalidations.
func (l *ledger) progressLocked(boot uint64) *progress {
	p := l.boots[boot]
	if p != nil {
		return p
	}
	if len(l.boots) >= maxBoots {
		l.forgetOneLocked()
	}
	p = &progress{records: make(map[uint64]*removal), heard: now()}
	if upTo, known := l.past[boot]; known {
		p.upTo, p.evicted = upTo, upTo
		delete(l.past, boot)
	}
	l.boots[boot] = p
	return p
}

// upToLocked returns the end of a process's unbroken run.
func (l *ledger) upToLocked(boot uint64) uint64 {
	if p := l.boots[boot]; p != nil {
		return p.upTo
	}
	return l.past[boot]
}

func (l *ledger) forgetOneLocked() {
	var oldest uint64
	var found *progress
	for boot, p := range l.boots {
		if boot != l.boot && (found == nil || p.heard < found.heard) {
			oldest, found = boot, p
		}
	}
	delete(l.boots, oldest)
	l.pastLocked(oldest, found.upTo)
}

// pastLocked keeps no more of a process than the end of its unbroken run.
func (l *ledger) pastLocked(boot, upTo uint64) {
	if l.past == nil {
		l.past = make(map[uint64]uint64)
	}
	l.past[boot] = upTo
	for l.order = append(l.order, boot); len(l.order) > maxPast; l.order = l.order[1:] {
		delete(l.past, l.order[0])
	}
}

// draw returns a removal with a new id of this process. The caller applies it, or others
// would wait for it.
func (l *ledger) draw(cache string, keys []string) *removal {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	return &removal{id: id{l.boot, l.seq}, cache: cache, keys: keys, at: now()}
}

// apply does what a removal asks for, and remembers it. To apply it again does no harm,
// but to what a Set with its id has stored, unless the id is remembered with the key.
func (l *ledger) apply(r *removal) {
	l.mu.Lock()
	l.logLocked(r) // first: a cache that is made meanwhile looks at the log
	l.mu.Unlock()
	if e := l.cache(r.cache); e != nil {
		e.store.apply(r)
	}
	l.mu.Lock()
	l.markLocked(r.id) // last: who trusts this must find it done
	l.mu.Unlock()
}

// has reports whether an invalidation is applied.
func (l *ledger) has(i id) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hasLocked(i)
}

// hasAll reports whether all of a set are applied. What is not remembered with its key any
// more is known here still: to apply it again would drop what was stored since.
func (l *ledger) hasAll(s ids) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range s {
		if !l.hasLocked(i) {
			return false
		}
	}
	return true
}

func (l *ledger) hasLocked(i id) bool {
	p := l.boots[i.boot]
	if p == nil {
		return i.seq <= l.past[i.boot]
	}
	if i.seq <= p.upTo {
		_, over := p.over[i.seq]
		return !over
	}
	_, early := p.early[i.seq]
	return early
}

func (l *ledger) markLocked(i id) {
	p := l.progressLocked(i.boot)
	p.heard = now()
	switch {
	case i.seq <= p.upTo:
		delete(p.over, i.seq)
	case i.seq == p.upTo+1:
		p.upTo++
		p.absorb()
	case len(p.early) < maxEarly:
		if p.early == nil {
			p.early = make(map[uint64]struct{})
		}
		if !p.lacks() {
			p.gap = p.heard
		}
		p.early[i.seq] = struct{}{}
	}
}

// logLocked puts a removal into the log, unless it is there.
func (l *ledger) logLocked(r *removal) {
	p := l.progressLocked(r.boot)
	if p.records[r.seq] != nil {
		return
	}
	p.records[r.seq] = r
	l.log = append(l.log, r)
	l.bytes += r.size()
	for len(l.log)-l.gone > l.mostRecords || l.bytes > maxLogBytes {
		old := l.log[l.gone]
		l.log[l.gone] = nil
		l.gone++
		l.bytes -= old.size()
		if p := l.boots[old.boot]; p != nil && p.records[old.seq] == old {
			delete(p.records, old.seq)
			p.evicted = max(p.evicted, old.seq)
		}
	}
	if l.gone > l.mostRecords {
		l.log = append(l.log[:0:0], l.log[l.gone:]...)
		l.gone = 0
	}
}

// since returns the removals in the log that concern a cache and are remembered key by
// key still, the oldest first. What the log has lost is remembered as aged from then on.
func (l *ledger) since(cache string, at int64) []*removal {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.boots {
		if p.aged < p.evicted {
			l.ageLocked(p, p.evicted)
		}
	}
	var recent []*removal
	for _, r := range l.log[l.gone:] {
		if r.cache == cache && r.at >= at {
			recent = append(recent, r)
		}
	}
	return recent
}

// age notes that ids are not remembered key by key any more. From then on only peers that
// have applied them are asked for keys: whatever key they may be of.
func (l *ledger) age(old ids) {
	if len(old) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range old {
		if p := l.progressLocked(i.boot); p.aged < i.seq {
			l.ageLocked(p, i.seq)
		}
	}
}

func (l *ledger) ageLocked(p *progress, seq uint64) {
	if !p.lacks() {
		p.gap = now()
	}
	p.aged = seq
	l.agedVersion.Add(1)
}

// aged returns what age was told, and the version of that.
func (l *ledger) aged() (ids, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all ids
	for boot, p := range l.boots {
		if p.aged > 0 {
			all = append(all, id{boot, p.aged})
		}
	}
	return all, l.agedVersion.Load()
}

// applied returns for each process the end of the unbroken run.
func (l *ledger) applied() ids {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.appliedLocked()
}

func (l *ledger) appliedLocked() ids {
	all := make(ids, 0, len(l.boots))
	for boot, p := range l.boots {
		if p.upTo > 0 {
			all = append(all, id{boot, p.upTo})
		}
	}
	return all
}

// covers reports whether all of a set is applied, and all before.
func (l *ledger) covers(s ids) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range s {
		if l.upToLocked(i.boot) < i.seq {
			return false
		}
	}
	return true
}

// coveredBy reports whether a set has all that is not remembered key by key here.
func (l *ledger) coveredBy(applied ids) bool {
	has := make(map[uint64]uint64, len(applied))
	for _, i := range applied {
		has[i.boot] = i.seq
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for boot, p := range l.boots {
		if p.aged > has[boot] {
			return false
		}
	}
	return true
}

// stirred reports whether somebody may not have what this process has, or have what it
// has not: there was an invalidation lately, or one was passed over, behind which others
// are spoken of from then on, or the process is new. Each takes some seconds to get to all
// that can be reached, and whoever could not be compares itself when it is back.
func (l *ledger) stirred() bool {
	at := now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.boots {
		if time.Duration(at-max(p.heard, p.passed)) < idsLife || p.lacks() {
			return true
		}
	}
	return !l.adopted
}

// empty reports whether there never was an invalidation.
func (l *ledger) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.boots) == 0
}

// sizes returns how much there is.
func (l *ledger) sizes() (records, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.log) - l.gone), int64(l.bytes)
}

// lag returns for how long invalidations are known to be missing.
func (l *ledger) lag() (longest int64) {
	at := now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.boots {
		if p.lacks() {
			longest = max(longest, at-p.gap)
		}
	}
	return longest
}
