package peercache

import "math"

// How far one process's invalidations are applied here: the arithmetic of its numbers,
// some of which come early, and some never. What they are about is in ledger.go.

// A progress is what is known of one process's invalidations.
type progress struct {
	upTo    uint64              // all up to here are applied, or passed over
	early   map[uint64]struct{} // applied, beyond one that is not
	over    map[uint64]struct{} // passed over: nobody knew them
	records map[uint64]*removal // those in the log
	evicted uint64              // the highest that is in the log no more
	aged    uint64              // up to here, they are not remembered key by key
	heard   int64               // when the last came
	passed  int64               // when upTo last moved without one
	gap     int64               // since when something is known to be missing
}

// lacking returns the first run of which lacks says that there is one: what is before an
// early one, or, if there is none, before what aged. Nobody else may have the latter
// either: a key needed it, and its process died before it told anybody more.
func (p *progress) lacking() (first, last uint64) {
	first, last = p.upTo+1, p.aged
	if len(p.early) > 0 {
		last = math.MaxUint64
		for seq := range p.early {
			last = min(last, seq-1)
		}
	}
	return first, last
}

// lacks reports whether there is such a run.
func (p *progress) lacks() bool { return len(p.early) > 0 || p.aged > p.upTo }

// absorb moves the end of the unbroken run on over early ones.
func (p *progress) absorb() {
	for len(p.early) > 0 {
		if _, ok := p.early[p.upTo+1]; !ok {
			return
		}
		p.upTo++
		delete(p.early, p.upTo)
	}
}

// passTo takes all up to seq for applied. What is not is remembered, and applied all the
// same if it comes after all.
func (p *progress) passTo(seq uint64) (passed int) {
	if seq > p.upTo+maxSyncKeys { // more than any peer would leave out
		p.skipTo(seq)
		return 0
	}
	for p.upTo < seq {
		p.passed = now()
		p.upTo++
		if _, early := p.early[p.upTo]; early {
			delete(p.early, p.upTo)
			continue
		}
		passed++
		if len(p.over) < maxEarly {
			if p.over == nil {
				p.over = make(map[uint64]struct{})
			}
			p.over[p.upTo] = struct{}{}
		}
	}
	p.absorb()
	return passed
}

// skipTo is passTo without remembering, for runs of any length.
func (p *progress) skipTo(seq uint64) {
	if p.upTo >= seq {
		return
	}
	for early := range p.early {
		if early <= seq {
			delete(p.early, early)
		}
	}
	p.upTo, p.passed = seq, now()
	p.absorb()
}
