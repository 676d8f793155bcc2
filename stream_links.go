package peercache

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"

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

func (n *Node) underWay(peer string) int32 { return n.link(peer).flying.Load() }

func (n *Node) healthy(peer string) bool { return !n.link(peer).troubled.Load() }

// call sends a peer a request that is no inquiry, on the stream or by plain HTTP, and
// returns its answer, which is one response.
func (n *Node) call(ctx context.Context, peer string, req *wire.Request) (*wire.Response, error) {
	size := 0
	switch op := req.GetOp().(type) {
	case *wire.Request_Set:
		size = len(op.Set.GetValue())
	case *wire.Request_Push:
		for _, entry := range op.Push.GetEntries() {
			size += len(entry.GetValue())
		}
	case *wire.Request_Peek:
		if op.Peek.GetLarge() {
			size = wire.MaxValue
		}
	}
	l := n.link(peer)
	resp, err := l.transact(ctx, req, size)
	if !errors.Is(err, errPlain) {
		return resp, err
	}
	req.Id = 0
	err = n.exchange(ctx, l, req, func(r *wire.Response) error {
		resp = r
		return statusError(r.GetStatus(), r.GetText())
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}
