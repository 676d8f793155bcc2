package lru

import (
	"math/bits"
	"slices"
	"strings"
)

// This file is where the entries of a shard live. The collector marks memory by
// the object, so that a million entries of their own would cost it a million
// objects and more: here the nodes come in pages, and the keys, which hold no
// pointer, in a page beside them. What an entry costs the collector is what its V
// refers to, and its key if that is long.
//
// Nodes never move: a ref is good for as long as the entry stays. Who is in use,
// and in which queue, is the shard's business.

const (
	// pageNodes is how many nodes a page has. More would make a small cache of few
	// entries pay for many, fewer would make the directory of pages a burden; with
	// 31 that is 2 to 3 bytes an entry. Not 32: the allocator puts a word before
	// what has pointers, and 32 nodes of 64 bytes and a word take 2,304.
	pageNodes = 31
	pageShift = 5 // of a ref; its lower bits are the number of the node
	slotMask  = 1<<pageShift - 1
)

// keyRoom is how long the keys of a page may be, by class of page: such that a page of
// keys nearly fills the block that the allocator gives for it, and that no key wastes
// more than 32 bytes. The last class has the keys that are longer, as strings of their
// own, which cost the collector an object each. In pages they would need steps of 16
// to 32 bytes too, and a dozen classes of half empty pages in each shard; with one step
// to 256 an entry took up to half as much again as it is charged for.
var keyRoom = [...]uint16{8, 16, 24, 32, 48, 64, 80, 96, 128, 0}

const longClass = len(keyRoom) - 1

func keyClass(n int) int {
	for class, room := range keyRoom {
		if n <= int(room) {
			return class
		}
	}
	return longClass
}

// A ref is the place of a node: its page and its number within. Page 0 is never
// used, so that 0 means none.
type ref uint32

// A node is an entry without its key.
type node[V any] struct {
	v            V
	expires      int64
	bytes        uint32 // what the entry is charged for, key and Overhead included
	hash         uint32
	older, newer ref    // its neighbours in its queue
	stamp        uint32 // differs between the entries that live here one after the other, and their values
	keyLen       uint16 // 0 in a page of long keys
	uses         uint8  // hits since it was last looked at for eviction, up to maxUses
	queue        queueID
}

func (n *node[V]) expired(now int64) bool { return n.expires <= now }

type page[V any] struct {
	nodes      *[pageNodes]node[V] // nil while the page is not in use
	keys       []byte
	long       *[pageNodes]string // instead of keys
	free       uint32             // one bit for each node, set where it is free
	class      uint8
	next, prev uint32 // pages of the class that have free nodes, in a list
}

type slab[V any] struct {
	pages   []page[V]
	partial [len(keyRoom)]uint32 // heads of the lists
	unused  []uint32             // pages given back, and ids of others that newPage passes over
}

func (s *slab[V]) node(r ref) *node[V] {
	return &s.pages[r>>pageShift].nodes[r&slotMask]
}

// holds reports whether the entry at r is that of key.
func (s *slab[V]) holds(r ref, key string) bool {
	p := &s.pages[r>>pageShift]
	if p.long != nil {
		return p.long[r&slotMask] == key
	}
	n := int(p.nodes[r&slotMask].keyLen)
	if n != len(key) {
		return false
	}
	at := int(r&slotMask) * int(keyRoom[p.class])
	return string(p.keys[at:at+n]) == key
}

// key returns the key of the entry at r. The string is the caller's to keep: it is
// a copy but for long keys, which are strings of their own.
func (s *slab[V]) key(r ref) string {
	p := &s.pages[r>>pageShift]
	if p.long != nil {
		return p.long[r&slotMask]
	}
	at := int(r&slotMask) * int(keyRoom[p.class])
	return string(p.keys[at : at+int(p.nodes[r&slotMask].keyLen)])
}

// keyBytes returns the length of the key of the entry at r.
func (s *slab[V]) keyBytes(r ref) int {
	p := &s.pages[r>>pageShift]
	if p.long != nil {
		return len(p.long[r&slotMask])
	}
	return int(p.nodes[r&slotMask].keyLen)
}

// add returns a node for key, of which it keeps a copy. Of the node's fields only
// keyLen is set.
func (s *slab[V]) add(key string) ref {
	class := keyClass(len(key))
	id := s.partial[class]
	if id == 0 {
		id = s.newPage(class)
	}
	p := &s.pages[id]
	slot := bits.TrailingZeros32(p.free)
	p.free &^= 1 << slot
	if p.free == 0 {
		s.unlist(id)
	}
	n := &p.nodes[slot]
	if p.long != nil {
		p.long[slot] = strings.Clone(key) // it may be part of something larger
	} else {
		n.keyLen = uint16(len(key))
		copy(p.keys[slot*int(keyRoom[class]):], key)
	}
	return ref(id<<pageShift | uint32(slot))
}

