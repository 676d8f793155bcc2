package peercache

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// Catching up: how a process finds out what it has missed. Once a second, and at once with
// whoever it has just met, it tells another how far each process's invalidations are
// applied here, and gets what the other has applied beyond that. While there are none for
// a while all are equal, and say nothing.

const (
	// syncInterval is how often a process compares itself with another one, each time a
	// random one. What one of n processes knows all know after log2(n) intervals or so.
	syncInterval = time.Second

	// syncTimeout bounds one comparison, and so a Get's wait behind the fence.
	syncTimeout = 300 * time.Millisecond

	// maxSyncKeys and maxSyncBytes bound an answer, the first its records and their keys
	// together; who needs more asks again. More than that, beside three sets of maxBoots
	// ids, would be refused as a message of too many parts.
	maxSyncKeys  = 3 * wire.MaxKeys
	maxSyncBytes = 2 << 20

	// fenceRetry is how often it is tried to lower the fence. In clusters of more than
	// fewPeers one answer may be that of another that was away just as long.
	fenceRetry   = pauseTick
	fewPeers     = 10
	fenceAnswers = 3

	// gapPatience is for how long an invalidation is waited for that is known to be missing,
	// from when its process is gone. Its call never returned nil, or somebody would have it.
	gapPatience = 10 * time.Second

	// maxAsked is how many are asked for what is in the log of one no more.
	maxAsked = 3
)

// A catcher catches up. It runs on one goroutine, while there is something to do.
type catcher struct {
	with *coherence

	mu      sync.Mutex // guards the fields below
	timer   *time.Timer
	retry   *time.Timer // of lowering the fence; nil before the first
	lagging int64       // from when on a peer that says so has it compared at once again
	met     []string    // whom to compare with at once
	due     bool        // the second is over
	again   bool        // there is more to do than what is being done
	running bool
	stopped bool
}

// maxMet bounds the peers that are to be compared with at once (arbitrary: beyond it
// somebody else has what they know).
const maxMet = 64

// start has the process compared once a second. Who joins does so before it is active.
func (k *catcher) start() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.stopped {
		k.timer = time.AfterFunc(rand.N(syncInterval), k.tick)
	}
}

// stop ends that.
func (k *catcher) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
	for _, timer := range []*time.Timer{k.timer, k.retry} {
		if timer != nil {
			timer.Stop()
		}
	}
}

func (k *catcher) tick() {
	k.mu.Lock()
	k.due = true
	if !k.stopped && k.timer != nil {
		k.timer.Reset(syncInterval*3/4 + rand.N(syncInterval/2))
	}
	k.mu.Unlock()
	k.wake()
}

// meet has what a peer may know asked for at once.
func (k *catcher) meet(peer string) {
	k.mu.Lock()
	if len(k.met) < maxMet && !slices.Contains(k.met, peer) {
		k.met = append(k.met, peer)
	}
	k.mu.Unlock()
	k.wake()
}

// behind has the process compared at once with a peer that knows of what this process has
// missed, but not for each of its requests.
func (k *catcher) behind(peer string) {
	at := now()
	k.mu.Lock()
	due := at >= k.lagging
	if due {
		k.lagging = after(at, fenceRetry)
	}
	k.mu.Unlock()
	if due {
		k.meet(peer)
	}
}

// wake has done what there is to do. It does not wait for it.
func (k *catcher) wake() {
	k.mu.Lock()
	k.again = true
	start := !k.running && !k.stopped
	k.running = k.running || start
	k.mu.Unlock()
	if start && !k.with.net.background(k.run) {
		k.stop()
	}
}

// run does what there is to do.
func (k *catcher) run() {
	for {
		k.mu.Lock()
		met, due := k.met, k.due
		if !k.again || k.with.net.lifetime().Err() != nil {
			k.running = false
			k.mu.Unlock()
			return
		}
		k.met, k.due, k.again = nil, false, false
		k.mu.Unlock()
		if k.with.fence.isUp() {
			k.lowerFence()
		}
		for _, peer := range met {
			if slices.Contains(k.with.audience().peers, peer) {
				_ = k.sync(peer)
			}
		}
		if due {
			if k.with.ledger.stirred() {
				k.compare()
			}
			k.passGaps()
			k.with.net.forgetIDs(now() - int64(idsLife))
		}
	}
}

