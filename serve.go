package peercache

import (
	"strings"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// What a cache does for its peers. There is no road from here to a fetch:
// whoever is asked answers, loads or says "not mine", so that a request makes
// one hop and no more, however the views of the cluster differ.

// A demand is what a peer wants of the answer to a key.
type demand struct {
	need ids  // what has to have been applied to the key
	held bool // only what is held in memory
}

// demands are those of all keys of a request.
type demands struct {
	needs []ids // by the index of the key; nil if there are none
	held  bool
}

func demandsOf(get *wire.Get) demands {
	return demands{needsOf(len(get.GetKeys()), get.GetNeeds()), get.GetHeld()}
}

// of returns the demand of the i-th key.
func (d demands) of(i int) demand {
	if d.needs == nil {
		return demand{held: d.held}
	}
	return demand{d.needs[i], d.held}
}

// needsOf returns what has to have been applied to n keys, by their index, nil if there is
// nothing.
func needsOf(n int, list []*wire.Need) []ids {
	if len(list) == 0 {
		return nil
	}
	needs := make([]ids, n)
	for _, need := range list {
		if i := need.GetIndex(); int64(i) < int64(n) && len(need.GetIds().GetBoots()) <= maxNeed {
			needs[i] = idsOf(need.GetIds())
		}
	}
	return needs
}

// maxNeed is how many ids a key may need: its own and those of Clears.
const maxNeed = 2 * maxIDs

// answer answers a peer that asks for a key, or returns the load whose outcome
// will be the answer; if that is a new one it is added to begun. A value past its
// life is answered with no life: to be used and not kept. A nil begun means that
// this node is busy: it answers from memory and starts nothing. key may be part of what
// was read and is overwritten next; a load keeps a copy.
func (e *engine) answer(key string, d demand, b *begun) (answer, *flight) {
	if err := checkKey(key); err != nil {
		return answer{status: wire.Status_BAD_REQUEST, text: err.Error()}, nil
	}
	if len(d.need) > 0 && !e.store.knows(key, d.need) && !e.node.coherence().ledger.hasAll(d.need) && e.store.invalidate(strings.Clone(key), d.need) {
		e.store.shard(key).needed.Add(1)
	}
	r := e.ring()
	at := now() // once, for it costs as much as all the rest
	it, stale, ok := e.store.getForPeer(key, at)
	if d.held && (stale || !ok) {
		return answer{status: wire.Status_NOT_MINE}, nil
	}
	if stale && b != nil && e.store.due(it) {
		// A load and not a fetch: two nodes that take each other for the owner would
		// answer each other's fetches with what is stale at both.
		_, _, _ = e.joinLoad(strings.Clone(key), 0, !r.left, b)
	}
	if ok {
		a := answerOf(outcome{item: it}, at)
		a.hot = e.meter != nil && e.meter.count(e.hash(key))
		return a, nil
	}
	if !r.mayAct(e.hash(key), e.store.mayAct, at) {
		return answer{status: wire.Status_NOT_MINE}, nil
	}
	if b == nil {
		return answer{status: wire.Status_BUSY, text: "too many requests wait for loads"}, nil
	}
	// Of no version: it may act by an older table only, and the next hit looks.
	it, f, err := e.joinLoad(strings.Clone(key), 0, !r.left, b)
	if f == nil {
		return answerOf(outcome{item: it, err: err}, now()), nil
	}
	return answer{}, f
}

// accepts keeps a value that a peer set, if this node may act for the key and has not
// applied the Set's id, or a later one, before.
func (e *engine) accepts(set *wire.Set) wire.Status {
	key := wire.String(set.GetKey())
	if checkKey(key) != nil || checkValue(len(set.GetValue())) != nil || set.GetSeq() == 0 {
		return wire.Status_BAD_REQUEST
	}
	if !e.mayAct(key) {
		return wire.Status_NOT_MINE
	}
	r := &removal{id: id{set.GetBoot(), set.GetSeq()}, cache: e.name, keys: []string{key}, at: now()}
	if l := e.node.coherence().ledger; !l.has(r.id) {
		it := item{bytes: wire.String(set.GetValue()), size: uint32(len(set.GetValue()))}
		if e.decode != nil {
			it.decoded = new(decoded)
		}
		e.store.put(key, r.id, e.toKeep(it, millis(set.GetTtlMs())))
		l.apply(r) // which leaves the key alone
		e.replicate(key)
	}
	return wire.Status_OK
}

func (e *engine) mayAct(key string) bool { return e.ring().mayAct(e.hash(key), e.store.mayAct, now()) }

// answerOf is how an outcome travels to a peer at a time.
func answerOf(out outcome, at int64) answer {
	a := answer{value: out.item.bytes}
	if !out.item.fleeting {
		a.ttl = time.Duration(max(out.item.expires-at, 0)).Truncate(time.Millisecond)
	}
	err := out.err
	if err == nil {
		err = absence(out.item)
	}
	if err != nil {
		a.value = ""
		a.status, a.text = statusOf(err)
		if !out.item.absent {
			a.ttl = 0
		}
	}
	a.text = clip(a.text)
	return a
}