// drop frees the node at r, and its page with the last.
func (s *slab[V]) drop(r ref) {
	id := uint32(r >> pageShift)
	p := &s.pages[id]
	slot := r & slotMask
	var none V
	n := &p.nodes[slot]
	n.v = none // what it refers to is garbage now
	n.queue = noQueue
	if p.long != nil {
		p.long[slot] = ""
	}
	if p.free == 0 {
		s.list(id)
	}
	p.free |= 1 << slot
	// The last page with room in its class stays: entries that come and go one by
	// one would make and drop it each time.
	if p.free == allFree && (p.next != 0 || p.prev != 0) {
		s.unlist(id)
		*p = page[V]{}
		if int(id) == len(s.pages)-1 {
			s.truncate()
		} else {
			s.unused = append(s.unused, id)
		}
	}
}

const allFree = 1<<pageNodes - 1

func (s *slab[V]) newPage(class int) uint32 {
	if len(s.pages) == 0 {
		s.pages = make([]page[V], 1, 4) // page 0, which is none
	}
	id := s.spare()
	if id == 0 {
		id = uint32(len(s.pages))
		s.pages = append(s.pages, page[V]{})
	}
	p := &s.pages[id]
	p.nodes, p.free, p.class = new([pageNodes]node[V]), allFree, uint8(class)
	if class == longClass {
		p.long = new([pageNodes]string)
	} else {
		p.keys = make([]byte, pageNodes*int(keyRoom[class]))
	}
	s.list(id)
	return id
}

// spare returns a page that was given back, 0 if there is none. What truncate has cut
// off is still among the unused, and may be in use again since.
func (s *slab[V]) spare() uint32 {
	for len(s.unused) > 0 {
		last := len(s.unused) - 1
		id := s.unused[last]
		s.unused = s.unused[:last]
		if int(id) < len(s.pages) && s.pages[id].nodes == nil {
			return id
		}
	}
	return 0
}

// truncate cuts the unused pages off the end of the directory, and gives its memory
// back where most of it is not needed. A page that is in use stays where it is.
func (s *slab[V]) truncate() {
	end := len(s.pages)
	for end > 1 && s.pages[end-1].nodes == nil {
		end--
	}
	s.pages = s.pages[:end]
	if cap(s.pages) > 64 && end < cap(s.pages)/4 {
		s.pages = append(make([]page[V], 0, 2*end), s.pages...)
		s.unused = slices.DeleteFunc(slices.Clone(s.unused), func(id uint32) bool { return int(id) >= end })
	}
}

// list puts a page at the head of those of its class that have free nodes.
func (s *slab[V]) list(id uint32) {
	p := &s.pages[id]
	head := &s.partial[p.class]
	p.prev, p.next = 0, *head
	if *head != 0 {
		s.pages[*head].prev = id
	}
	*head = id
}

func (s *slab[V]) unlist(id uint32) {
	p := &s.pages[id]
	if p.prev != 0 {
		s.pages[p.prev].next = p.next
	} else {
		s.partial[p.class] = p.next
	}
	if p.next != 0 {
		s.pages[p.next].prev = p.prev
	}
	p.next, p.prev = 0, 0
}

// used returns the node at r, nil if it is not in use or there is none.
func (s *slab[V]) used(r ref) *node[V] {
	id, slot := r>>pageShift, r&slotMask
	if int(id) >= len(s.pages) || slot >= pageNodes || s.pages[id].nodes == nil || s.pages[id].free>>slot&1 == 1 {
		return nil
	}
	return &s.pages[id].nodes[slot]
}

// inUse calls f for the nodes in use of pages from on, up to that many pages, and
// returns the page after them, 0 if there are no more.
func (s *slab[V]) inUse(from uint32, pages int, f func(r ref, n *node[V])) uint32 {
	from = max(from, 1)
	end := min(uint32(len(s.pages)), from+uint32(pages))
	for id := from; id < end; id++ {
		p := &s.pages[id]
		if p.nodes == nil {
			continue
		}
		for used := allFree &^ p.free; used != 0; used &= used - 1 {
			slot := bits.TrailingZeros32(used)
			f(ref(id<<pageShift|uint32(slot)), &p.nodes[slot])
		}
	}
	if int(end) >= len(s.pages) {
		return 0
	}
	return end
}