// compare compares this process with a random other.
func (k *catcher) compare() {
	if peers := k.with.audience().peers; len(peers) > 0 {
		_ = k.sync(peers[rand.N(len(peers))]) // the next second brings another
	}
}

// lowerFence asks everybody what this process has missed, and lowers the fence if enough
// have told.
func (k *catcher) lowerFence() {
	pauses := k.with.fence.times.Load()
	peers := k.with.audience().peers
	need := min(len(peers), 1)
	if len(peers) >= fewPeers {
		need = fenceAnswers
	}
	if k.syncAll(peers) >= need && k.with.fence.lower(pauses) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch { // one timer, or each cause to try would have one of its own from then on
	case k.stopped:
	case k.retry == nil:
		k.retry = time.AfterFunc(fenceRetry, k.wake)
	default:
		k.retry.Reset(fenceRetry)
	}
}

// syncAll compares this process with peers, all at the same time, and returns how many
// have answered.
func (k *catcher) syncAll(peers []string) (answered int) {
	results := make(chan error, len(peers))
	var wg sync.WaitGroup
	for _, peer := range peers {
		wg.Go(func() { results <- k.sync(peer) })
	}
	wg.Wait()
	close(results)
	for err := range results {
		if err == nil {
			answered++
		}
	}
	return answered
}

// errUnknown is a peer that has answered and tells this process of no invalidations, for it
// has not heard of it yet: another one of its URL has started while this one was away.
var errUnknown = errors.New("peercache: the peer does not know this process yet")

// sync gets from a peer what that has applied and this process has not. Without an error
// the peer tells this process of what it applies from then on.
func (k *catcher) sync(peer string) error {
	c := k.with
	for {
		s, err := k.ask(peer)
		if err != nil {
			return err
		}
		lost, more := c.ledger.take(s)
		if len(lost) > 0 {
			k.recover(peer, lost)
		}
		switch {
		case more:
		case s.unknown:
			return errUnknown
		default:
			return nil
		}
	}
}

// ask asks a peer once. What a process that is new hears first is where it begins.
func (k *catcher) ask(peer string) (*synced, error) {
	c := k.with
	for {
		fresh := c.ledger.isFresh()
		resp, err := c.call(peer, &wire.Request{Op: &wire.Request_Sync{Sync: &wire.Sync{
			Applied: c.ledger.applied().toWire(), Fresh: fresh,
		}}}, syncTimeout)
		if err != nil {
			return nil, err
		}
		s, err := syncedOf(resp.GetSynced())
		if err != nil {
			return nil, err
		}
		s.unknown = len(resp.GetMembers()) > 0
		if !fresh {
			return s, nil
		}
		c.ledger.adopt(s.begin, c.net.dropAll)
	}
}

// recover asks others for what is in the log of one peer no more. What nobody has is a
// reason to drop everything, for it may have been about any key.
func (k *catcher) recover(peer string, lost []run) {
	c := k.with
	others := slices.DeleteFunc(slices.Clone(c.audience().peers), func(other string) bool { return other == peer })
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	for _, other := range others[:min(len(others), maxAsked)] {
		if lost = c.ledger.missing(lost); len(lost) == 0 {
			return
		}
		if s, err := k.ask(other); err == nil {
			c.ledger.take(s)
		}
	}
	if lost = c.ledger.missing(lost); len(lost) > 0 {
		c.ledger.giveUp(lost, c.net.dropAll)
	}
}

// passGaps passes over what nobody has.
func (k *catcher) passGaps() {
	c := k.with
	if len(c.ledger.gaps(c.net.alive)) == 0 {
		return
	}
	if peers := c.audience().peers; k.syncAll(peers) < len(peers) {
		return // who does not answer may have it
	}
	c.ledger.passOver(c.ledger.gaps(c.net.alive))
}

// awaken makes sure that a peer has caught up with what this process drew up to seq.
func (c *coherence) awaken(peer string, seq uint64) error {
	resp, err := c.call(peer, &wire.Request{Op: &wire.Request_Sync{Sync: &wire.Sync{Applied: c.ledger.applied().toWire()}}}, deliverTimeout)
	if err != nil {
		return err
	}
	if idsOf(resp.GetSynced().GetApplied()).of(c.ledger.boot) < seq {
		return errUntold // it is at it now
	}
	return nil
}
