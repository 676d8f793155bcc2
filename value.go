package peercache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/golang/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// Values on their way in and out: ByteView, codecs, and which of them a type
// uses. What a cache does with the bytes is none of this file's business.

// A ByteView is an immutable sequence of bytes. It is as cheap to pass as a
// string, comparable with ==, and its zero value is empty. A cache of ByteViews
// copies no value, neither on the way in nor on the way out.
type ByteView struct{ s string }

// View returns a ByteView of b. A []byte is copied, a string is not.
func View[B ~string | ~[]byte](b B) ByteView { return ByteView{string(b)} }

// Len returns the number of bytes.
func (v ByteView) Len() int { return len(v.s) }

// String returns the bytes as a string, without a copy.
func (v ByteView) String() string { return v.s }

// AppendTo appends the bytes to dst and returns the extended slice.
func (v ByteView) AppendTo(dst []byte) []byte { return append(dst, v.s...) }

// Reader returns a reader of the bytes, which it does not copy.
func (v ByteView) Reader() *strings.Reader { return strings.NewReader(v.s) }

// WriteTo writes the bytes to w; it implements [io.WriterTo].
func (v ByteView) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, v.s)
	if n < len(v.s) && err == nil {
		err = io.ErrShortWrite
	}
	return int64(n), err
}

// A Codec turns values into bytes and back. It has the shape of encoding/json
// and of most packages like it, so that theirs fit as they are:
//
//	peercache.Codec{Marshal: msgpack.Marshal, Unmarshal: msgpack.Unmarshal}
//
// Both functions are called concurrently. All nodes must use the same: a
// changed encoding is a changed name of the cache ("users.v2").
type Codec struct {
	// Marshal returns v, which is a V, as bytes. They are copied.
	Marshal func(v any) ([]byte, error)

	// Unmarshal stores the value in v, which is a *V. It must neither keep nor
	// change data.
	Unmarshal func(data []byte, v any) error
}

var (
	// JSON encodes values with encoding/json. It is the default of every type
	// but []byte, string, ByteView and protocol buffer messages.
	JSON = Codec{Marshal: json.Marshal, Unmarshal: json.Unmarshal}

	// Proto encodes protocol buffer messages, of both generations of generated
	// code. It is the default of a V that is a pointer to such a message.
	Proto = Codec{Marshal: marshalProto, Unmarshal: unmarshalProto}
)

func marshalProto(v any) ([]byte, error) {
	m, ok := v.(protoadapt.MessageV1)
	if !ok {
		m2, ok := v.(protoadapt.MessageV2)
		if !ok {
			return nil, fmt.Errorf("peercache: Proto cannot encode a %T: it is no protocol buffer message", v)
		}
		m = protoadapt.MessageV1Of(m2)
	}
	return proto.Marshal(m)
}

// unmarshalProto takes a message or, as decoding a V that is a pointer to a
// message does, a pointer to such a pointer, which it sets.
func unmarshalProto(data []byte, v any) error {
	switch m := v.(type) {
	case protoadapt.MessageV1:
		return proto.Unmarshal(data, m)
	case protoadapt.MessageV2:
		return proto.Unmarshal(data, protoadapt.MessageV1Of(m))
	}
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() || p.Elem().Kind() != reflect.Pointer || !isProto(p.Elem().Interface()) {
		return fmt.Errorf("peercache: Proto cannot decode into a %T: it points to no protocol buffer message", v)
	}
	m := reflect.New(p.Elem().Type().Elem())
	if err := unmarshalProto(data, m.Interface()); err != nil {
		return err
	}
	p.Elem().Set(m)
	return nil
}

func isProto(v any) bool {
	switch v.(type) {
	case protoadapt.MessageV1, protoadapt.MessageV2:
		return true
	}
	return false
}

// A form is how values of type V become the bytes that are kept and sent, and
// back. Exactly one of view and decode is set.
type form[V any] struct {
	encode func(v V) (string, error)
	view   func(bytes string) V // V is bytes already: nothing to decode, nothing to keep beside them
	decode func(bytes string) (V, error)
}

// formOf returns the form that c asks for, or the default of V if it is zero.
func formOf[V any](c Codec) form[V] {
	var f form[V]
	if c.Marshal == nil {
		switch f := any(&f).(type) {
		case *form[ByteView]:
			f.encode = func(v ByteView) (string, error) { return v.s, nil }
			f.view = func(bytes string) ByteView { return ByteView{bytes} }
		case *form[string]:
			f.encode = func(v string) (string, error) { return v, nil }
			f.view = func(bytes string) string { return bytes }
		case *form[[]byte]:
			f.encode = func(v []byte) (string, error) { return string(v), nil }
			f.view = func(bytes string) []byte { return []byte(bytes) }
		}
		if f.view != nil {
			return f
		}
		c = JSON
		if isProto(any(*new(V))) {
			c = Proto
		}
	}
	f.encode = func(v V) (string, error) {
		b, err := c.Marshal(v)
		if err != nil {
			return "", fmt.Errorf("peercache: encode: %w", err)
		}
		return string(b), nil
	}
	f.decode = func(bytes string) (V, error) {
		var v V
		if err := c.Unmarshal([]byte(bytes), &v); err != nil {
			return v, fmt.Errorf("peercache: decode: %w", err)
		}
		return v, nil
	}
	return f
}

// A decoded is the Go value of an entry, made of its bytes at most once and
// then shared by all who read the entry. It is nil for types that are bytes.
type decoded struct {
	once  sync.Once
	value any
	err   error
}

// get decodes bytes the first time. The codec is the user's code and the bytes
// may be a peer's: a panic is an error here, or it would end a process that did
// nothing but read. It runs under the Once: a second reader of the entry has
// nothing to do but wait for the same result.
func (d *decoded) get(bytes string, decode func(string) (any, error)) (any, error) {
	d.once.Do(func() {
		defer func() {
			if v := recover(); v != nil {
				d.err = &PanicError{Value: v, Stack: debug.Stack()}
			}
		}()
		d.err = errGoexit // stays if decode ends the goroutine
		d.value, d.err = decode(bytes)
	})
	return d.value, d.err
}

// madeOf returns the decoded form of a value that need not be decoded.
func madeOf(v any) *decoded {
	d := &decoded{value: v}
	d.once.Do(func() {})
	return d
}

// checkCodec panics on a codec of which only one half is set.
func checkCodec(c Codec) {
	if (c.Marshal == nil) != (c.Unmarshal == nil) {
		panic(errors.New("peercache: Options.Codec needs both Marshal and Unmarshal"))
	}
}
