package peercache

import (
	"iter"
	"slices"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// How two ledgers are compared: what one answers the other, and what that does with it.

// A run is some invalidations of one process, in a row.
type run struct{ boot, first, last uint64 }

// answer says what is applied here and not, as far as that shows, by one who has applied
// theirs. To one that is fresh it says where to begin: before what is remembered key by key.
func (l *ledger) answer(theirs ids, fresh bool) *wire.Synced {
	at := now()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &wire.Synced{Applied: l.appliedLocked().toWire()}
	if fresh {
		s.Begin = l.sinceLocked(at - int64(idsLife)).toWire()
		return s
	}
	has := make(map[uint64]uint64, len(theirs))
	for _, i := range theirs {
		has[i.boot] = i.seq
	}
	keys, bytes := 0, 0
	add := func(r *removal) bool {
		if keys+len(r.keys)+1 > maxSyncKeys || bytes+r.size() > maxSyncBytes {
			return false
		}
		keys += len(r.keys) + 1
		bytes += r.size()
		s.Records = append(s.Records, r.toWire())
		return true
	}
	var through ids
	for boot, p := range l.boots {
		from := has[boot]
		if from >= p.upTo {
			continue
		}
		if from < p.evicted {
			last := min(p.evicted, p.upTo)
			s.Gone = append(s.Gone, &wire.Range{Boot: boot, First: from + 1, Last: last})
			from = last
		}
		to := p.upTo
		for seq := range p.recordsAfter(from) {
			if !add(p.records[seq]) {
				to = seq - 1
				break
			}
		}
		through = append(through, id{boot, to})
	}
	// What came early has no number in what is compared, and is spoken of as soon as there is
	// room: its call may have returned nil, and who has been away serves from memory next.
	for boot, p := range l.boots {
		for seq := range p.early {
			if r := p.records[seq]; r != nil && seq > has[boot] && !add(r) {
				break
			}
		}
	}
	s.Through = through.toWire()
	return s
}

// recordsAfter iterates over the numbers of the records after one, in order, up to the end
// of the unbroken run. Most often they are a few in a row; where numbers were passed over,
// there may be any number of them between two.
func (p *progress) recordsAfter(from uint64) iter.Seq[uint64] {
	if p.upTo-from > uint64(len(p.records)) {
		seqs := make([]uint64, 0, len(p.records))
		for seq := range p.records {
			if seq > from && seq <= p.upTo {
				seqs = append(seqs, seq)
			}
		}
		slices.Sort(seqs)
		return slices.Values(seqs)
	}
	return func(yield func(uint64) bool) {
		for seq := from; seq < p.upTo; {
			if seq++; p.records[seq] != nil && !yield(seq) {
				return
			}
		}
	}
}

// sinceLocked returns for each process where the records begin that came after a time.
func (l *ledger) sinceLocked(at int64) ids {
	since := l.appliedLocked()
	first := make(map[uint64]uint64)
	for _, r := range l.log[l.gone:] {
		if seq, known := first[r.boot]; r.at >= at && (!known || r.seq < seq) {
			first[r.boot] = r.seq
		}
	}
	for i := range since {
		if seq, young := first[since[i].boot]; young {
			since[i].seq = min(since[i].seq, seq-1)
		}
	}
	for boot, upTo := range l.past {
		since = append(since, id{boot, upTo})
	}
	return slices.DeleteFunc(since, func(i id) bool { return i.seq == 0 })
}

// isFresh reports whether this process is new and has not heard yet where to begin.
func (l *ledger) isFresh() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.adopted
}

// found notes that there is nobody to hear it from: this process is the first.
func (l *ledger) found() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.adopted = true
}

