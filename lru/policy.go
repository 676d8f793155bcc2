package lru

// This file decides who goes. Major entries are in two queues, as in S3-FIFO (Yang
// et al., SOSP 2023): new ones in a small one, proven ones in the main one. Queues
// are in order of arrival, so that a hit writes nothing but a counter of its entry,
// and not even that once it has reached maxUses.
//
//   - What was asked for twice while it was in the small queue has proven itself.
//   - Anything else that reaches the end of the small queue is compared with what is
//     at the end of the main one, by how often a sketch has seen each lately, as in
//     TinyLFU: the newcomer must be ahead by more than one, for counts that are
//     halved from time to time differ by one for no reason. A loop larger than the
//     cache would otherwise replace everything by its like, again and again.
//   - At the end of the main queue, who was used since it was there last goes round
//     again, with one use less.
//
// How large the small queue should be differs from one load to the next: loops want
// none, recency wants all of it. So its share adapts. Entries that have just left
// the small queue are remembered by their hashes; how often one of them is asked for
// again says what a longer small queue would have been worth, and the hits of the
// main queue what that would have cost.
//
// The numbers below were chosen on the traces and synthetic loads of bench/hitratio,
// by their effect on all of them: a point is a hundredth of all accesses. Against a
// fixed share of a tenth, adapting costs up to a point where that happens to be right
// (OLTP), and is worth 2 to 7 points on loops and 18 to 27 where LRU is good.

const (
	// maxUses is where the counter of an entry saturates. With 7 the main queue
	// takes longer to see that something has gone out of use: 0.3 points less
	// where the load changes, 0.1 more where it does not.
	maxUses = 3

	// proven is how many uses in the small queue need no comparison. One would let
	// in what comes in pairs: 1 point less on OLTP. Three are as good as two
	// where nothing changes and 1 point worse where recency counts.
	proven = 2

	// ahead is by how much a newcomer's count must exceed that of whom it replaces.
	ahead = 1

	// The share of the small queue, in parts of 1<<shareBits: at first a tenth, as
	// in S3-FIFO; at least an 80th and leastSmall entries; and at most four fifths.
	// With 3 % loops lose 1 to 2 points; with fewer than 12 entries what recurs at
	// once is lost (half a point on the web at 256 entries).
	shareBits  = 16
	shareFirst = 1 << shareBits / 10
	shareLeast = 1 << shareBits / 80
	leastSmall = 12
	shareMost  = 1 << shareBits * 4 / 5

	// The share changes by a 24th each time a tenth of the entries have left the
	// small queue, at least minLeavers. A 16th is 0.3 points worse on OLTP, and a
	// 32nd finds its way too late where the load changes.
	shareStep  = 24
	leaverPart = 10
	minLeavers = 50

	// A victim that has been spared that many times in a row, a quarter as often as
	// there are entries and at least minSpared times, goes round. It is there because
	// the sketch takes it for another key: it would guard the gate for ever, and the
	// main queue behind it would never change (50 points on two loads one after the
	// other, in one run of four). To send each round that is spared would be to
	// forget who is the weakest: 1 to 2 points worse on everything.
	sparedPart = 4
	minSpared  = 64

	// maxMoves bounds what one eviction does before it takes the next best.
	maxMoves = 64
)

// A policy is what a shard has learnt about its major entries.
type policy struct {
	share  int64 // of the small queue
	sketch sketch
	ghost  ghost
	began  bool // something was evicted: before that there is nothing to learn

	// Since the share was last thought about:
	leavers     int   // of the small queue
	leaverUses  int   // of these were used there
	returns     int   // keys that came back soon after
	mainHitsWas int64 // hits of the main queue until then

	victim ref // the last that was spared
	spared int // how many times in a row
}

// begin makes the policy learn, when the first entry has to go.
func (p *policy) begin(entries int) {
	p.began, p.share = true, shareFirst
	p.fit(entries, 0)
}

func (p *policy) fit(entries, small int) {
	p.sketch.fit(entries)
	p.ghost.fit(p.memory(entries, small))
}

// memory is how many leavers of the small queue are remembered: as many as are in
// it, so that they tell what it would be worth to double it, at least a twentieth of
// all, so that a short queue can find out, and at most a quarter, or maxGhosts.
func (p *policy) memory(entries, small int) int {
	return min(max(small, entries/20, 1), max(entries/4, 1), maxGhosts)
}

// missed learns that a key was asked for that is not there.
func (p *policy) missed(hash uint32, entries, small int) {
	if !p.began {
		return
	}
	p.sketch.add(hash, 1)
	if p.ghost.take(hash, p.memory(entries, small)) {
		p.returns++
	}
}

