package peercache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"

	"github.com/peercache/peercache/consistenthash"
	"github.com/peercache/peercache/internal/wire"
)

// What gossip carries about a member, besides its address: the meta data of
// memberlist. It is a hint that lets every process build the same ring; what a
// peer really is, the hello of a connection tells. Written by peers.go, and kept
// out of it so that it can be fuzzed alone.
//
//	version    1 byte
//	protocol   1 byte
//	constants  8 bytes, big endian
//	state      1 byte
//	weight     1 byte
//	boot       8 bytes, big endian
//	zone       1 byte of length, then the bytes
//	url        1 byte of length, then the bytes
//	padding    1 byte of length, then so many zeros
//
// A later writer may append fields: a reader ignores what follows the url. A
// change to what stands before it is a new version.
const (
	metaVersion  = 1
	metaProtocol = wire.Protocol

	// metaFixed is the length of all that comes before the zone's length.
	metaFixed = 20

	// Both lengths fit in a byte, and the longest alive message (name, meta data)
	// with the longest label fits in one gossip packet of 1,400 bytes; memberlist
	// would never send a longer one and never say so.
	maxMemberURL  = 255
	maxMemberZone = 64 // room for a cloud's names, which are under 40

	maxMemberWeight = 100
)

// ringConstants returns the digest of what two processes must have in common to
// build the same ring, besides the version of the protocol: a table of made-up nodes
// and one key's hash. A build that changed any of it, and forgot the version, is so
// kept out loudly, instead of sending keys to nodes that do not own them. It takes
// 8 ms, once in a process.
var ringConstants = sync.OnceValue(func() uint64 {
	// Weights for which the cap on a node's share binds: it does not otherwise with
	// so few nodes.
	weights := [...]int{1, 1, 1, 1, 1, 1, 50, 100, 100}
	nodes := make([]consistenthash.Node, len(weights))
	for i, w := range weights {
		nodes[i] = consistenthash.Node{
			ID:     "http://node-" + strconv.Itoa(i),
			Zone:   "zone-" + strconv.Itoa(i%3),
			Weight: w,
		}
	}
	return consistenthash.New(nodes).Digest() ^ consistenthash.Hash(consistenthash.Seed("cache"), "key")
})

// meta encodes m for gossip, in at most 341 bytes. It is an error if the URL or
// the zone is too long for that, or if a peer would refuse the result for
// another reason.
func (m member) meta() ([]byte, error) {
	switch {
	case len(m.url) > maxMemberURL:
		return nil, fmt.Errorf("peercache: the URL has %d bytes, at most %d are allowed", len(m.url), maxMemberURL)
	case len(m.zone) > maxMemberZone:
		return nil, fmt.Errorf("peercache: the zone has %d bytes, at most %d are allowed", len(m.zone), maxMemberZone)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("peercache: %w", err)
	}
	b := make([]byte, 0, metaFixed+1+len(m.zone)+1+len(m.url))
	b = append(b, metaVersion, metaProtocol)
	b = binary.BigEndian.AppendUint64(b, ringConstants())
	b = append(b, byte(m.state), byte(m.weight))
	b = binary.BigEndian.AppendUint64(b, m.boot)
	b = append(b, byte(len(m.zone)))
	b = append(b, m.zone...)
	b = append(b, byte(len(m.url)))
	b = append(b, m.url...)
	return b, nil
}

// maxPadding is how many bytes are appended for their number only.
const maxPadding = 63

// padded appends the padding to encoded meta data, of a random length: so that messages of
// few members are as long as those of others, see gossipRepeat.
func padded(meta []byte) []byte {
	n := rand.N(maxPadding + 1)
	return append(append(meta, byte(n)), make([]byte, n)...)
}

var errMetaShort = errors.New("meta data ends too early")

// parseMeta decodes what meta encoded, at this or a later release with the same
// version. It keeps nothing of b. The error says why the sender cannot be a
// member of this process's ring.
func parseMeta(b []byte) (member, error) {
	if len(b) == 0 {
		return member{}, errMetaShort
	}
	if b[0] != metaVersion {
		return member{}, fmt.Errorf("meta data of version %d, this process reads %d", b[0], metaVersion)
	}
	if len(b) < metaFixed {
		return member{}, errMetaShort
	}
	if b[1] != metaProtocol {
		return member{}, fmt.Errorf("protocol %d, this process speaks %d", b[1], metaProtocol)
	}
	if c := binary.BigEndian.Uint64(b[2:]); c != ringConstants() {
		return member{}, fmt.Errorf("constants %016x, this process has %016x: it would build another ring", c, ringConstants())
	}
	m := member{state: state(b[10]), weight: int(b[11]), boot: binary.BigEndian.Uint64(b[12:])}
	zone, rest, err := cutMetaString(b[metaFixed:], maxMemberZone)
	if err != nil {
		return member{}, fmt.Errorf("zone: %w", err)
	}
	url, _, err := cutMetaString(rest, maxMemberURL)
	if err != nil {
		return member{}, fmt.Errorf("url: %w", err)
	}
	m.zone, m.url = string(zone), string(url)
	if err := m.check(); err != nil {
		return member{}, err
	}
	return m, nil
}

// check says what is wrong with the fields whose type allows more than their
// meaning, lengths aside.
func (m member) check() error {
	switch {
	case m.url == "":
		return errors.New("no URL")
	case m.weight < 1 || m.weight > maxMemberWeight:
		return fmt.Errorf("weight %d, want 1 to %d", m.weight, maxMemberWeight)
	case m.state < stateJoining || m.state > stateLeaving:
		return fmt.Errorf("state %d is unknown", m.state)
	}
	return nil
}

func cutMetaString(b []byte, limit int) (s, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, errMetaShort
	}
	n := int(b[0])
	if n > limit {
		return nil, nil, fmt.Errorf("%d bytes, at most %d are allowed", n, limit)
	}
	if len(b) < 1+n {
		return nil, nil, errMetaShort
	}
	return b[1 : 1+n], b[1+n:], nil
}

// gossipName is what memberlist knows m by. It is new at each start, so that a
// restart is a new member at once, whatever is still believed of the old one,
// and an address can be taken over without waiting for a death to be forgotten.
func (m member) gossipName() string {
	return m.url + "@" + strconv.FormatUint(m.boot, 16)
}
