package lru

// This file changes an entry in place.

// Update replaces value and terms of the fresh entry of key by what f makes of
// them, in one step as other calls see it, and without counting as a use; but an
// entry that changes class begins anew in the other. It reports whether it did: not
// if key has no fresh entry, and not if there is no room to be made for what the
// entry would grow by, or for a minor one within MinorBytes, in which case it stays
// exactly as it was. An expiry that has passed is kept like any other, and the entry
// is expired.
//
// f runs with the shard locked: it must be quick and must not call the cache.
// It may run twice, the second time perhaps on another value, so it should do
// nothing but compute; what it notes for the caller counts only if Update
// returns true. It must not write to what v refers to, which readers share.
func (c *Cache[V]) Update(key string, now int64, f func(v V, t Terms) (V, Terms)) bool {
	r, short, gone := c.update(key, now, room{}, f)
	c.report(gone)
	if short == (room{}) {
		return r != 0
	}
	at, _ := c.spot(key)
	return c.updateGathered(key, now, short, at, r, f)
}

func (c *Cache[V]) updateGathered(key string, now int64, short room, at int, r ref, f func(v V, t Terms) (V, Terms)) bool {
	var gone []departure[V]
	defer func() { c.report(gone) }() // deferred because f may panic, and after the unlock
	c.gathering.Lock()
	defer c.gathering.Unlock()
	var ok bool
	if ok, gone = c.gather(short, at, r, now); !ok {
		return false
	}
	r, short, more := c.update(key, now, short, f)
	gone = append(gone, more...)
	return r != 0 && short == room{}
}

// update applies f to the fresh entry of key if the entry's growth fits in what
// can be taken at once and have, taken before, which it uses or gives back. Else
// it returns the entry as it was and what it would grow by. Who is gone the caller
// reports, for it may hold c.gathering.
func (c *Cache[V]) update(key string, now int64, have room, f func(V, Terms) (V, Terms)) (at ref, short room, gone []departure[V]) {
	s, hash := c.home(key)
	s.mu.Lock()
	rest := have
	defer func() { // deferred because f may panic
		c.budget.release(rest)
		gone = s.takeGoneLocked()
		s.mu.Unlock()
	}()

	r := s.findLocked(hash, key)
	if r == 0 {
		return 0, room{}, nil
	}
	if s.slab.node(r).expired(now) {
		c.budget.release(s.removeLocked(r, Expired))
		return 0, room{}, nil
	}
	v, t := f(s.slab.node(r).v, s.termsLocked(r))
	bytes := charge(key, t.Size)
	if !c.admits(bytes, t) {
		return 0, room{}, nil
	}
	growth := roomOf(bytes, t.Minor).minus(s.chargedLocked(r))
	if !c.roomLocked(s, growth.minus(have), r, now) {
		return r, growth.max(room{}), nil
	}
	s.amendLocked(r, v, bytes, t)
	rest = have.minus(growth)
	return r, room{}, nil
}
