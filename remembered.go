package peercache

import "slices"

// What a shard of a store remembers of the invalidations of its keys: for each key that
// was removed within idsLife, by whom. With it a fetch tells the peer it asks what that
// must have applied first, and a value from another memory shows whether it is older than
// a removal.

const (
	// maxRemembered and maxRememberedBytes bound it for each shard: 65,536 keys and 8 MiB a
	// cache. The oldest are forgotten early, which costs no promise: then only peers that
	// have applied them are asked.
	maxRemembered      = 1 << 16 / shardCount
	maxRememberedBytes = 8 << 20 / shardCount

	// rememberedOverhead is what a remembered key takes beside its bytes (measured).
	rememberedOverhead = 150
)

// A memory holds the ids of keys. The shard's mutex guards it.
type memory struct {
	ids   map[string]remembered
	order []reminder // the oldest first, from gone on; a key may be in it more than once
	gone  int
	bytes int
}

type remembered struct {
	ids ids
	at  int64 // when the last came
}

type reminder struct {
	key string
	at  int64
}

// raise adds ids to those of a key, and returns what is not remembered any more.
func (m *memory) raise(key string, news ids, at int64) (old ids) {
	if m.ids == nil {
		m.ids = make(map[string]remembered)
	}
	was, known := m.ids[key]
	if !known {
		m.bytes += len(key) + rememberedOverhead
	}
	kept, old := was.ids.with(news).limited()
	m.ids[key] = remembered{kept, at}
	m.order = append(m.order, reminder{key, at})
	for len(m.ids) > maxRemembered || m.bytes > maxRememberedBytes || len(m.order)-m.gone > 4*maxRemembered {
		old = append(slices.Clip(old), m.forgetFirst()...)
	}
	return old
}

// forget forgets what came before a time. old hears of it first.
func (m *memory) forget(before int64, old func(ids)) {
	for m.gone < len(m.order) && m.order[m.gone].at < before {
		old(m.forgetFirst())
	}
}

// forgetFirst forgets the oldest reminder, and returns the ids of its key if it was the
// last of that.
func (m *memory) forgetFirst() (old ids) {
	first := m.order[m.gone]
	m.order[m.gone] = reminder{}
	m.gone++
	if m.gone > 64 && 2*m.gone > len(m.order) {
		m.order = append(m.order[:0:0], m.order[m.gone:]...)
		m.gone = 0
	}
	if r, ok := m.ids[first.key]; ok && r.at == first.at {
		delete(m.ids, first.key)
		m.bytes -= len(first.key) + rememberedOverhead
		return r.ids
	}
	return nil
}
