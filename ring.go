package peercache

import (
	"slices"
	"time"

	"github.com/peercache/peercache/consistenthash"
)

// Who owns what: immutable views of the cluster that node.go builds and swaps,
// and that caches read without a lock. How members are found out is peers.go's.

// A state is where a node stands in its life.
type state uint8

const (
	stateJoining state = iota + 1 // gossips, is not in the ring yet
	stateActive                   // in the ring
	stateLeaving                  // out of the ring, still answers
)

// A member is one process of the cluster as gossip tells of it.
type member struct {
	url    string // its identity in the ring
	zone   string
	weight int    // 1 to 100
	boot   uint64 // random, new at each start
	state  state
}

const (
	// mayActOwners is how many of a key's owners, in order, may act for it:
	// answer peers, load, accept what is set. Askers try two and views of the
	// cluster differ by a node or two while it changes. Of a cache with replicas it is two
	// more than those, if that is more; a table knows four.
	mayActOwners    = 3
	mayActOwnersMax = 2 + maxReplicas

	// maxAttempts is how many owners a Get asks before it loads by itself. A
	// third attempt would double the wait on the worst day and help only when
	// two nodes died within the few seconds that gossip needs to notice.
	maxAttempts = 2

	// graceWindow is how long a table that was replaced still counts: members
	// learn of a change within seconds of each other, not at once.
	graceWindow = 60 * time.Second

	// maxRecent bounds the tables kept for it; each holds 1.5 MiB.
	maxRecent = 8
)

// A ring is one view of the cluster. It never changes.
type ring struct {
	version uint32 // counts the views of this process
	table   *consistenthash.Table
	self    int    // this process among the table's nodes, -1 if it is not one
	url     string // this process
	recent  []recentTable

	// left is set once the node has left. Since leftAt, when it began to, nobody need
	// have told it of removals, so that nothing may be served for longer than a copy
	// from then on.
	left   bool
	leftAt int64
}

// A recentTable is a table that was current until lately.
type recentTable struct {
	table *consistenthash.Table
	self  int
	until int64 // end of its grace window
}

// newRing returns the view that follows prev, nil at the start. The table is
// made of the members that are active; while there are none, this process acts
// for itself.
func newRing(prev *ring, self member, members []member, at int64) *ring {
	nodes := make([]consistenthash.Node, 0, len(members))
	for _, m := range members {
		if m.state == stateActive {
			nodes = append(nodes, m.node())
		}
	}
	if len(nodes) == 0 {
		nodes = append(nodes, self.node())
	}
	r := &ring{version: 1, url: self.url}
	if prev == nil {
		r.table = consistenthash.New(nodes)
	} else {
		r.version = prev.version + 1
		r.table = prev.table.With(nodes)
		r.recent = append(r.recent, recentTable{prev.table, prev.self, after(at, graceWindow)})
		for _, old := range prev.recent {
			if old.until > at && len(r.recent) < maxRecent {
				r.recent = append(r.recent, old)
			}
		}
	}
	isSelf := func(n consistenthash.Node) bool { return n.ID == self.url }
	r.self = slices.IndexFunc(r.table.Nodes(), isSelf)
	if prev != nil && prev.alone() && r.self >= 0 && r.table.Len() > 1 {
		// A newcomer has not seen the ring of before: its keys were those of the others.
		before := r.table.With(slices.DeleteFunc(slices.Clone(nodes), isSelf))
		r.recent = append([]recentTable{{before, -1, after(at, graceWindow)}}, r.recent...)
	}
	return r
}

func (m member) node() consistenthash.Node {
	return consistenthash.Node{ID: m.url, Zone: m.zone, Weight: m.weight}
}

// alone reports whether this process has nobody to share keys with, so that it
// acts for all of them.
func (r *ring) alone() bool { return r.left || r.table.Len() == 1 && r.self == 0 }

// owner returns the URL of the first owner of the key with this hash.
func (r *ring) owner(hash uint64) string {
	if r.alone() {
		return r.url
	}
	return r.table.Nodes()[r.table.Owner(consistenthash.Slot(hash))].ID
}

// owners returns the URLs of the first n owners of the key with this hash.
func (r *ring) owners(hash uint64, n int) []string {
	if r.alone() {
		return []string{r.url}
	}
	var room [mayActOwnersMax]int
	urls := make([]string, 0, n)
	for _, i := range r.table.AppendOwners(room[:0], consistenthash.Slot(hash), n) {
		urls = append(urls, r.table.Nodes()[i].ID)
	}
	return urls
}

// mayAct reports whether this process may act for the key with this hash, being among
// its first n owners: by the current table, or by one that was current lately and by
// which others may still go.
func (r *ring) mayAct(hash uint64, n int, at int64) bool {
	return r.mayActUntil(hash, n, at) > at
}

// mayActUntil returns until when it may: for good by the current table, to the end
// of its grace window by an older one, and until at if it may not.
func (r *ring) mayActUntil(hash uint64, n int, at int64) int64 {
	slot := consistenthash.Slot(hash)
	if r.alone() || amongOwners(r.table, r.self, slot, n) {
		return never
	}
	for _, old := range r.recent { // the latest first
		if old.until > at && amongOwners(old.table, old.self, slot, n) {
			return old.until
		}
	}
	return at
}

func amongOwners(t *consistenthash.Table, self, slot, n int) bool {
	if self < 0 {
		return false
	}
	var room [mayActOwnersMax]int
	return slices.Contains(t.AppendOwners(room[:0], slot, n), self)
}
