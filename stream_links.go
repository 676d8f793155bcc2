package peercache

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// The links of a node to all its peers, by which it is a network for its caches.

// links are a node's links, by the URL of the peer. The zero value is ready.
type links struct {
	all atomic.Pointer[map[string]*link] // never changed, only replaced
	mu  sync.Mutex                       // held while it is replaced
}

// link returns the link to a peer, a new one if there is none.
func (n *Node) link(peer string) *link {
	if all := n.links.all.Load(); all != nil {
		if l := (*all)[peer]; l != nil {
			return l
		}
	}
	var added *link
	n.links.change(func(all map[string]*link) {
		if added = all[peer]; added == nil {
			added = newLink(n, peer)
			all[peer] = added
		}
	})
	return added
}

func (ls *links) change(f func(all map[string]*link)) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	next := make(map[string]*link)
	if all := ls.all.Load(); all != nil {
		maps.Copy(next, *all)
	}
	f(next)
	ls.all.Store(&next)
}

// retain forgets the links for which keep is false. What is under way on them ends as it
// would have.
func (ls *links) retain(keep func(peer string) bool) {
	var gone []*link
	ls.change(func(all map[string]*link) {
		for peer, l := range all {
			if !keep(peer) {
				gone = append(gone, l)
				delete(all, peer)
			}
		}
	})
	for _, l := range gone {
		for s := range l.live {
			s.retire()
		}
	}
}

// live iterates over the streams that there are.
func (ls *links) live(yield func(*stream) bool) {
	all := ls.all.Load()
	if all == nil {
		return
	}
	for _, l := range *all {
		for s := range l.live {
			if !yield(s) {
				return
			}
		}
	}
}

// streams counts them.
func (ls *links) streams() (n int64) {
	for range ls.live {
		n++
	}
	return n
}

// renew forgets what was learnt of a peer that has started anew.
func (ls *links) renew(peer string) {
	if all := ls.all.Load(); all != nil {
		if l := (*all)[peer]; l != nil {
			l.renew()
		}
	}
}

func (n *Node) ask(peer string, q *inquiry) { n.link(peer).ask(q) }

func (n *Node) admit(peer string) bool { return n.link(peer).admit() }

func (n *Node) set(ctx context.Context, peer, cache, key string, a answer) error {
	return n.confirm(ctx, peer, &wire.Request{Cache: cache, Op: &wire.Request_Set{Set: &wire.Set{
		Key:   wire.Bytes(key),
		Value: wire.Bytes(a.value),
		TtlMs: uint64(max(a.ttl/time.Millisecond, 1)),
	}}}, len(a.value))
}

func (n *Node) remove(ctx context.Context, peer, cache string, keys []string) error {
	record := &wire.Record{Cache: cache, Keys: make([][]byte, len(keys))}
	size := 0
	for i, key := range keys {
		record.Keys[i] = wire.Bytes(key)
		size += len(key)
	}
	err := n.confirm(ctx, peer, &wire.Request{
		Op: &wire.Request_Invalidate{Invalidate: &wire.Invalidate{Records: []*wire.Record{record}}},
	}, size)
	if errors.Is(err, errDraining) {
		return nil // it has left, and lets go of all it holds by itself
	}
	return err
}

// confirm has a peer do what one response confirms, on the stream or by plain HTTP.
func (n *Node) confirm(ctx context.Context, peer string, req *wire.Request, size int) error {
	l := n.link(peer)
	err := l.transact(ctx, req, size)
	if !errors.Is(err, errPlain) {
		return err
	}
	req.Id = 0
	return n.exchange(ctx, l, req, func(resp *wire.Response) error {
		return statusError(resp.GetStatus(), resp.GetText())
	})
}
