package trace_test

import (
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"

	"github.com/peercache/peercache/bench/internal/trace"
)

// write writes a file below a directory, compressed as its name says, and returns
// its path.
func write(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := io.WriteCloser(f)
	switch filepath.Ext(name) {
	case ".gz":
		w = gzip.NewWriter(f)
	case ".xz":
		if w, err = xz.NewWriter(f); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func int32s(keys ...uint32) (b []byte) {
	for _, key := range keys {
		b = binary.BigEndian.AppendUint32(b, key)
	}
	return b
}

func int64s(keys ...uint64) (b []byte) {
	for _, key := range keys {
		b = binary.BigEndian.AppendUint64(b, key)
	}
	return b
}

func TestReadKnowsEachFormat(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, format string
		content      []byte
		want         trace.Trace
	}{
		{"arc-db.gz", "", []byte("7 2 0 0\n100 1 0 1\n8 1 0 2\n"), trace.Trace{Accesses: []uint32{0, 1, 2, 1}, Objects: 3}},
		{"arc/db.gz", "", []byte("7 1 0 0\n"), trace.Trace{Accesses: []uint32{0}, Objects: 1}},
		{"lirs-loop.trace.gz", "", []byte("5\n\n*\n6\n5\n"), trace.Trace{Accesses: []uint32{0, 1, 0}, Objects: 2}},
		{"cache2k-web.trace.xz", "", int32s(9, 1<<31, 9), trace.Trace{Accesses: []uint32{0, 1, 0}, Objects: 2}},
		{"corda-vault.gz", "", int64s(1<<63, 3, 1<<63), trace.Trace{Accesses: []uint32{0, 1, 0}, Objects: 2}},
		{"x.bin", "int64be:", int64s(1, 2), trace.Trace{Accesses: []uint32{0, 1}, Objects: 2}},
		{
			"adapt_size-request.trace.xz", "", []byte("1 0 68\n2 1 7454\n3 0 68\n4 0 70\n"),
			trace.Trace{Accesses: []uint32{0, 1, 0, 2}, Objects: 3, Sizes: []uint32{68, 7454, 70}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := trace.Read(c.format + write(t, dir, c.name, c.content))
			if err != nil {
				t.Fatal(err)
			}
			c.want.Name = filepath.Base(c.name)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("Read (-want +got):\n%s", d)
			}
		})
	}
}

func TestJoinedFilesShareTheirObjects(t *testing.T) {
	dir := t.TempDir()
	a := write(t, dir, "lirs-a", []byte("1\n2\n"))
	b := write(t, dir, "lirs-b", []byte("3\n2\n"))
	got, err := trace.Read(a + "+" + b + "+" + a)
	if err != nil {
		t.Fatal(err)
	}
	want := trace.Trace{Name: "lirs-a+lirs-b+lirs-a", Accesses: []uint32{0, 1, 2, 1, 0, 1}, Objects: 3}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Read (-want +got):\n%s", d)
	}
}

func TestOneFileWithoutSizesMakesATraceWithoutSizes(t *testing.T) {
	dir := t.TempDir()
	got, err := trace.Read(write(t, dir, "adapt_size-a", []byte("1 2 3\n")) + "+" + write(t, dir, "lirs-a", []byte("1\n")))
	if err != nil {
		t.Fatal(err)
	}
	if got.Sizes != nil || got.Objects != 2 {
		t.Errorf("Read = %d objects with sizes %v, want 2 without", got.Objects, got.Sizes)
	}
}

func TestReadSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name    string
		content string
		want    string
	}{
		{"unknown-a", "1\n", "format unknown"},
		{"lirs-empty", "*\n", "no accesses"},
		{"lirs-text", "1\nx\n", "line 2"},
		{"arc-short", "1\n", "line 1 has 1 fields, want 2"},
		{"adapt_size-huge", "1 2 4294967295\n", "line 1: an object of 4294967295 bytes"},
		{"cache2k-cut", "12345", "unexpected EOF"},
		{"corda-cut", "123", "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := trace.Read(write(t, dir, c.name, []byte(c.content)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Read = %v, want an error about %q", err, c.want)
			}
		})
	}
}

func TestHeadKeepsTheObjectsItHas(t *testing.T) {
	all := trace.Trace{Accesses: []uint32{0, 1, 0, 2}, Objects: 3, Sizes: []uint32{5, 6, 7}}
	got := all.Head(3)
	want := trace.Trace{Accesses: []uint32{0, 1, 0}, Objects: 2, Sizes: []uint32{5, 6}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Head(3) (-want +got):\n%s", d)
	}
	for _, n := range []int{0, 4, 5} {
		if d := cmp.Diff(all, all.Head(n)); d != "" {
			t.Errorf("Head(%d) (-want +got):\n%s", n, d)
		}
	}
}