// adapt thinks about the share of the small queue, each time enough entries have
// left it.
//
// A longer queue is worth what came back soon after it left, for each entry that
// was remembered. It costs what the main queue would lose. That is less than what
// its entries bring on average, for it would lose the worst: a tenth is taken (a fifth
// is a point worse where popularity drifts).
//
// That is so if what an entry brings falls with its age. Where the queue itself brings
// less than what is behind it, uses come at one distance, as in a loop: the longer
// queue is worth something once it is long enough for all of the loop, and nothing
// before. Then all of it is weighed against the average of the main one. "Less" is by
// a fifth, for what drifts brings nearly as much behind as within; but where that is
// much, it need only be less than a fifth more: of a loop a little larger than the
// cache, part of each round is found in a queue of the right length, and the share
// would stay there (7 points, in one run of two).
func (p *policy) adapt(small, main int, mainHits int64) {
	entries := small + main
	if p.leavers < max(entries/leaverPart, minLeavers) {
		return
	}
	remembered := p.memory(entries, small)
	within := float64(p.leaverUses) / float64(max(small, 1))
	worth := float64(p.returns) / float64(remembered)
	cost := float64(mainHits-p.mainHitsWas) / float64(max(main, 1))
	if within < 0.8*worth || within < 1.2*worth && worth > 0.3*cost {
		worth = float64(p.leaverUses+p.returns) / float64(small+remembered)
	} else {
		cost *= 0.1
	}
	switch { // a tenth apart is no difference
	case worth > 1.1*cost:
		p.share = min(p.share+p.share/shareStep, shareMost)
	case worth < 0.9*cost:
		least := max(leastSmall<<shareBits/int64(entries), shareLeast)
		p.share = max(p.share-p.share/shareStep, min(least, shareFirst))
	}
	p.leavers, p.leaverUses, p.returns, p.mainHitsWas = 0, 0, 0, mainHits
	p.fit(entries, small)
}

// spare notes that a victim was spared and reports whether it was too often.
func (p *policy) spare(victim ref, entries int) bool {
	if p.victim != victim {
		p.victim, p.spared = victim, 0
	}
	p.spared++
	return p.spared >= max(entries/sparedPart, minSpared)
}

// evictMajorLocked drops one major entry that is not keep, for one of incoming bytes,
// and returns what it was charged for, nothing if there is none.
func (s *shard[V]) evictMajorLocked(incoming int64, keep ref, now int64) room {
	p, small, main := &s.policy, &s.queues[smallQueue], &s.queues[mainQueue]
	if !p.began {
		p.begin(small.n + main.n)
	}
	for moves := 0; ; moves++ {
		target := (small.bytes + main.bytes) * p.share >> shareBits
		r := s.oldestLocked(smallQueue, keep)
		if r == 0 || moves == maxMoves || small.bytes+incoming <= target && main.n > 0 {
			if r = s.victimLocked(keep, now); r == 0 {
				r = s.oldestLocked(smallQueue, keep)
			}
			return s.evictLocked(r, now)
		}
		n := s.slab.node(r)
		switch {
		case n.expired(now):
			return s.evictLocked(r, now)
		case small.bytes-int64(n.bytes) > target && small.n > 1:
			// More than the newcomer too much: the share has shrunk, or this is the
			// first eviction. What is too much gets its place in the main queue.
			n.uses = min(n.uses, 1)
			s.moveLocked(mainQueue, r)
			continue
		}
		p.leavers++
		if n.uses > 0 {
			p.leaverUses++
			p.sketch.add(n.hash, int(n.uses))
		}
		p.adapt(small.n, main.n, s.hits[mainQueue])
		if n.uses >= proven {
			s.promoteLocked(r)
			continue
		}
		if v := s.victimLocked(keep, now); v != 0 {
			w := s.slab.node(v)
			if w.expired(now) || p.sketch.count(n.hash) > p.sketch.count(w.hash)+ahead {
				s.promoteLocked(r)
				return s.evictLocked(v, now)
			}
			if p.spare(v, small.n+main.n) {
				s.moveLocked(mainQueue, v)
			}
		}
		p.ghost.add(n.hash)
		return s.evictLocked(r, now)
	}
}

func (s *shard[V]) promoteLocked(r ref) {
	s.slab.node(r).uses = 0
	s.moveLocked(mainQueue, r)
}

// victimLocked returns the major entry that is to leave the main queue next, 0 if
// there is none but keep.
func (s *shard[V]) victimLocked(keep ref, now int64) ref {
	return s.unusedLocked(mainQueue, keep, now)
}

// unusedLocked returns the first entry from the end of a queue that was not used
// since it was there last, or has expired, and sends those before it round again.
func (s *shard[V]) unusedLocked(id queueID, keep ref, now int64) ref {
	for moves := 0; ; moves++ {
		r := s.oldestLocked(id, keep)
		if r == 0 {
			return 0
		}
		n := s.slab.node(r)
		if n.uses == 0 || n.expired(now) || moves == maxMoves {
			return r
		}
		n.uses--
		if id == mainQueue {
			s.policy.sketch.add(n.hash, 1)
		}
		s.moveLocked(id, r)
	}
}

// evictMinorLocked drops one minor entry that is not keep and returns what it was
// charged for, nothing if there is none. Minor entries are few and short-lived, and
// need no more than a second chance (the CLOCK algorithm, Corbató 1968).
func (s *shard[V]) evictMinorLocked(keep ref, now int64) room {
	return s.evictLocked(s.unusedLocked(minorQueue, keep, now), now)
}

// evictLocked drops the entry at r, if there is one, to make room.
func (s *shard[V]) evictLocked(r ref, now int64) room {
	switch {
	case r == 0:
		return room{}
	case s.slab.node(r).expired(now):
		return s.removeLocked(r, Expired)
	default:
		return s.removeLocked(r, Evicted)
	}
}