// adopt begins where a peer said. drop drops everything, and is called if there was
// anything before that: what the caches hold may be older.
func (l *ledger) adopt(since ids, drop func()) {
	if !l.isFresh() {
		return
	}
	since = slices.DeleteFunc(since, func(i id) bool { return i.boot == l.boot })
	told := since[:min(len(since), maxBoots/2)] // the rest is the past, and room is for those that come
	l.age(told)
	if !l.covers(since) {
		drop() // also what is being loaded: it may have begun before what is not told any more
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.adopted = true
	for _, i := range told { // last: who asks this process must find it done
		p := l.progressLocked(i.boot)
		p.skipTo(i.seq)
		p.evicted = max(p.evicted, i.seq)
	}
	for _, i := range since[len(told):] {
		if p := l.boots[i.boot]; p != nil {
			p.skipTo(i.seq)
			continue
		}
		l.pastLocked(i.boot, i.seq)
	}
}

// A synced is a peer's answer to a comparison, as it is dealt with here.
type synced struct {
	removals         []*removal
	gone             []run
	through, applied ids
	begin            ids
	unknown          bool // the asker is none of those whom the peer tells of invalidations
}

// syncedOf reads an answer. It refuses one that is more than there can be: what is cut off
// would seem to be applied.
func syncedOf(w *wire.Synced) (*synced, error) {
	if len(w.GetApplied().GetBoots()) > maxBoots || len(w.GetThrough().GetBoots()) > maxBoots ||
		len(w.GetBegin().GetBoots()) > maxBoots+maxPast {
		return nil, errForged
	}
	removals, err := removalsOf(w.GetRecords())
	if err != nil {
		return nil, err
	}
	s := &synced{removals: removals, through: idsOf(w.GetThrough()), applied: idsOf(w.GetApplied()), begin: idsOf(w.GetBegin())}
	for _, g := range w.GetGone() {
		if g.GetFirst() > 0 && g.GetFirst() <= g.GetLast() {
			s.gone = append(s.gone, run{g.GetBoot(), g.GetFirst(), g.GetLast()})
		}
	}
	return s, nil
}

// take applies what a peer answered. lost is what neither has, more that there is more to
// ask for.
func (l *ledger) take(s *synced) (lost []run, more bool) {
	progress := false
	for _, r := range s.removals {
		if !l.has(r.id) {
			progress = true
			l.pulled.Add(1)
			l.apply(r)
		}
	}
	lost = l.missing(slices.DeleteFunc(s.gone, func(r run) bool { return r.boot == l.boot }))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range s.through {
		if i.boot == l.boot || slices.ContainsFunc(lost, func(r run) bool { return r.boot == i.boot }) {
			continue
		}
		if i.seq > l.upToLocked(i.boot) {
			l.passed.Add(int64(l.progressLocked(i.boot).passTo(i.seq)))
		}
	}
	for _, i := range s.applied {
		if i.boot == l.boot {
			continue
		}
		if l.upToLocked(i.boot) < i.seq {
			more = true
		}
	}
	return lost, more && progress
}

// missing returns what of runs is not applied.
func (l *ledger) missing(runs []run) []run {
	l.mu.Lock()
	defer l.mu.Unlock()
	var left []run
	for _, r := range runs {
		upTo := l.upToLocked(r.boot)
		if r.first = max(r.first, upTo+1); r.first <= r.last && upTo < r.last {
			left = append(left, r)
		}
	}
	return left
}

// giveUp takes runs for applied: drop has dropped everything. From before that on, peers
// that have not applied them are asked for nothing.
func (l *ledger) giveUp(runs []run, drop func()) {
	var last ids
	for _, r := range runs {
		last = append(last, id{r.boot, r.last})
	}
	l.age(last)
	drop()
	l.clears.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range runs {
		p := l.progressLocked(r.boot)
		p.skipTo(r.last)
		p.evicted = max(p.evicted, r.last)
	}
}

// gaps returns the invalidations that are known to be missing of processes that are gone,
// and were for so long that they will not come from them.
func (l *ledger) gaps(alive func(boot uint64) bool) []run {
	at := now()
	l.mu.Lock()
	var runs []run
	for boot, p := range l.boots {
		if boot == l.boot || !p.lacks() || time.Duration(at-max(p.gap, p.heard)) < gapPatience {
			continue
		}
		first, last := p.lacking()
		runs = append(runs, run{boot, first, last})
	}
	l.mu.Unlock()
	return slices.DeleteFunc(runs, func(r run) bool { return alive(r.boot) })
}

// passOver takes runs for what nobody knows.
func (l *ledger) passOver(runs []run) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range runs {
		if p := l.boots[r.boot]; p != nil && p.upTo+1 == r.first {
			l.passed.Add(int64(p.passTo(r.last)))
		}
	}
}
