package main

import (
	"context"
	"errors"
	"go/build"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache"
)

// goroot is where this test finds the standard library.
func goroot(tb testing.TB) string {
	tb.Helper()
	dir, err := findGoroot(tb.Context(), "")
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

func TestKeyNamesPackageSymbolOrMethod(t *testing.T) {
	for key, want := range map[string]symbol{
		"fmt":                {path: "fmt"},
		"net/http":           {path: "net/http"},
		"net/http.Client":    {path: "net/http", name: "Client"},
		"net/http.Client.Do": {path: "net/http", name: "Client", method: "Do"},
		"math/rand/v2.Zipf":  {path: "math/rand/v2", name: "Zipf"},
		"go/build.Default":   {path: "go/build", name: "Default"},
		"builtin.append":     {path: "builtin", name: "append"},
	} {
		if got, ok := parseKey(key); !ok || got != want {
			t.Errorf("parseKey(%q) = %+v, %t, want %+v", key, got, ok, want)
		}
	}
}

func TestKeyOutsideTheStandardLibraryIsRefused(t *testing.T) {
	for _, key := range []string{
		"", ".", "..", "/", "/etc/passwd", "../../etc/passwd", "net/../../x", "net//http", "net/http/",
		"internal/abi", "net/internal", "vendor/golang.org/x/net", "go/build/testdata", "cmd", "cmd/go",
		".git", "_test", "net/.hidden", `net\http`, "net/http\x00", "a b", "näh",
		"net/http.", "net/http.Client.", "net/http..Do", "net/http.Client.Do.Again", "net/http.1", "net/http.func",
		strings.Repeat("a", maxKeyLen+1),
	} {
		if got, ok := parseKey(key); ok {
			t.Errorf("parseKey(%q) = %+v, want a refusal", key, got)
		}
	}
}

func TestTextHoldsWhatTheKeyNames(t *testing.T) {
	lib := library{goroot(t)}
	for key, want := range map[string][]string{
		"errors":                 {"package errors // import \"errors\"\n", "\nfunc Is(err, target error) bool\n"},
		"io.Reader":              {"type Reader interface {\n\tRead(p []byte) (n int, err error)\n}\n    Reader is the interface"},
		"io.EOF":                 {"var EOF = errors.New(\"EOF\")\n    EOF is the error"},
		"sync.Mutex":             {"type Mutex struct {", "\nfunc (m *Mutex) Lock()\n"},
		"sync.Mutex.Lock":        {"func (m *Mutex) Lock()\n    Lock locks m."},
		"sync.NewCond":           {"func NewCond(l Locker) *Cond\n"},
		"net/http.MethodGet":     {"\tMethodGet     = \"GET\"\n"},
		"time.Sunday":            {"\tSunday Weekday = iota\n"},
		"container/list.Element": {"type Element struct {\n", "\t// The value stored with this element.\n"},
		"builtin.len":            {"func len(v Type) int\n"},
		"unsafe.Sizeof":          {"func Sizeof(x ArbitraryType) uintptr\n"},
	} {
		got, err := lib.text(t.Context(), key)
		if err != nil {
			t.Errorf("text(%q): %v", key, err)
			continue
		}
		for _, want := range want {
			if !strings.Contains(got, want) {
				t.Errorf("text(%q) =\n%s\nwant in it\n%s", key, got, want)
			}
		}
	}
}

func TestTextShowsADeclarationsOwnCommentOnce(t *testing.T) {
	got, err := library{goroot(t)}.text(t.Context(), "io.EOF")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(got, "EOF is the error"); n != 1 {
		t.Errorf("text(io.EOF) says %d times what EOF is, want once:\n%s", n, got)
	}
}

func TestTextIsTheSameEachTime(t *testing.T) {
	lib := library{goroot(t)}
	for _, key := range []string{"net/http", "net/http.Server", "os"} {
		first, err := lib.text(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		second, err := lib.text(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("text(%q) changed (-first +second):\n%s", key, diff)
		}
	}
}

func TestWhatDoesNotExistIsNotFound(t *testing.T) {
	lib := library{goroot(t)}
	for _, key := range []string{
		"no/such/package", "net/https", "io.NoSuchThing", "io.reader", "io.Reader.NoSuchMethod",
		"io.Copy.Method", "io.EOF.Error", "internal/abi", "../x", "archive", // a directory without Go files
	} {
		if got, err := lib.text(t.Context(), key); !errors.Is(err, peercache.ErrNotFound) {
			t.Errorf("text(%q) = %q, %v, want not found", key, got, err)
		}
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (library{goroot(t)}).text(ctx, "net/http"); !errors.Is(err, context.Canceled) {
		t.Errorf("text with a context that has ended = %v, want context.Canceled", err)
	}
}

func TestMissingGorootIsAnError(t *testing.T) {
	dir := t.TempDir()
	if got, err := findGoroot(t.Context(), dir); err == nil {
		t.Errorf("findGoroot(empty directory) = %q, want an error", got)
	}
	if keys, _, err := allKeys(t.Context(), dir); err == nil {
		t.Errorf("allKeys(empty directory) = %d keys, want an error", len(keys))
	}
}

// Every key that the driver may ask for has a text, for else its not-found would
// count as a failure of the cluster.
func TestEveryListedKeyHasAText(t *testing.T) {
	lib := library{goroot(t)}
	keys, pkgs, err := allKeys(t.Context(), lib.goroot)
	if err != nil {
		t.Fatal(err)
	}
	if pkgs < 100 || len(keys) < 5000 {
		t.Errorf("%d keys in %d packages, want thousands in more than a hundred", len(keys), pkgs)
	}
	if !slices.IsSorted(keys) {
		t.Error("the keys are not sorted")
	}
	if unique := slices.Compact(slices.Clone(keys)); len(unique) != len(keys) {
		t.Errorf("%d of %d keys are listed twice", len(keys)-len(unique), len(keys))
	}
	for _, want := range []string{"fmt", "net/http.Client", "net/http.Client.Do", "io.EOF", "os.O_RDONLY", "time.NewTimer"} {
		if _, ok := slices.BinarySearch(keys, want); !ok {
			t.Errorf("%q is not listed", want)
		}
	}

	// Parsing anew for each key is what the nodes do; here each package is
	// parsed once.
	var p *page
	for _, key := range keys {
		sym, ok := parseKey(key)
		if !ok {
			t.Errorf("listed key %q is refused", key)
			continue
		}
		if p == nil || p.ImportPath != sym.path {
			if p, err = lib.parse(t.Context(), sym.path); err != nil {
				t.Fatal(err)
			}
		}
		if p.find(sym) == nil {
			t.Errorf("listed key %q has no text", key)
		}
	}
}

func TestPackageListAgreesWithTheGoCommand(t *testing.T) {
	if testing.Short() {
		t.Skip("runs go list std")
	}
	root := goroot(t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "go"), "list", "-e", "std")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOOS="+build.Default.GOOS, "GOARCH="+build.Default.GOARCH)
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("go list std: %v", err)
	}
	var want []string
	for path := range strings.Lines(string(out)) {
		if path = strings.TrimSpace(path); public(path) {
			want = append(want, path)
		}
	}
	keys, _, err := allKeys(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, key := range keys {
		// No program imports these two, and the go command lists neither.
		if key == "builtin" || key == "runtime/cgo" {
			continue
		}
		if sym, _ := parseKey(key); sym.name == "" {
			got = append(got, key)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages (-go list +here):\n%s", diff)
	}
}
