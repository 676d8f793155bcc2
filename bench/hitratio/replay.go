package main

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/peercache/peercache/bench/internal/stores"
	"github.com/peercache/peercache/bench/internal/trace"
)

// keySize is the length of the keys that objects get, in bytes.
const keySize = 8

// A script is a trace with the keys and values of its objects.
type script struct {
	trace trace.Trace
	keys  []string
	blob  string // every value is a head of it
}

func newScript(t trace.Trace) *script {
	s := &script{trace: t, keys: make([]string, t.Objects)}
	var text []byte
	for object := range s.keys {
		text = binary.BigEndian.AppendUint64(text, uint64(object))
	}
	for object, all := 0, string(text); object < t.Objects; object++ {
		s.keys[object] = all[object*keySize:][:keySize]
	}
	if t.Sizes != nil {
		s.blob = strings.Repeat("x", int(slices.Max(t.Sizes)))
	}
	return s
}

// value is empty in a trace without sizes.
func (s *script) value(object uint32) string {
	if s.trace.Sizes == nil {
		return ""
	}
	return s.blob[:s.trace.Sizes[object]]
}

// A ratio is how much of what was asked for was there, in percent.
type ratio struct{ objects, bytes float64 }

// play has a store serve the trace.
func (s *script) play(store stores.Store) ratio {
	var hits, hitBytes, bytes int64
	for _, object := range s.trace.Accesses {
		key, value := s.keys[object], s.value(object)
		bytes += int64(len(value))
		if _, ok := store.Get(key); ok {
			hits++
			hitBytes += int64(len(value))
			continue
		}
		store.Set(key, value)
		store.Flush()
	}
	return ratio{percent(hits, int64(len(s.trace.Accesses))), percent(hitBytes, bytes)}
}

// percent of nothing is nothing.
func percent(n, of int64) float64 { return 100 * float64(n) / float64(max(of, 1)) }
