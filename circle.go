package peercache

import (
	"sync"
	"sync/atomic"
	"time"
)

// Who has to be told of an invalidation although gossip does not say so.

// contactLife is for how long a process that has asked what it missed is told of
// invalidations even if gossip takes it for dead: it may have been stopped, and serves from
// memory once it is answered, while gossip takes a tenth of a second to have it back. It
// asks somebody each second. It is no longer than gossip takes to find a death, so that
// who asks and dies makes no call partial that would not be anyway.
const contactLife = 3 * time.Second

// A circle is the processes that are members or were, and which of them live though gossip
// has lost them. The zero value is ready.
type circle struct {
	lost atomic.Pointer[[]contact] // nil if there are none; never changed, only replaced

	mu    sync.Mutex // guards the fields below
	turns uint64     // changes of the members so far
	met   map[string]acquaintance
}

// An acquaintance is what is known of one that is or was a member.
type acquaintance struct {
	turn  uint64 // until which it was a member
	until int64  // it is told of invalidations, because it has asked
}

// A contact is a process that is no member, and told of invalidations until a time.
type contact struct {
	url   string
	until int64
}

// turn notes who the other members are. It comes before the audience that consists of them:
// who is in neither for a moment would not be told.
func (c *circle) turn(others []string) {
	at := now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.met == nil {
		c.met = make(map[string]acquaintance)
	}
	c.turns++
	for _, url := range others {
		a, known := c.met[url]
		if !known {
			a.until = at
		}
		a.turn = c.turns
		c.met[url] = a
	}
	for url, a := range c.met {
		if a.turn == c.turns-1 && a.until > at {
			c.keepLocked(contact{url, a.until}, at)
		}
	}
	for len(c.met) > len(others)+maxLost {
		c.forgetLocked()
	}
}

// forgetLocked forgets the one that was lost before all others.
func (c *circle) forgetLocked() {
	first, turn := "", c.turns
	for url, a := range c.met {
		if a.turn <= turn {
			first, turn = url, a.turn
		}
	}
	delete(c.met, first)
}

// hear notes that a process has asked what it missed, and reports whether it is told of
// invalidations from now on. One that never was a member is not: else a stranger could have
// this process send requests anywhere.
func (c *circle) hear(url string) bool {
	at := now()
	c.mu.Lock()
	defer c.mu.Unlock()
	a, known := c.met[url]
	if !known {
		return false
	}
	a.until = after(at, contactLife)
	c.met[url] = a
	if a.turn != c.turns {
		c.keepLocked(contact{url, a.until}, at)
	}
	return true
}

// knows reports whether a process is a member, or was.
func (c *circle) knows(url string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.met[url]
	return known
}

// has reports whether a process is a member.
func (c *circle) has(url string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, known := c.met[url]
	return known && a.turn == c.turns
}

// keepLocked keeps a contact, and forgets those whose time is over.
func (c *circle) keepLocked(add contact, at int64) {
	next := []contact{add}
	for _, old := range c.contacts() {
		if old.until > at && old.url != add.url {
			next = append(next, old)
		}
	}
	c.lost.Store(&next)
}

func (c *circle) contacts() []contact {
	if list := c.lost.Load(); list != nil {
		return *list
	}
	return nil
}

// living returns the URLs of those that live though gossip has lost them. Some may be
// members again.
func (c *circle) living() (urls []string) {
	list := c.lost.Load()
	if list == nil { // nearly always
		return nil
	}
	at := now()
	for _, lost := range *list {
		if lost.until > at {
			urls = append(urls, lost.url)
		}
	}
	if len(urls) == 0 {
		c.lost.CompareAndSwap(list, nil)
	}
	return urls
}
