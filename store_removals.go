package peercache

// What invalidations do to a store. Each drops a key, detaches its flights and remembers
// the id, in one step under the shard's mutex: so nobody finds what was there before,
// joins a run that began before, or fetches from a peer that does not know.

// apply does what a removal asks for.
func (s *store) apply(r *removal) {
	one := ids{r.id}
	if len(r.keys) == 0 {
		s.clear(one)
		return
	}
	for _, key := range r.keys {
		s.invalidate(key, one)
	}
}

// invalidate drops a key, unless that was done for all of these ids or later ones. It
// reports whether it was not. The key is kept.
func (s *store) invalidate(key string, news ids) bool {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s.knownLocked(sh, key).covers(news) {
		return false
	}
	s.detachLocked(sh, key)
	s.items.Remove(key)
	s.rememberLocked(sh, key, news)
	return true
}

// knows reports whether a key was dropped for all of these ids or later ones, and that is
// remembered with it.
func (s *store) knows(key string, need ids) bool {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return s.knownLocked(sh, key).covers(need)
}

// put stores the item that a Set with this id brings, unless a later invalidation is
// applied already.
func (s *store) put(key string, i id, it item) {
	one := ids{i}
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed || s.knownLocked(sh, key).covers(one) {
		return
	}
	s.detachLocked(sh, key)
	s.keepLocked(key, it) // what was there goes, also if there is no room for it
	s.rememberLocked(sh, key, one)
}

// known returns what is remembered of the invalidations of a key.
func (s *store) known(key string) ids {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return s.knownLocked(sh, key)
}

// mayEnd reports whether a flight may end with a value of another memory that was born
// with these ids: nothing was applied here that the value has not seen. What the other has
// applied to the key is, here too.
func (s *store) mayEnd(f *flight, birth ids) bool {
	sh := f.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	known := s.knownLocked(sh, f.key)
	if f.ended || f.detached || !birth.covers(known) {
		return false
	}
	if !known.covers(birth) { // which is an invalidation, but for this flight
		s.detachLocked(sh, f.key)
		f.detached = false
		sh.flights[f.kind][f.key] = f
		s.items.Remove(f.key)
		s.rememberLocked(sh, f.key, birth)
	}
	return true
}

// receive stores an item of another memory that was born with these ids, unless something
// was applied here that it has not seen, or what is held lives as long. What the other has
// applied to the key is, here too.
func (s *store) receive(key string, birth ids, it item) bool {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	known := s.knownLocked(sh, key)
	if !known.covers(birth) {
		s.detachLocked(sh, key)
		s.items.Remove(key)
		s.rememberLocked(sh, key, birth)
	}
	if sh.closed || !birth.covers(known) {
		return false
	}
	if held, stale, ok := s.look(key); !ok || stale || held.copied || held.expires < it.expires {
		s.keepLocked(key, it)
	}
	return true
}

// clear drops everything in constant time, but for the flights.
func (s *store) clear(news ids) {
	s.clearing.Lock()
	defer s.clearing.Unlock()
	known := s.clearedIDs()
	if known.covers(news) {
		return
	}
	kept, rest := known.with(news).limited()
	s.age(rest)
	s.clearAt = now()
	s.dropLocked(&kept)
}

// drop drops everything, for a reason that has no id.
func (s *store) drop() {
	s.clearing.Lock()
	defer s.clearing.Unlock()
	s.dropLocked(s.cleared.Load())
}

// dropLocked drops everything and remembers what for. All shards are locked meanwhile: who
// sees the ids finds nothing from before, and what is stored without them is dropped.
func (s *store) dropLocked(cleared *ids) {
	for i := range s.shards {
		s.shards[i].mu.Lock()
	}
	for i := range s.shards {
		sh := &s.shards[i]
		for kind := range sh.flights {
			for key := range sh.flights[kind] {
				s.detachLocked(sh, key)
			}
		}
	}
	s.items.Clear()
	s.cleared.Store(cleared)
	for i := range s.shards {
		s.shards[i].mu.Unlock()
	}
}

// remove drops a key of a cache that shares it with nobody.
func (s *store) remove(key string) {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.detachLocked(sh, key)
	s.items.Remove(key)
}

// set replaces the item of a key that is shared with nobody.
func (s *store) set(key string, it item) {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return
	}
	s.detachLocked(sh, key)
	s.keepLocked(key, it)
}

// detachLocked detaches the flights of a key: what runs now began before the removal and
// may end with the value that it removes. Those who wait get that value, for they came
// before it too; whoever comes later starts a new flight.
func (s *store) detachLocked(sh *shard, key string) {
	for kind := range sh.flights {
		if f := sh.flights[kind][key]; f != nil {
			s.unlinkLocked(sh, f)
		}
	}
}

func (s *store) unlinkLocked(sh *shard, f *flight) {
	f.detached = true
	delete(sh.flights[f.kind], f.key)
	sh.detached.Add(1)
}

// knownLocked returns what is remembered of the invalidations of a key.
func (s *store) knownLocked(sh *shard, key string) ids {
	return sh.memory.ids[key].ids.with(s.clearedIDs())
}

func (s *store) clearedIDs() ids {
	if known := s.cleared.Load(); known != nil {
		return *known
	}
	return nil
}

func (s *store) rememberLocked(sh *shard, key string, news ids) {
	s.age(sh.memory.raise(key, news, now()))
}

// forgetIDs forgets the ids that came before a time.
func (s *store) forgetIDs(before int64) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.memory.forget(before, s.age)
		sh.mu.Unlock()
	}
	s.clearing.Lock()
	defer s.clearing.Unlock()
	if known := s.clearedIDs(); known != nil && s.clearAt < before {
		s.age(known)
		s.cleared.Store(nil)
	}
}

// remembered counts the keys whose invalidations are remembered.
func (s *store) remembered() (n int64) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		n += int64(len(sh.memory.ids))
		sh.mu.Unlock()
	}
	return n
}
