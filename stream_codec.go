package peercache

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/peercache/peercache/internal/wire"
)

// The two messages of which a stream carries hundreds of thousands a second, by hand:
// a Get, and a response with one answer. Everything else goes through the generated
// code, which reads and writes these too (TestHandWrittenMessagesAreThoseOfTheSchema).

// The tags that are written and read here: field number and type.
const (
	varint   = protowire.VarintType
	lengthed = protowire.BytesType

	tagRequestID    = 1<<3 | byte(varint)
	tagRequestCache = 3<<3 | byte(lengthed)
	tagRequestGet   = 8<<3 | byte(lengthed)
	tagGetKeys      = 1<<3 | byte(lengthed)
	tagGetHeld      = 3<<3 | byte(varint)

	tagResponseID      = 1<<3 | byte(varint)
	tagResponseStatus  = 3<<3 | byte(varint)
	tagResponseText    = 4<<3 | byte(lengthed)
	tagResponseAnswers = 5<<3 | byte(lengthed)

	tagAnswerIndex  = 1<<3 | byte(varint)
	tagAnswerStatus = 2<<3 | byte(varint)
	tagAnswerValue  = 3<<3 | byte(lengthed)
	tagAnswerTTL    = 4<<3 | byte(varint)
	tagAnswerText   = 5<<3 | byte(lengthed)
	tagAnswerHot    = 7<<3 | byte(varint)
)

var errMalformed = errors.New("peercache: malformed message")

// sizeField is the size of a field of n bytes whose tag has one.
func sizeField(n int) int { return 1 + protowire.SizeBytes(n) }

// appendGet appends the frame of a Get for the keys of an inquiry.
func appendGet(dst []byte, id uint64, q *inquiry) []byte {
	if q.needs() { // for a minute after a removal
		req := q.request()
		req.Id = id
		frame, err := wire.AppendFrame(dst, req)
		if err == nil { // none is over the limit
			return frame
		}
	}
	keys := 0
	for i := range q.flights {
		keys += sizeField(len(q.key(i)))
	}
	if q.held {
		keys += 2
	}
	cache := q.engine.name
	size := 1 + protowire.SizeVarint(id) + sizeField(len(cache)) + sizeField(keys)
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = append(dst, tagRequestID)
	dst = binary.AppendUvarint(dst, id)
	dst = append(dst, tagRequestCache)
	dst = protowire.AppendString(dst, cache)
	dst = append(dst, tagRequestGet)
	dst = binary.AppendUvarint(dst, uint64(keys))
	for i := range q.flights {
		dst = append(dst, tagGetKeys)
		dst = protowire.AppendString(dst, q.key(i))
	}
	if q.held {
		dst = append(dst, tagGetHeld, 1)
	}
	return dst
}

// A getRequest is a Get as it is read: parts of the frame, valid as long as that is.
type getRequest struct {
	id    uint64
	cache []byte
	keys  [][]byte // reused for the next
	held  bool
}

// parse reads a Get. It reports false for what it does not know, which is left to the
// generated code.
func (g *getRequest) parse(b []byte) bool {
	g.id, g.cache, g.keys, g.held = 0, nil, g.keys[:0], false
	get := false
	for len(b) > 0 {
		tag := b[0]
		var field []byte
		var n int
		switch tag {
		case tagRequestID:
			g.id, n = binary.Uvarint(b[1:])
		case tagRequestCache:
			field, n = protowire.ConsumeBytes(b[1:])
			g.cache = field
		case tagRequestGet:
			field, n = protowire.ConsumeBytes(b[1:])
			if get || n < 0 || !g.parseKeys(field) {
				return false
			}
			get = true
		default:
			return false
		}
		if n <= 0 {
			return false
		}
		b = b[1+n:]
	}
	return get
}

func (g *getRequest) parseKeys(b []byte) bool {
	for len(b) > 0 {
		if b[0] == tagGetHeld && len(b) > 1 && b[1] == 1 {
			g.held = true
			b = b[2:]
			continue
		}
		if b[0] != tagGetKeys || len(g.keys) == wire.MaxKeys {
			return false
		}
		if len(g.keys) == cap(g.keys) {
			g.keys = slices.Grow(g.keys, countFields(b, tagGetKeys))
		}
		key, n := protowire.ConsumeBytes(b[1:])
		if n < 0 {
			return false
		}
		g.keys = append(g.keys, key)
		b = b[1+n:]
	}
	return true
}

