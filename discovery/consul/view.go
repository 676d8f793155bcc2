package consul

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/peercache/peercache"
)

// vanishGrace is how long peers that vanished together stay. After a loss of state the
// processes register again within a third of their TTL; agents compare what they have with
// the servers once a minute, longer in data centres of more than 128 machines.
const vanishGrace = 90 * time.Second

// A view is the cluster as this node sees it: what Consul lists, and what it may only have
// lost. It does not know where lists come from, nor what becomes of them. For one goroutine.
type view struct {
	self    peercache.Peer
	others  map[string]peercache.Peer // by URL
	missing map[string]time.Time      // of others: until when they are kept without being listed
}

func newView(self peercache.Peer, peers []peercache.Peer) *view {
	v := &view{self: self, others: make(map[string]peercache.Peer)}
	for _, p := range peers {
		if p.URL != self.URL {
			v.others[p.URL] = p
		}
	}
	return v
}

// update takes in what Consul lists; doubtful says that it may not list all it should. It
// reports whether the view has changed, and how many peers it has begun to keep that are
// listed no more.
func (v *view) update(listed map[string]peercache.Peer, doubtful bool, now time.Time) (changed bool, kept int) {
	others := maps.Clone(listed)
	_, selfListed := others[v.self.URL]
	delete(others, v.self.URL)

	var vanished []string
	missing := make(map[string]time.Time)
	for url, peer := range v.others {
		if _, ok := others[url]; ok {
			continue
		}
		until, known := v.missing[url]
		switch {
		case !known:
			vanished = append(vanished, url)
		case now.Before(until):
			missing[url], others[url] = until, peer
		}
	}
	if len(vanished) > 0 && (doubtful || !selfListed || v.most(len(vanished))) {
		kept = len(vanished)
		for _, url := range vanished {
			missing[url], others[url] = now.Add(vanishGrace), v.others[url]
		}
	}
	changed = !maps.Equal(others, v.others)
	v.others, v.missing = others, missing
	return changed, kept
}

// most reports whether so many of those listed before cannot have left by chance at one
// time.
//
// Whether none is left would be the wrong question: what was lost comes back one after the
// other, and an answer may come in between. A single one that vanishes has left, even if it
// was the only one: of two processes one may leave, and nothing tells that from a loss.
func (v *view) most(vanished int) bool {
	return vanished >= 2 && 2*vanished > len(v.others)-len(v.missing)
}

// peers returns the view as SetPeers takes it.
func (v *view) peers() []peercache.Peer {
	peers := append(slices.Collect(maps.Values(v.others)), v.self)
	slices.SortFunc(peers, func(a, b peercache.Peer) int { return strings.Compare(a.URL, b.URL) })
	return peers
}

// nextExpiry returns when the first of the missing is to be dropped.
func (v *view) nextExpiry() (time.Time, bool) {
	if len(v.missing) == 0 {
		return time.Time{}, false
	}
	return slices.MinFunc(slices.Collect(maps.Values(v.missing)), time.Time.Compare), true
}
