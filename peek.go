package peercache

import (
	"context"
	"slices"
	"time"

	"github.com/peercache/peercache/consistenthash"
	"github.com/peercache/peercache/internal/wire"
)

// Peeks: for a minute after the ring has changed, who owns a key now asks those who owned
// it before for what they have in memory, before it loads.

const (
	// peekTimeout bounds how long a load waits for them. They answer in a millisecond, or
	// are busy.
	peekTimeout = 50 * time.Millisecond

	// peekHolders is how many are asked for a key, both at once.
	peekHolders = 2

	// peekBytes bounds the answer. What is beyond is loaded.
	peekBytes = 8 << 20
)

// peekFirst has peers asked for what some of the loads would bring, and returns the
// others. Those that nobody has are loaded then.
func (e *engine) peekFirst(ctx context.Context, loads []*flight) []*flight {
	r := e.ring()
	if r == nil || len(r.recent) == 0 || e.node.coherence().ledger.isFresh() {
		return loads
	}
	at := now()
	byHolder := make(map[string][]*flight)
	var asked []*flight
	rest := slices.DeleteFunc(slices.Clone(loads), func(f *flight) bool {
		if len(f.need) > 0 {
			return false // lately removed: they have nothing
		}
		holders := e.holders(r, f.key, at)
		for _, peer := range holders {
			byHolder[peer] = append(byHolder[peer], f)
		}
		if len(holders) > 0 {
			asked = append(asked, f)
		}
		return len(holders) > 0
	})
	if len(asked) > 0 {
		ctx = context.WithoutCancel(ctx)
		go func() { // which peekTimeout bounds, and the codec
			defer func() { // also if the codec ends the goroutine
				if left := slices.DeleteFunc(asked, (*flight).isDone); len(left) > 0 {
					e.gate.enter(&call{ctx: ctx, flights: left})
				}
			}()
			e.peekAll(byHolder)
		}()
	}
	return rest
}

// holders returns whom to ask for a key: of those who owned it lately, the latest first,
// the ones that can be reached.
func (e *engine) holders(r *ring, key string, at int64) (holders []string) {
	slot := consistenthash.Slot(e.hash(key))
	members := e.node.audience().peers
	for _, old := range r.recent {
		if old.until <= at {
			continue
		}
		var room [peekHolders]int
		for _, i := range old.table.AppendOwners(room[:0], slot, peekHolders) {
			url := old.table.Nodes()[i].ID
			if url == r.url {
				break // who was before it had the key before that
			}
			if len(holders) < peekHolders && !slices.Contains(holders, url) && slices.Contains(members, url) && e.node.healthy(url) {
				holders = append(holders, url)
			}
		}
	}
	return holders
}

// peekAll asks peers for what they hold, all at the same time, and ends the flights for
// which one has something.
func (e *engine) peekAll(byHolder map[string][]*flight) {
	type found struct {
		flights []*flight
		values  []*wire.Answer
	}
	chunks := 0
	for _, flights := range byHolder {
		chunks += (len(flights) + wire.MaxKeys - 1) / wire.MaxKeys
	}
	answers := make(chan found, chunks) // all: the codec may end this goroutine
	until := now() + int64(peekTimeout)
	for peer, flights := range byHolder {
		for chunk := range slices.Chunk(flights, wire.MaxKeys) {
			asking := e.node.background(func() { answers <- found{chunk, e.peek(peer, chunk, until)} })
			if !asking {
				answers <- found{}
			}
		}
	}
	for range chunks {
		a := <-answers
		e.take(a.flights, a.values)
	}
}

// peek asks a peer for what it has, and for values that are large once more, so that they
// hold up no others.
func (e *engine) peek(peer string, flights []*flight, until int64) []*wire.Answer {
	start := now()
	ask := func(indexes []int, large bool) []*wire.Answer {
		peek := &wire.Peek{Keys: make([][]byte, len(indexes)), Large: large}
		for i, index := range indexes {
			peek.Keys[i] = wire.Bytes(flights[index].key)
		}
		resp, _ := e.node.coherence().call(peer, &wire.Request{Cache: e.name, Op: &wire.Request_Peek{Peek: peek}}, time.Duration(until-now()))
		late := uint64((now() - start) / int64(time.Millisecond))
		answers := slices.DeleteFunc(resp.GetAnswers(), func(a *wire.Answer) bool { return int64(a.GetIndex()) >= int64(len(indexes)) })
		for _, a := range answers {
			a.Index = uint32(indexes[a.GetIndex()])
			a.TtlMs -= min(a.GetTtlMs(), late)
		}
		return answers
	}
	indexes := make([]int, len(flights))
	for i := range indexes {
		indexes[i] = i
	}
	var large []int
	answers := ask(indexes, false)
	for _, a := range answers {
		if a.GetStatus() == wire.Status_LARGE {
			large = append(large, int(a.GetIndex()))
		}
	}
	if len(large) > 0 {
		answers = append(answers, ask(large, true)...)
	}
	return answers
}