// appendAnswer appends the frame of the answer to one key of a request, all but its
// value, which is its end.
func appendAnswer(dst []byte, id uint64, index int, a answer) []byte {
	ttl := uint64(a.ttl / time.Millisecond)
	size := 0
	if index > 0 {
		size += 1 + protowire.SizeVarint(uint64(index))
	}
	if a.status != wire.Status_OK {
		size += 1 + protowire.SizeVarint(uint64(a.status))
	}
	if ttl > 0 {
		size += 1 + protowire.SizeVarint(ttl)
	}
	if a.text != "" {
		size += sizeField(len(a.text))
	}
	if a.hot {
		size += 2
	}
	if a.value != "" {
		size += sizeField(len(a.value))
	}
	dst = binary.AppendUvarint(dst, uint64(1+protowire.SizeVarint(id)+sizeField(size)))
	dst = append(dst, tagResponseID)
	dst = binary.AppendUvarint(dst, id)
	dst = append(dst, tagResponseAnswers)
	dst = binary.AppendUvarint(dst, uint64(size))
	if index > 0 {
		dst = append(dst, tagAnswerIndex)
		dst = binary.AppendUvarint(dst, uint64(index))
	}
	if a.status != wire.Status_OK {
		dst = append(dst, tagAnswerStatus)
		dst = binary.AppendUvarint(dst, uint64(a.status))
	}
	if ttl > 0 {
		dst = append(dst, tagAnswerTTL)
		dst = binary.AppendUvarint(dst, ttl)
	}
	if a.text != "" {
		dst = append(dst, tagAnswerText)
		dst = protowire.AppendString(dst, a.text)
	}
	if a.hot {
		dst = append(dst, tagAnswerHot, 1)
	}
	if a.value != "" {
		dst = append(dst, tagAnswerValue)
		dst = binary.AppendUvarint(dst, uint64(len(a.value)))
	}
	return dst
}

// A response is a Response as it is read, without what only a POST or a hello has.
type response struct {
	id      uint64
	status  wire.Status
	text    string
	answers []keyAnswer // reused for the next; values are parts of the frame
}

// parse reads a response.
func (r *response) parse(b []byte) error {
	r.id, r.status, r.text, r.answers = 0, 0, "", r.answers[:0]
	for len(b) > 0 {
		var n int
		var v uint64
		var field []byte
		switch b[0] {
		case tagResponseID:
			r.id, n = binary.Uvarint(b[1:])
			n++
		case tagResponseStatus:
			v, n = binary.Uvarint(b[1:])
			r.status = wire.Status(v)
			n++
		case tagResponseText:
			field, n = protowire.ConsumeBytes(b[1:])
			r.text = textOf(field)
			n++
		case tagResponseAnswers:
			field, n = protowire.ConsumeBytes(b[1:])
			if n < 0 || len(r.answers) == wire.MaxKeys {
				return errMalformed
			}
			var a keyAnswer
			if err := a.parse(field); err != nil {
				return err
			}
			if len(r.answers) == cap(r.answers) {
				r.answers = slices.Grow(r.answers, countFields(b, tagResponseAnswers))
			}
			r.answers = append(r.answers, a)
			n++
		default:
			n = skipField(b)
		}
		if n <= 1 {
			return errMalformed
		}
		b = b[n:]
	}
	return nil
}

func (a *keyAnswer) parse(b []byte) error {
	for len(b) > 0 {
		var n int
		var v uint64
		var field []byte
		switch b[0] {
		case tagAnswerIndex:
			v, n = binary.Uvarint(b[1:])
			a.i = int(min(v, wire.MaxKeys)) // one that no request has
			n++
		case tagAnswerStatus:
			v, n = binary.Uvarint(b[1:])
			a.status = wire.Status(v)
			n++
		case tagAnswerTTL:
			v, n = binary.Uvarint(b[1:])
			a.ttl = millis(v)
			n++
		case tagAnswerValue:
			field, n = protowire.ConsumeBytes(b[1:])
			a.value = wire.String(field)
			n++
		case tagAnswerText:
			field, n = protowire.ConsumeBytes(b[1:])
			a.text = textOf(field)
			n++
		case tagAnswerHot:
			v, n = binary.Uvarint(b[1:])
			a.hot = v != 0
			n++
		default:
			n = skipField(b)
		}
		if n <= 1 {
			return errMalformed
		}
		b = b[n:]
	}
	if len(a.value) > wire.MaxValue {
		return errForged
	}
	return nil
}

// countFields returns how many fields of b have this tag, if they are no more than are
// read. What has room for them from the start takes a half of the memory of what grows.
func countFields(b []byte, tag byte) (count int) {
	for len(b) > 0 && count < wire.MaxKeys {
		n := skipField(b)
		if n <= 0 {
			break
		}
		if b[0] == tag {
			count++
		}
		b = b[n:]
	}
	return count
}

// skipField returns the size of the field that b begins with, negative if it is none, or
// one that is known in a spelling that nobody uses: its number is below 16 and its tag has
// two bytes. To skip that would be to miss what other decoders see.
func skipField(b []byte) int {
	number, _, n := protowire.ConsumeField(b)
	if number < 16 && b[0] >= 0x80 {
		return -1
	}
	return n
}

// textOf is a text for people as a peer sent it.
func textOf(b []byte) string {
	return strings.ToValidUTF8(string(b[:min(len(b), wire.MaxText)]), "?")
}
