package trace

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ulikunitz/xz"
)

// formats are the formats of traces, by name. Beside them there is compression
// with gzip or xz, which the end of a file's name tells.
var formats = map[string]func(io.Reader, *builder) error{
	"arc":        readARC,
	"lirs":       readLIRS,
	"adapt_size": readAdaptSize,
	"int32be":    func(r io.Reader, b *builder) error { return readBinary(r, b, 4) },
	"int64be":    func(r io.Reader, b *builder) error { return readBinary(r, b, 8) },
}

// families are the names under which collections of traces keep files of a
// format. The formats' own names are families, too.
var families = map[string]string{
	"cache2k": "int32be",
	"corda":   "int64be",
}

// Read reads the trace of one file, or of several joined by "+" one after the
// other, in which equal keys are equal objects.
//
// A file is a path, or format:path. The formats are arc (text, "start count x y" a
// line: the keys from start on), lirs (text, a key a line; blank lines and
// asterisks are skipped), adapt_size (text, "tick key bytes" a line), int32be and
// int64be (big-endian binary). Without one the format is that of the family in
// which the name of the file begins, up to the first hyphen or dot, or else
// the name of its folder: one of the formats, cache2k (int32be) or corda
// (int64be).
func Read(spec string) (Trace, error) {
	b := newBuilder(title(spec))
	for file := range strings.SplitSeq(spec, "+") {
		if err := readFile(file, b); err != nil {
			return Trace{}, fmt.Errorf("trace %s: %w", file, err)
		}
	}
	t := b.finish()
	if len(t.Accesses) == 0 {
		return Trace{}, fmt.Errorf("trace %s: no accesses", spec)
	}
	return t, nil
}

// title shortens paths to the names of files.
func title(spec string) string {
	var names []string
	for file := range strings.SplitSeq(spec, "+") {
		names = append(names, filepath.Base(file))
	}
	return strings.Join(names, "+")
}

func readFile(file string, b *builder) error {
	format, path := split(file)
	read, ok := formats[format]
	if !ok {
		return errors.New("format unknown: write format:path")
	}
	content, err := os.ReadFile(path) // a few megabytes, as long as it is compressed
	if err != nil {
		return err
	}
	var r io.Reader = bytes.NewReader(content)
	switch filepath.Ext(path) {
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.NewReader(r)
	}
	if err != nil {
		return err
	}
	return read(bufio.NewReaderSize(r, 1<<16), b)
}

// split returns the format of a file, "" if it has none, and its path.
func split(file string) (format, path string) {
	if format, path, ok := strings.Cut(file, ":"); ok && formats[format] != nil {
		return format, path
	}
	family, _, _ := strings.Cut(filepath.Base(file), "-")
	family, _, _ = strings.Cut(family, ".")
	for _, f := range []string{family, filepath.Base(filepath.Dir(file))} {
		if known, ok := families[f]; ok {
			f = known
		}
		if formats[f] != nil {
			return f, file
		}
	}
	return "", file
}

func readARC(r io.Reader, b *builder) error {
	return readLines(r, 2, func(n []uint64) error {
		for i := range n[1] {
			b.add(n[0]+i, unsized)
		}
		return nil
	})
}

func readLIRS(r io.Reader, b *builder) error {
	return readLines(r, 1, func(n []uint64) error {
		b.add(n[0], unsized)
		return nil
	})
}

func readAdaptSize(r io.Reader, b *builder) error {
	return readLines(r, 3, func(n []uint64) error {
		if n[2] >= unsized {
			return fmt.Errorf("an object of %d bytes", n[2])
		}
		b.add(n[1], uint32(n[2]))
		return nil
	})
}

// readLines gives the first numbers of each line to add. Blank lines and those of
// a single asterisk have none.
func readLines(r io.Reader, numbers int, add func([]uint64) error) error {
	lines := bufio.NewScanner(r)
	row := make([]uint64, numbers)
	for i := 1; lines.Scan(); i++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] == "*" {
			continue
		}
		if len(fields) < numbers {
			return fmt.Errorf("line %d has %d fields, want %d", i, len(fields), numbers)
		}
		for j := range row {
			n, err := strconv.ParseUint(fields[j], 10, 64)
			if err != nil {
				return fmt.Errorf("line %d: %w", i, err)
			}
			row[j] = n
		}
		if err := add(row); err != nil {
			return fmt.Errorf("line %d: %w", i, err)
		}
	}
	return lines.Err()
}

// readBinary reads keys of 4 or 8 bytes.
func readBinary(r io.Reader, b *builder, width int) error {
	var word [8]byte
	for {
		_, err := io.ReadFull(r, word[8-width:])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b.add(binary.BigEndian.Uint64(word[:]), unsized)
	}
}
