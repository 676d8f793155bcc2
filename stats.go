package peercache

import (
	"sync/atomic"

	"github.com/peercache/peercache/lru"
)

// Stats is what a cache has counted since it was made. Its fields are read one
// after the other, not at one instant.
type Stats struct {
	Gets       int64 // keys asked for by Get and GetMany
	Hits       int64 // answered from this process's memory, copies included
	HotHits    int64 // of these from copies of other nodes' entries
	StaleHits  int64 // of these from entries past their life, while StaleFor allows it
	Loads      int64 // keys given to the loader
	LoadErrors int64 // of these that failed; not found is no failure
	LoadNanos  int64 // time spent in calls of the loader, in nanoseconds
	Overloads  int64 // keys refused because MaxLoads was reached and the queue full or slow
	Orphans    int64 // keys loaded here because no owner could be asked
	PeerGets   int64 // keys asked of peers
	PeerErrors int64 // of these not answered: the peer was dead, silent or refused
	Served     int64 // keys answered to peers

	Peeked   int64 // keys that were not loaded because a previous owner had them in memory
	Hedges   int64 // keys that a replica was asked for too, because their owner took its time
	Hedged   int64 // of these that it answered before the owner
	Handed   int64 // entries given to other nodes, as their new owners or replicas
	Refused  int64 // entries that other nodes gave and that are older than a removal
	Detached int64 // loads and fetches that a Set, Remove or Clear overtook
	Needed   int64 // keys of which a peer that asked knew an invalidation that this node did not

	Evictions   int64 // entries that gave way to others
	Expirations int64 // entries dropped at the end of their life
	Entries     int64 // held now, copies and remembered not-founds included
	Bytes       int64 // keys, values and bookkeeping held now, at most MaxBytes
}

// counters are what one shard of a store counts, so that cores that work on
// different keys do not write to one cache line.
type counters struct {
	staleHits                    atomic.Int64
	loads, loadErrors, loadNanos atomic.Int64
	overloads, orphans           atomic.Int64
	peerGets, peerErrors, served atomic.Int64
	detached, needed             atomic.Int64
	peeked, handed, refused      atomic.Int64
	hedges, hedged               atomic.Int64

	// What the lru has counted that was none: of its lookups those that were no
	// Gets of callers here, and of its hits those that were not theirs or came to
	// nothing. Hits themselves are counted by nobody else.
	notGets, notHits, notHotHits atomic.Int64
}

// uncount takes back a hit of the lru.
func (c *counters) uncount(rec record) {
	c.notHits.Add(1)
	if rec.flags&copiedRecord != 0 {
		c.notHotHits.Add(1)
	}
}

func (s *Stats) add(c *counters) {
	s.Gets -= c.notGets.Load()
	s.Hits -= c.notHits.Load()
	s.HotHits -= c.notHotHits.Load()
	s.StaleHits += c.staleHits.Load()
	s.Loads += c.loads.Load()
	s.LoadErrors += c.loadErrors.Load()
	s.LoadNanos += c.loadNanos.Load()
	s.Overloads += c.overloads.Load()
	s.Orphans += c.orphans.Load()
	s.PeerGets += c.peerGets.Load()
	s.PeerErrors += c.peerErrors.Load()
	s.Served += c.served.Load()
	s.Peeked += c.peeked.Load()
	s.Hedges += c.hedges.Load()
	s.Hedged += c.hedged.Load()
	s.Handed += c.handed.Load()
	s.Refused += c.refused.Load()
	s.Detached += c.detached.Load()
	s.Needed += c.needed.Load()
}

// count adds what the lru has counted. It is read after the counters, so that what
// they take back is in it.
func (s *Stats) count(items *lru.Cache[record]) {
	st := items.Stats()
	s.Gets += st.Hits + st.Misses
	s.Hits += st.Hits
	s.HotHits += st.MinorHits
	s.Evictions, s.Expirations = st.Evictions, st.Expirations
	s.Entries, s.Bytes = int64(items.Len()), items.Bytes()
}

// NodeStats is what a node has counted since it was made, and how it stands.
type NodeStats struct {
	Peers       int64 // active members, as Node.Peers counts them
	RingVersion int64 // views of the cluster built so far
	Health      int64 // gossip's awareness of its own slowness: 0 is best, see Lifeguard (Dadgar et al., 2018)
	Failovers   int64 // keys for which an owner was asked in vain
	Skips       int64 // keys whose owner was not asked because its breaker was open
	Breakers    int64 // peers whose breaker is open now
	Tripped     int64 // times that a breaker has opened
	Silences    int64 // requests given up because the peer sent nothing for too long
	Streams     int64 // connections to peers that carry requests now; plain HTTP's are not counted
	Rubbish     int64 // connections closed because what the peer sent makes no sense
	Rejected    int64 // members kept out of the ring because what they say of themselves makes no sense here
	Twins       int64 // URLs that several live processes have: a restart for some seconds, else a mistake
	Partials    int64 // calls of Set, Remove and Clear that not all peers confirmed in time
	Pending     int64 // invalidations, times the peers that have not confirmed them
	Pulled      int64 // invalidations that were missed, and got from another peer later
	Passed      int64 // invalidations that were missed, and that no peer has
	Flushes     int64 // times that everything was dropped, because what was missed is in no log any more
	Fences      int64 // times that this process did not run for so long that it had to ask what it missed
	Lag         int64 // for how long invalidations are known to be missing, in nanoseconds; 0 if none are
	Records     int64 // invalidations in the log
	RecordBytes int64 // memory that these take
	Remembered  int64 // keys, of all caches, whose invalidations are remembered
	Lost        int64 // members that died, or were cut off, and are tried again
}

func (s *NodeStats) addCoherence(c *coherence) {
	s.Partials = c.partial.Load()
	s.Pending = c.post.pending.Load()
	s.Pulled, s.Passed, s.Flushes = c.ledger.pulled.Load(), c.ledger.passed.Load(), c.ledger.clears.Load()
	s.Fences = c.fence.times.Load()
	s.Lag = c.ledger.lag()
	s.Records, s.RecordBytes = c.ledger.sizes()
}
