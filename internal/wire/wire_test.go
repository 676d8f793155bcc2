package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/peercache/peercache/internal/wire"
)

// samples are messages with every field and every operation in use.
func samples() []proto.Message {
	ids := &wire.Ids{Boots: []uint64{1, 1 << 63}, Seqs: []uint64{7, 8}}
	hello := &wire.Hello{
		Protocol: wire.Protocol, Cluster: "c", Url: "http://a", Boot: 9, State: wire.State_LEAVING,
		Constants: 10, Ring: 11,
	}
	record := &wire.Record{Boot: 1, Seq: 2, Cache: "c", Keys: [][]byte{{0}, {}, []byte("é")}, Clear: true}
	need := &wire.Need{Index: 1, Ids: ids}
	entry := &wire.Entry{Key: []byte("k"), Value: []byte("v"), TtlMs: 5, NotFound: true, Birth: ids}
	messages := []proto.Message{
		&wire.Response{
			Id: 1, Hello: hello, Status: wire.Status_DRAINING, Text: "text", Working: []uint64{1, 300}, Members: []string{"http://b"}, Mark: 6,
			Answers: []*wire.Answer{{Index: 1, Status: wire.Status_NOT_FOUND, Value: []byte{0xff}, TtlMs: 1 << 40, Text: "t", Birth: ids}, {}},
			Synced:  &wire.Synced{Applied: ids, Records: []*wire.Record{record}, Gone: []*wire.Range{{Boot: 1, First: 2, Last: 3}}, Through: ids, Begin: ids},
		},
		&wire.Response{},
	}
	for _, r := range []*wire.Request{
		{Op: &wire.Request_Get{Get: &wire.Get{Keys: [][]byte{{}, {0, 0xff}}, Needs: []*wire.Need{need}, Held: true}}},
		{Op: &wire.Request_Set{Set: &wire.Set{Boot: 1, Seq: 2, Key: []byte("k"), Value: []byte("v"), TtlMs: 3}}},
		{Op: &wire.Request_Invalidate{Invalidate: &wire.Invalidate{Records: []*wire.Record{record, record}, Members: 5}}},
		{Op: &wire.Request_Peek{Peek: &wire.Peek{Keys: [][]byte{{1}}, Large: true}}},
		{Op: &wire.Request_Push{Push: &wire.Push{Entries: []*wire.Entry{entry}, Applied: ids, Mark: 6, MarkAgeMs: 7}}},
		{Op: &wire.Request_Sync{Sync: &wire.Sync{Applied: ids, Fresh: true}}},
		{Op: &wire.Request_Meet{Meet: &wire.Meet{}}},
		{},
	} {
		r.Id, r.Hello, r.Cache, r.Trace, r.Aged = 1, hello, "c", []byte("trace"), ids
		messages = append(messages, r)
	}
	return messages
}

func TestEveryMessageSurvivesItsFrame(t *testing.T) {
	var stream []byte
	for _, m := range samples() {
		var err error
		if stream, err = wire.AppendFrame(stream, m); err != nil {
			t.Fatal(err)
		}
		stream = append(stream, wire.Heartbeat...)
	}
	for name, r := range map[string]io.Reader{
		"at once":      bytes.NewReader(stream),
		"byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
	} {
		frames := wire.NewReader(r)
		for _, want := range samples() {
			b, err := frames.Next()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got := want.ProtoReflect().New().Interface()
			if err := wire.Unmarshal(b, got); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			if b, err := frames.Next(); len(b) != 0 || err != nil {
				t.Errorf("%s: heartbeat = %x, %v", name, b, err)
			}
		}
		if _, err := frames.Next(); err != io.EOF {
			t.Errorf("%s: at the end: %v, want io.EOF", name, err)
		}
	}
}

