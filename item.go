package peercache

import (
	"unsafe"

	"github.com/peercache/peercache/lru"
)

// An entry of a cache in two forms: as the code deals with it, and as it is kept by
// the million.

// An item is what there is to know of one key's value.
type item struct {
	bytes   string   // the encoded value; empty in a typed cache without a node
	decoded *decoded // the Go value; nil for types that are bytes
	expires int64    // end of its life, on now()'s clock
	size    uint32   // bytes of the encoded value
	ring    uint32   // version of the ring under which copied was decided

	copied   bool // a copy of another node's entry, or of what no owner could be asked for
	absent   bool // the loader said that the key has no value
	fleeting bool // given to those who wait and not kept
	inflated bool // decoded has been made, beside bytes, and is charged

	// Of an item past its life that may still be served.
	failures uint8  // loads in a row that could not replace it
	retry    uint32 // when the next may be tried, if there were any: see retryTick
}

// asCopy turns an item into a copy that lives until a given time at most.
func (it *item) asCopy(until int64) {
	it.copied = true
	it.expires = min(it.expires, until)
}

// A record is an item as the lru keeps it: half the size, and one pointer for the
// collector to follow where the value is bytes. The end of its life is known from when the lru
// drops it.
type record struct {
	data     *byte
	decoded  *decoded
	size     uint32
	ring     uint32
	retry    uint32
	flags    recordFlags
	failures uint8
}

type recordFlags uint8

const (
	copiedRecord recordFlags = 1 << iota
	absentRecord
	inflatedRecord
	bareRecord // the value has size bytes, and they are not kept
)

func (s *store) recordOf(it item) record {
	rec := record{
		data: unsafe.StringData(it.bytes), decoded: it.decoded,
		size: it.size, ring: it.ring, retry: it.retry, failures: it.failures,
	}
	if it.copied {
		rec.flags |= copiedRecord
	}
	if it.absent {
		rec.flags |= absentRecord
	}
	if it.inflated {
		rec.flags |= inflatedRecord
	}
	if len(it.bytes) != int(it.size) {
		rec.flags |= bareRecord
	}
	return rec
}

// bytes returns the encoded value, as recordOf was given it.
func (rec record) bytes() string {
	if rec.flags&bareRecord != 0 {
		return ""
	}
	return unsafe.String(rec.data, int(rec.size))
}

// itemOf returns the item of a record that the lru drops at a given time.
func (s *store) itemOf(rec record, expires int64) item {
	it := item{
		bytes: rec.bytes(), decoded: rec.decoded, expires: expires, size: rec.size, ring: rec.ring,
		retry: rec.retry, failures: rec.failures,
		copied:   rec.flags&copiedRecord != 0,
		absent:   rec.flags&absentRecord != 0,
		inflated: rec.flags&inflatedRecord != 0,
	}
	if it.lingers() {
		it.expires -= int64(s.staleFor)
	}
	return it
}

// lingers reports whether the item may be served past its life, if its cache has a
// StaleFor.
func (it *item) lingers() bool { return !it.copied && !it.absent }

// terms are those under which the lru keeps an item: for as long as it may be
// served at all, and copies apart.
func (s *store) terms(it item) lru.Terms {
	t := lru.Terms{Size: it.charge(), Expires: it.expires, Minor: it.copied}
	if it.lingers() {
		t.Expires += int64(s.staleFor)
	}
	return t
}

// charge is what an item counts against MaxBytes beside its key. A decoded value
// is taken to be as large as its encoding.
func (it *item) charge() int64 {
	n := int64(unsafe.Sizeof(record{})) + int64(it.size)
	if it.decoded != nil {
		n += int64(unsafe.Sizeof(*it.decoded))
	}
	if it.inflated {
		n += int64(it.size)
	}
	return n
}
