package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A frame is the length of a message as an unsigned varint, then the message.
// A frame of length 0 is a heartbeat: whoever sends it is alive and at work.

// Heartbeat is the empty frame.
var Heartbeat = []byte{0}

// maxElements bounds the messages and list elements of one frame before any of
// them is allocated. An element that takes two bytes on the wire costs up to
// some 100 in memory; this caps that at a few MiB, where the frame's length
// alone would allow a gigabyte. The largest honest frame tells what was missed: three
// sets of ids of 4 * MaxKeys processes each, and 3 * MaxKeys invalidations and keys.
const maxElements = 16 * MaxKeys

var errMalformed = errors.New("peercache: malformed message")

// AppendFrame appends m as a frame to dst. It fails for a message over
// [MaxFrame].
func AppendFrame(dst []byte, m proto.Message) ([]byte, error) {
	size := proto.Size(m)
	if size > MaxFrame {
		return dst, fmt.Errorf("peercache: a message of %d bytes exceeds the limit of %d", size, MaxFrame)
	}
	dst = binary.AppendUvarint(dst, uint64(size))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(dst, m)
}

// A Reader reads frames. It is not safe for concurrent use.
type Reader struct {
	r   *bufio.Reader
	buf []byte
}

// NewReader returns a Reader of the frames that r holds.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReader(r)} }

// readStep is how much a Reader allocates ahead of what has arrived: a declared
// length is a claim, only bytes received are paid for with memory.
const readStep = 64 << 10

// Next returns the message of the next frame, still encoded and valid until the
// next call; it is empty for a heartbeat. The error is io.EOF at a clean end
// and io.ErrUnexpectedEOF within a frame.
func (r *Reader) Next() ([]byte, error) {
	size, err := r.length()
	if err != nil {
		return nil, err
	}
	buf := r.buf[:0]
	for len(buf) < size {
		n := min(size-len(buf), max(readStep, len(buf)))
		if cap(buf)-len(buf) < n {
			grown := make([]byte, len(buf), len(buf)+n)
			copy(grown, buf)
			buf = grown
		}
		got, err := io.ReadFull(r.r, buf[len(buf):len(buf)+n])
		buf = buf[:len(buf)+got]
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
	r.buf = buf
	return buf, nil
}

func (r *Reader) length() (int, error) {
	size, err := binary.ReadUvarint(r.r)
	if err != nil {
		return 0, err // ReadUvarint tells a clean end from a broken one
	}
	if size > MaxFrame {
		return 0, fmt.Errorf("peercache: a frame of %d bytes exceeds the limit of %d", size, MaxFrame)
	}
	return int(size), nil
}

// Unmarshal decodes the message of a frame. It keeps nothing of b and allocates
// in proportion to it: what would not is refused before anything is allocated.
// Fields of a later version are skipped.
func Unmarshal(b []byte, m proto.Message) error {
	elements := 0
	if err := count(b, m.ProtoReflect().Descriptor(), &elements); err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		return errMalformed
	}
	return nil
}

// count adds to elements the messages and list elements that decoding b would
// allocate, and fails once there are too many.
func count(b []byte, d protoreflect.MessageDescriptor, elements *int) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			return errMalformed
		}
		value := b[:n]
		b = b[n:]
		f := d.Fields().ByNumber(num)
		if f == nil || !f.IsList() && f.Message() == nil {
			continue
		}
		// Packed numbers take at most eight times their bytes, in one piece.
		if *elements++; *elements > maxElements {
			return fmt.Errorf("peercache: a message of more than %d elements exceeds the limit", maxElements)
		}
		if f.Message() == nil || typ != protowire.BytesType {
			continue
		}
		inner, _ := protowire.ConsumeBytes(value)
		if err := count(inner, f.Message(), elements); err != nil {
			return err
		}
	}
	return nil
}
