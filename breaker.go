package peercache

import (
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

// Breakers: a peer that fails is not asked again for a while, so that its keys do
// not wait for its silence each time. They change who is asked, never the ring,
// and gossip, which takes seconds, need not have noticed anything. (Nygard,
// Release It!, 2007.)

const (
	// breakerFailures in a row open a breaker: one or two may be a lost packet.
	breakerFailures = 3

	// It stays open for breakerFirst, doubled each time that a probe fails, up
	// to breakerLongest, and varied by a fifth, so that the processes of a
	// cluster do not probe a peer that recovers all at once.
	breakerFirst   = 250 * time.Millisecond
	breakerLongest = 10 * time.Second
)

// A breaker is what one process thinks of one peer.
type breaker struct {
	failures int   // in a row
	until    int64 // open until then, if failures say that it is open
	pause    time.Duration
	open     bool
	probing  bool // one request is finding out whether the peer is back
}

// breakers are the breakers of all peers, by URL. The zero value is ready.
type breakers struct {
	mu      sync.Mutex // guards the fields below
	peers   map[string]*breaker
	tripped int64
}

// admit reports whether a peer may be asked. A true answer must be followed by
// report or abandon: it may be the one probe that an open breaker lets through.
func (b *breakers) admit(peer string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[peer]
	if p == nil || !p.open {
		return true
	}
	if p.probing || now() < p.until {
		return false
	}
	p.probing = true
	return true
}

// report tells how a request to a peer ended: err is nil if the peer answered,
// whatever it said.
func (b *breakers) report(peer string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[peer]
	if err == nil {
		if p != nil {
			delete(b.peers, peer)
		}
		return
	}
	if p == nil {
		p = &breaker{pause: breakerFirst}
		if b.peers == nil {
			b.peers = make(map[string]*breaker)
		}
		b.peers[peer] = p
	}
	p.failures++
	switch {
	case p.open && !p.probing:
		return // sent before it opened
	case p.open:
		p.pause = min(2*p.pause, breakerLongest)
	case p.failures < breakerFailures && !errors.Is(err, syscall.ECONNREFUSED):
		return
	default:
		b.tripped++
	}
	p.open, p.probing = true, false
	p.until = after(now(), p.pause*9/10+rand.N(p.pause/5))
}

// abandon tells that a request to a peer was ended by this process: it says
// nothing about the peer.
func (b *breakers) abandon(peer string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.peers[peer]; p != nil {
		p.probing = false
	}
}

// reset closes the breaker of a peer that is known to be back.
func (b *breakers) reset(peer string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.peers, peer)
}

// retain forgets the peers for which keep is false.
func (b *breakers) retain(keep func(peer string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for peer := range b.peers {
		if !keep(peer) {
			delete(b.peers, peer)
		}
	}
}

// counts returns how many breakers are open, and how often one has opened.
func (b *breakers) counts() (open, tripped int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.peers {
		if p.open {
			open++
		}
	}
	return open, b.tripped
}
