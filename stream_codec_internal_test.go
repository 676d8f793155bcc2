package peercache

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/peercache/peercache/internal/wire"
)

// The hand-written messages, and the frames that carry them.

func inquiryFor(cache string, keys ...string) *inquiry {
	q := &inquiry{engine: &engine{name: cache}}
	for _, key := range keys {
		q.flights = append(q.flights, &flight{key: key})
	}
	return q
}

// unframe returns what one frame holds.
func unframe(t *testing.T, b []byte) []byte {
	t.Helper()
	r := wire.NewReader(bytes.NewReader(b))
	m, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	m = bytes.Clone(m)
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("after the frame: %v, want EOF", err)
	}
	return m
}

func TestHandWrittenMessagesAreThoseOfTheSchema(t *testing.T) {
	for _, keys := range [][]string{{"k"}, {"a", strings.Repeat("b", 200), "\x00\xff"}, {""}} {
		for _, id := range []uint64{1, 127, 128, 1<<64 - 1} {
			q := inquiryFor("users.v2", keys...)
			q.held = id == 127
			b := unframe(t, appendGet(nil, id, q))
			var got wire.Request
			if err := wire.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
			get := &wire.Get{Held: q.held}
			for _, key := range keys {
				get.Keys = append(get.Keys, []byte(key))
			}
			want := &wire.Request{Id: id, Cache: "users.v2", Op: &wire.Request_Get{Get: get}}
			if d := cmp.Diff(want, &got, protocmp.Transform()); d != "" {
				t.Errorf("a Get, as the generated code reads it (-want +got):\n%s", d)
			}
			generated, err := wire.AppendFrame(nil, want)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range [][]byte{b, unframe(t, generated)} {
				var g getRequest
				if !g.parse(b) || g.id != id || string(g.cache) != "users.v2" || !cmp.Equal(g.keys, get.GetKeys()) || g.held != q.held {
					t.Errorf("a Get is read as %d %s %q, want %v", g.id, g.cache, g.keys, want)
				}
			}
		}
	}
	for _, a := range []keyAnswer{
		{},
		{1023, answer{value: "v", ttl: time.Hour}},
		{7, answer{status: wire.Status_LOAD_FAILED, text: "no"}},
		{1, answer{value: "v", ttl: time.Hour, hot: true}},
		{0, answer{status: wire.Status_NOT_FOUND, text: "gone", ttl: time.Second}},
		{200, answer{value: strings.Repeat("v", 100_000), ttl: time.Millisecond}},
	} {
		var out queue
		out.answer(300, a.i, a.answer)
		var buf bytes.Buffer
		if err := out.writeTo(&buf); err != nil {
			t.Fatal(err)
		}
		if buf.Len() != out.size {
			t.Errorf("%d bytes were written, and %d counted", buf.Len(), out.size)
		}
		b := unframe(t, buf.Bytes())
		var got wire.Response
		if err := wire.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		want := &wire.Response{Id: 300, Answers: []*wire.Answer{{
			Index: uint32(a.i), Status: a.status, Value: []byte(a.value), TtlMs: uint64(a.ttl / time.Millisecond), Text: a.text, Hot: a.hot,
		}}}
		if d := cmp.Diff(want, &got, protocmp.Transform()); d != "" {
			t.Errorf("an answer, as the generated code reads it (-want +got):\n%s", d)
		}
		generated, err := wire.AppendFrame(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{b, unframe(t, generated)} {
			var r response
			if err := r.parse(b); err != nil || r.id != 300 || len(r.answers) != 1 || r.answers[0] != a {
				t.Errorf("an answer is read as %d %.100v, %v, want %.100v", r.id, r.answers, err, a)
			}
		}
	}
}

// What the hand-written decoders take, the generated code takes too, and for the same.
func FuzzResponse(f *testing.F) {
	for _, m := range []*wire.Response{
		{Id: 1, Answers: []*wire.Answer{{Index: 3, Value: []byte("v"), TtlMs: 7}}},
		{Hello: &wire.Hello{Cluster: "c"}, Status: wire.Status_WRONG_CLUSTER, Text: "no"},
		{Working: []uint64{1, 1 << 40}},
	} {
		b, err := wire.AppendFrame(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[1:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r response
		var m wire.Response
		generated := wire.Unmarshal(b, &m)
		if err := r.parse(b); err != nil || generated != nil {
			return
		}
		if r.id != m.GetId() || uint32(r.status) != uint32(m.GetStatus()) || len(r.answers) != len(m.GetAnswers()) {
			t.Fatalf("read as %v, by the generated code as %v", r, &m)
		}
		for i, a := range m.GetAnswers() {
			got := r.answers[i]
			if int64(got.i) != int64(min(a.GetIndex(), wire.MaxKeys)) || got.value != string(a.GetValue()) ||
				uint32(got.status) != uint32(a.GetStatus()) || got.ttl != millis(a.GetTtlMs()) {
				t.Errorf("answer %d is read as %v, by the generated code as %v", i, got, a)
			}
		}
	})
}

func FuzzGetRequest(f *testing.F) {
	f.Add(appendGet(nil, 5, inquiryFor("c", "a", "b"))[1:])
	f.Fuzz(func(t *testing.T, b []byte) {
		var g getRequest
		var m wire.Request
		if generated := wire.Unmarshal(b, &m); !g.parse(b) || generated != nil {
			return
		}
		if g.id != m.GetId() || string(g.cache) != m.GetCache() || !cmp.Equal(g.keys, m.GetGet().GetKeys(), equalBytes) {
			t.Fatalf("read as %d %q %q, by the generated code as %v", g.id, g.cache, g.keys, &m)
		}
	})
}

var equalBytes = cmp.Comparer(bytes.Equal)

func TestFramesOfAllSizesArriveHoweverTheyAreCut(t *testing.T) {
	var sent bytes.Buffer
	var want [][]byte
	for i, size := range []int{0, 1, 127, 128, 4095, 4096, inboxMost - 3, inboxMost, inboxMost + 1, 0, 1 << 20, 5} {
		frame := bytes.Repeat([]byte{byte(i)}, size)
		want = append(want, frame)
		var out queue
		out.append(wireFrame(frame))
		if err := out.writeTo(&sent); err != nil {
			t.Fatal(err)
		}
	}
	for name, cut := range map[string]func(io.Reader) io.Reader{
		"whole":         func(r io.Reader) io.Reader { return r },
		"byte for byte": iotest.OneByteReader,
		"in halves":     iotest.HalfReader,
		"with EOF":      iotest.DataErrReader,
	} {
		in := inbox{r: cut(bytes.NewReader(sent.Bytes()))}
		for i, w := range want {
			got, _, err := in.next()
			if err != nil || !bytes.Equal(got, w) {
				t.Fatalf("%s: frame %d: %d bytes, %v, want %d", name, i, len(got), err, len(w))
			}
		}
		if _, _, err := in.next(); err != io.EOF {
			t.Errorf("%s: after the last frame: %v, want EOF", name, err)
		}
	}
}

func wireFrame(b []byte) []byte {
	var q queue
	q.buf = append(q.buf, uvarint(len(b))...)
	return append(q.buf, b...)
}

func uvarint(n int) []byte {
	var b []byte
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

func TestFrameThatEndsEarlyIsNoEnd(t *testing.T) {
	for _, b := range [][]byte{{5, 1, 2}, append(uvarint(1<<20), make([]byte, 100_000)...)} {
		in := inbox{r: bytes.NewReader(b)}
		if _, _, err := in.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a frame cut after %d bytes: %v, want io.ErrUnexpectedEOF", len(b), err)
		}
	}
}

// A declared length is a claim: F15 allows four times what arrived, and 64 KiB.
func TestFramesTakeMemoryOnlyAsTheyArrive(t *testing.T) {
	for _, arrived := range []int{0, 1000, 100_000, 1 << 20, 5 << 20} {
		b := append(uvarint(wire.MaxFrame), make([]byte, arrived)...)
		limit := int64(4*len(b) + 64<<10)
		if n := allocated(func() {
			in := inbox{r: bytes.NewReader(b)}
			_, _, _ = in.next()
		}); n > limit {
			t.Errorf("%d bytes of a frame that claims %d take %d bytes of memory, want at most %d", arrived, wire.MaxFrame, n, limit)
		}
	}
}

func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}
