package peercache

import (
	"math/rand/v2"
	"time"
)

// What a process remembers of members that died, and of those that are only cut off
// and look the same from here. memberlist tries neither again, and forgets both
// within gossipToTheDead: halves of a cluster that were apart for longer would stay
// two clusters. Who tries them is in seeds.go.

// lostMembers are the lost, by URL. Who said that it leaves is none of them.
//
// Each is tried about once an interval by all that miss it together, for ever: each
// of n members draws it with a chance of 1/n. The interval is a 60th of the time since
// the loss, so that the end of a partition is noticed after a 60th of its length more
// at most, and machines that are gone for good cost next to nothing: 5 s at least,
// 10 minutes at most.
//
// One is forgotten when a process with its URL is back, when its address is that of
// another member, and, beyond maxLost, when it was lost before all others.
//
// Not safe for concurrent use: the roster's mutex guards it.
type lostMembers struct {
	byURL  map[string]lostMember
	deaths int // since they were last counted
}

type lostMember struct {
	addr  string // of its gossip
	since int64
}

const (
	lostRetry    = 5 * time.Second // of 10, one partition of a minute in 2,000 took more than 15 s to heal
	lostRetryMax = 10 * time.Minute
	lostPatience = 60 // times the interval have passed since the loss

	// maxLost is more members than a cluster is designed for, and 50 kB.
	maxLost = 256
)

// add remembers a member that was lost at a time.
func (l *lostMembers) add(url, addr string, at int64) {
	l.deaths++
	if l.byURL == nil {
		l.byURL = make(map[string]lostMember)
	}
	l.byURL[url] = lostMember{addr, at}
	if len(l.byURL) <= maxLost {
		return
	}
	first := url
	for other, m := range l.byURL {
		if m.since < l.byURL[first].since {
			first = other
		}
	}
	delete(l.byURL, first)
}

// found forgets who is back, and whose address is used by another.
func (l *lostMembers) found(url, addr string) {
	delete(l.byURL, url)
	for other, m := range l.byURL {
		if m.addr == addr {
			delete(l.byURL, other)
		}
	}
}

// draw returns the addresses whose turn it is, for one of n members that last drew a
// time ago. One that is alone tries all: nobody else will.
func (l *lostMembers) draw(at int64, n int, ago time.Duration) []string {
	var addrs []string
	for _, m := range l.byURL {
		interval := min(max(time.Duration(at-m.since)/lostPatience, lostRetry), lostRetryMax)
		if n == 1 || rand.Float64()*float64(interval)*float64(n) < float64(ago) {
			addrs = append(addrs, m.addr)
		}
	}
	return addrs
}
