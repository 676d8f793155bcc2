package main

import "slices"

// cost is what a phase cost in loads of keys that had been loaded before.
type cost struct {
	again int // how many there were

	// bare is how many a cache would have made whose entries stay where they
	// were loaded: one for each key that was known before the phase, was asked
	// for in it, and is owned by another process since. (A restarted process is
	// another one, with an empty memory.) Such a cache would really make more: a
	// key changes hands twice while its owner restarts.
	bare int
}

// cost reckons what a phase cost. What died with the killed node and is loaded
// again only after the join is the cost of the kill all the same: until then
// nobody asked, or a process had a copy, of those that live for some seconds
// where they were last asked for.
func (o *outcome) cost(p phase) cost {
	var c cost
	for key := range o.phases[p].asked {
		switch {
		case p == join && o.late(key):
		case p == kill && o.died(key), o.changedHands(key, p):
			c.bare++
		}
	}
	for key, lives := range o.phases[p].loads {
		c.again += len(lives)
		if p == join && o.late(key) || !o.loadedBefore(key, p) {
			c.again--
		}
	}
	if p != kill {
		return c
	}
	for key := range o.phases[join].asked {
		if !o.late(key) {
			continue
		}
		if !o.phases[kill].asked[key] {
			c.bare++
		}
		if len(o.phases[join].loads[key]) > 0 {
			c.again++
		}
	}
	return c
}

// changedHands reports whether a key was known before a phase and has another
// owner after it.
func (o *outcome) changedHands(key string, p phase) bool {
	after := o.owned
	if p+1 < phases {
		after = o.phases[p+1].owners
	}
	was, known := o.phases[p].owners[key]
	return known && was != after[key]
}

// loadedBefore reports whether a key was loaded before a phase.
func (o *outcome) loadedBefore(key string, p phase) bool {
	return slices.ContainsFunc(o.phases[:p], func(q phaseTally) bool { return len(q.loads[key]) > 0 })
}

// died reports whether the killed process owned a key, or had just loaded it.
func (o *outcome) died(key string) bool {
	if owner, known := o.phases[kill].owners[key]; known {
		return owner == o.killed.life
	}
	return slices.Contains(o.phases[kill].loads[key], o.killed.life)
}

// late reports whether a key died and no survivor loaded it in the phase of the
// kill.
func (o *outcome) late(key string) bool {
	loads := o.phases[kill].loads[key]
	return o.died(key) && !slices.ContainsFunc(loads, func(life int) bool { return life != o.killed.life })
}