// take ends flights with what a peer had.
func (e *engine) take(flights []*flight, answers []*wire.Answer) {
	for _, a := range answers {
		if len(a.GetValue()) > wire.MaxValue || len(a.GetBirth().GetBoots()) > maxNeed {
			continue
		}
		f := flights[a.GetIndex()]
		it, ok := e.itemFrom(a.GetValue(), a.GetTtlMs(), a.GetStatus() == wire.Status_NOT_FOUND)
		if !ok || a.GetStatus() != wire.Status_OK && !it.absent {
			continue
		}
		if it.decoded != nil {
			if _, err := it.decoded.get(it.bytes, e.decode); err != nil {
				continue
			}
			it.inflated = true
		}
		var err error
		if it.absent {
			err = ErrNotFound
		}
		hot := after(now(), max(e.opts.HotTTL, 0))
		if f.kind == fetchFlight {
			it.asCopy(hot)
			it.fleeting = e.opts.HotTTL < 0
		}
		if !e.store.mayEnd(f, idsOf(a.GetBirth())) || !e.store.end(f, outcome{item: it, copyUntil: hot, err: err}) {
			continue
		}
		if f.kind == fetchFlight {
			f.shard.hedged.Add(1)
			continue
		}
		f.shard.peeked.Add(1)
		e.replicate(f.key)
	}
}

// itemFrom makes an item of what came from another memory, for the rest of its life. It is
// not ok if there is none.
func (e *engine) itemFrom(value []byte, ttlMs uint64, absent bool) (it item, ok bool) {
	ttl := min(millis(ttlMs), e.opts.MaxTTL)
	it = item{bytes: wire.String(value), size: uint32(len(value)), expires: after(now(), ttl), absent: absent}
	if e.decode != nil && !absent {
		it.decoded = new(decoded)
	}
	return it, ttl > 0
}

// servePeek answers what is in memory, and is no copy.
func (e *engine) servePeek(peek *wire.Peek, resp *wire.Response) {
	size := 0
	for i, k := range peek.GetKeys() {
		entry := e.entryFor(wire.String(k))
		if entry == nil {
			continue
		}
		if len(entry.GetValue()) > largeValue && !peek.GetLarge() {
			resp.Answers = append(resp.Answers, &wire.Answer{Index: uint32(i), Status: wire.Status_LARGE})
			continue
		}
		if size += len(entry.GetValue()); size > peekBytes && len(resp.GetAnswers()) > 0 {
			return
		}
		a := &wire.Answer{Index: uint32(i), Value: entry.GetValue(), TtlMs: entry.GetTtlMs(), Birth: entry.GetBirth()}
		if entry.GetNotFound() {
			a.Status = wire.Status_NOT_FOUND
		}
		resp.Answers = append(resp.Answers, a)
	}
}

// servePush keeps what it may of what a peer sends.
func (e *engine) servePush(push *wire.Push) {
	late := max(now()-int64(push.GetMark())-int64(millis(push.GetMarkAgeMs())), 0) / int64(time.Millisecond)
	for _, entry := range push.GetEntries() {
		key := wire.String(entry.GetKey())
		if checkKey(key) != nil || checkValue(len(entry.GetValue())) != nil || len(entry.GetBirth().GetBoots()) > maxNeed || !e.mayAct(key) {
			continue
		}
		it, ok := e.itemFrom(entry.GetValue(), entry.GetTtlMs()-min(entry.GetTtlMs(), uint64(late)), entry.GetNotFound())
		if ok && !e.store.receive(key, idsOf(entry.GetBirth()), it) {
			e.store.shard(key).refused.Add(1)
		}
	}
}

// entryFor returns the entry of a key as it travels, nil if there is none, or only a copy.
func (e *engine) entryFor(key string) *wire.Entry {
	birth := e.store.known(key) // first: what is applied later has taken the item away
	it, stale, ok := e.store.look(key)
	ttl := time.Duration(it.expires - now()).Truncate(time.Millisecond)
	if !ok || stale || it.copied || ttl <= 0 {
		return nil
	}
	return &wire.Entry{
		Key: wire.Bytes(key), Value: wire.Bytes(it.bytes), TtlMs: uint64(ttl / time.Millisecond),
		NotFound: it.absent, Birth: birth.toWire(),
	}
}

// replicate has the other owners of a key get its entry.
func (e *engine) replicate(key string) {
	if e.opts.Replicas == 0 || e.node == nil {
		return
	}
	r := e.ring()
	for _, peer := range r.owners(e.hash(key), 1+e.opts.Replicas) {
		if peer != r.url && e.node.healthy(peer) {
			e.node.moves().send(peer, e, key)
		}
	}
}