// The frames are those that protocol buffer libraries call delimited, so that
// other tools can read them.
func TestFramesAreDelimitedMessages(t *testing.T) {
	for _, want := range samples() {
		b, err := wire.AppendFrame(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		got := want.ProtoReflect().New().Interface()
		if err := protodelim.UnmarshalFrom(bytes.NewReader(b), got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestBrokenFramesAreErrors(t *testing.T) {
	whole, err := wire.AppendFrame(nil, samples()[0])
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		_, err := wire.NewReader(bytes.NewReader(whole[:n])).Next()
		if want := io.ErrUnexpectedEOF; n > 0 && err != want || n == 0 && err != io.EOF {
			t.Errorf("after %d of %d bytes: %v", n, len(whole), err)
		}
	}
	tooLong := binary.AppendUvarint(nil, wire.MaxFrame+1)
	if _, err := wire.NewReader(bytes.NewReader(tooLong)).Next(); err == nil || !strings.Contains(err.Error(), "33554432") {
		t.Errorf("a frame over the limit: %v, want an error that tells the limit", err)
	}
	overflow := bytes.Repeat([]byte{0xff}, 20)
	if _, err := wire.NewReader(bytes.NewReader(overflow)).Next(); err == nil {
		t.Error("a length of more than 64 bits: no error")
	}
	failure := errors.New("broken pipe")
	if _, err := wire.NewReader(iotest.ErrReader(failure)).Next(); !errors.Is(err, failure) {
		t.Errorf("a reader that fails: %v, want its error", err)
	}
}

func TestMessageOverTheLimitIsNotFramed(t *testing.T) {
	m := &wire.Request{Op: &wire.Request_Set{Set: &wire.Set{Value: make([]byte, wire.MaxFrame)}}}
	if b, err := wire.AppendFrame([]byte("x"), m); err == nil || string(b) != "x" {
		t.Errorf("AppendFrame of more than MaxFrame: %d bytes, %v, want dst unchanged and an error", len(b), err)
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestDeclaredLengthIsNotAllocatedInAdvance(t *testing.T) {
	claim := binary.AppendUvarint(nil, wire.MaxFrame)
	claim = append(claim, make([]byte, 1000)...)
	if n := allocated(func() {
		if _, err := wire.NewReader(bytes.NewReader(claim)).Next(); err != io.ErrUnexpectedEOF {
			t.Errorf("Next: %v, want io.ErrUnexpectedEOF", err)
		}
	}); n > 256<<10 {
		t.Errorf("%d bytes allocated for a frame of which 1,000 arrived", n)
	}
}

func TestElementsAreCountedBeforeTheyAreAllocated(t *testing.T) {
	bomb := bytes.Repeat([]byte{5<<3 | 2, 0}, 1<<20) // a million empty answers in 2 MiB
	if n := allocated(func() {
		if err := wire.Unmarshal(bomb, &wire.Response{}); err == nil {
			t.Error("a million answers: no error")
		}
	}); n > 64<<10 {
		t.Errorf("%d bytes allocated to refuse %d", n, len(bomb))
	}
}

func TestLargestHonestMessagesAreAccepted(t *testing.T) {
	ids := &wire.Ids{Boots: make([]uint64, 16), Seqs: make([]uint64, 16)}
	get, resp := &wire.Get{}, &wire.Response{}
	for i := range wire.MaxKeys {
		get.Keys = append(get.Keys, make([]byte, wire.MaxKey))
		get.Needs = append(get.Needs, &wire.Need{Index: uint32(i), Ids: ids})
		resp.Answers = append(resp.Answers, &wire.Answer{Index: uint32(i), Birth: ids})
	}
	for _, m := range []proto.Message{
		&wire.Request{Op: &wire.Request_Get{Get: get}},
		resp,
		&wire.Response{Answers: []*wire.Answer{{Value: make([]byte, wire.MaxValue)}}},
		&wire.Request{Op: &wire.Request_Set{Set: &wire.Set{Key: make([]byte, wire.MaxKey), Value: make([]byte, wire.MaxValue)}}},
	} {
		b, err := wire.AppendFrame(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := wire.NewReader(bytes.NewReader(b)).Next()
		if err == nil {
			err = wire.Unmarshal(payload, m.ProtoReflect().New().Interface())
		}
		if err != nil {
			t.Errorf("a message of %d bytes: %v", len(b), err)
		}
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	b, err := proto.Marshal(&wire.Request{Cache: "c"})
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, 0xf2, 0x3f, 3, 'n', 'e', 'w') // field 1022
	var got wire.Request
	if err := wire.Unmarshal(b, &got); err != nil || got.GetCache() != "c" {
		t.Errorf("Unmarshal = %v, %v, want the fields that are known", &got, err)
	}
}

// Clocks of two machines never meet: whatever tells a time is a duration.
func TestNoFieldHoldsAPointInTime(t *testing.T) {
	point := regexp.MustCompile(`(^|_)(time|date|clock|unix|epoch|stamp|timestamp|deadline|expires|expiry|expiration|until|since|at|now|when)($|_)`)
	duration := regexp.MustCompile(`(^|_)(ttl|timeout|duration|life|age|wait)($|_)`)
	fields := 0
	messages := wire.File_wire_proto.Messages()
	for i := range messages.Len() {
		m := messages.Get(i)
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			fields++
			name := string(f.Name())
			if point.MatchString(name) {
				t.Errorf("%s sounds like a point in time", f.FullName())
			}
			if duration.MatchString(name) && (!strings.HasSuffix(name, "_ms") || f.Kind() != protoreflect.Uint64Kind) {
				t.Errorf("%s is a duration and no uint64 that ends in _ms", f.FullName())
			}
			if f.Message() != nil && f.Message().ParentFile().Path() != "wire.proto" {
				t.Errorf("%s is a %s of another file", f.FullName(), f.Message().FullName())
			}
		}
	}
	if fields < 50 {
		t.Errorf("walked %d fields only", fields)
	}
}

func FuzzRead(f *testing.F) {
	for _, m := range samples() {
		b, err := wire.AppendFrame(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(bytes.Repeat([]byte{5<<3 | 2, 0}, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		frames := wire.NewReader(bytes.NewReader(b))
		for {
			payload, err := frames.Next()
			if err != nil {
				return
			}
			for _, m := range []proto.Message{&wire.Request{}, &wire.Response{}} {
				if wire.Unmarshal(payload, m) != nil {
					continue
				}
				again, err := wire.AppendFrame(nil, m)
				if err != nil {
					t.Fatal(err)
				}
				copied := m.ProtoReflect().New().Interface()
				if err := protodelim.UnmarshalFrom(bytes.NewReader(again), copied); err != nil || !proto.Equal(m, copied) {
					t.Fatalf("%v became %v, %v", m, copied, err)
				}
			}
		}
	})
}

func TestRandomBytesDoNoHarm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	valid := samples()
	for range 20_000 {
		b, err := proto.Marshal(valid[rng.IntN(len(valid))])
		if err != nil {
			t.Fatal(err)
		}
		for range 1 + rng.IntN(4) {
			if len(b) > 0 {
				b[rng.IntN(len(b))] = byte(rng.Uint32())
			}
		}
		_ = wire.Unmarshal(b, &wire.Request{})
		_ = wire.Unmarshal(b, &wire.Response{})
	}
}
