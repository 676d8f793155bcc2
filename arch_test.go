package peercache_test

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// This file holds the sources against the rules that no compiler knows: who
// imports whom, what the module depends on, and what would break tests in
// bubbles. The rules are tables; a change to one of them is a decision and
// belongs into a commit of its own. How they are checked is in
// arch_checks_test.go.

const ours = "github.com/peercache/peercache"

// mayImport says which of our directories a directory may import; the root is
// ".". What has no row uses the library as everybody does: the root and
// cachetest. Tests may import the package they test.
var mayImport = map[string][]string{
	".":              {"consistenthash", "internal/wire", "lru"},
	"lru":            {},
	"consistenthash": {},
	"internal/wire":  {},
	"cachetest":      {"."}, // a cluster in memory uses what a service uses, or it would prove less

	"bench/deploys":         {".", "bench/internal/plot", "bench/internal/table"},
	"bench/hitratio":        {"bench/internal/stores", "bench/internal/table", "bench/internal/trace"},
	"bench/peers":           {".", "bench/internal/table"},
	"bench/store":           {"bench/internal/stores", "bench/internal/table"},
	"bench/internal/plot":   {},
	"bench/internal/stores": {".", "lru"},
}

// withoutNet are the files of the root that import no net package. They meet
// the network through one small interface, so that a test can stand in for it.
var withoutNet = []string{
	"cache.go", "catchup.go", "circle.go", "clock.go", "coherence.go", "delivery.go", "engine.go", "fence.go",
	"fetch.go", "gate.go", "handoff.go", "hedge.go", "hot.go", "ids.go", "inquiry.go", "invalidate.go", "item.go",
	"ledger.go", "ledger_sync.go", "load.go", "peek.go", "progress.go", "remembered.go", "ring.go",
	"serve.go", "singleflight.go", "store.go", "store_removals.go", "tally.go", "value.go",
}

// A dependency is a module that go.mod may require directly.
type dependency struct {
	why  string
	only func(file string) bool // the files that may import it; nil is all
}

var dependencies = map[string]dependency{
	"github.com/hashicorp/memberlist": {"gossip; one file knows it, so that it can be replaced", isPeers},
	"github.com/golang/protobuf":      {"values of users may be messages of its generation", nil},
	"google.golang.org/protobuf":      {"the wire, and values that are messages", nil},
	"github.com/zeebo/xxh3":           {"a hash with a fixed seed that all nodes agree on", nil},
	"golang.org/x/sync":               {"errgroup, semaphore: what the standard library leaves out", nil},
	"github.com/google/go-cmp":        {"differences in tests", isTest},
	"go.uber.org/goleak":              {"goroutines that tests leave behind", isTest},
	"pgregory.net/rapid":              {"properties, with counterexamples made small", isTest},
}

// bytePools are the pools at package level that hold nothing but bytes, as
// "directory/name". Everything else in a pool would travel between bubbles.
var bytePools = []string{}

// ofBubbles are the types whose values belong to the bubble they were made or
// first used in, or keep goroutines and channels that do.
var ofBubbles = []string{
	"context.Context", "net/http.Client", "net/http.Server", "net/http.Transport",
	"sync.Cond", "sync.Pool", "sync.WaitGroup", "time.Ticker", "time.Timer",
}

// makeThose are the functions that return such values. Of package context all
// do but one.
var makeThose = []string{"sync.NewCond", "time.After", "time.AfterFunc", "time.NewTicker", "time.NewTimer", "time.Tick"}

var archChecks = map[string]func([]source) []string{
	"imports of ours": checkOurImports,
	"dependencies":    checkDependencies,
	"no net":          checkWithoutNet,
	"sleep":           checkSleep,
	"package level":   func(all []source) []string { return checkPackageLevel(all, bytePools) },
}

func TestSourcesKeepTheRules(t *testing.T) {
	files := readSources(t)
	for name, check := range archChecks {
		t.Run(name, func(t *testing.T) {
			for _, finding := range check(files) {
				t.Error(finding)
			}
		})
	}
}

func TestTablesNameFilesAndModulesThatExist(t *testing.T) {
	// A row about something that was renamed checks nothing any more.
	for _, name := range slices.Concat(withoutNet, []string{"peers.go"}) {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	for dir := range mayImport {
		if goFiles, _ := filepath.Glob(filepath.Join(dir, "*.go")); len(goFiles) == 0 {
			t.Errorf("mayImport has a row for %s, where there are no Go files", dir)
		}
	}
	pools := checkPackageLevel(readSources(t), nil)
	for _, pool := range bytePools {
		dir, name := path.Split(pool)
		if !slices.ContainsFunc(pools, func(finding string) bool {
			file, _, _ := strings.Cut(finding, ":")
			return path.Dir(file) == path.Clean(dir) && strings.HasSuffix(finding, " "+name+" holds a sync.Pool")
		}) {
			t.Errorf("bytePools has a row for %s, which is no pool", pool)
		}
	}
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range checkRequirements(string(text)) {
		t.Error(finding)
	}
}

// The sources here exist in memory only.
func TestEachRuleFindsWhatBreaksIt(t *testing.T) {
	const root = `import "` + ours + `"`
	for name, c := range map[string]struct {
		check string
		files map[string]string // by path
		want  []string
	}{
		"leaf imports root":         {"imports of ours", files{"lru/a.go": root}, []string{"lru/a.go:1: imports . of ours, which lru must not"}},
		"leaf imports leaf":         {"imports of ours", files{"lru/a.go": `import "` + ours + `/consistenthash"`}, []string{"lru/a.go:1: imports consistenthash of ours, which lru must not"}},
		"test imports its package":  {"imports of ours", files{"lru/a_test.go": `import "` + ours + `/lru"`}, nil},
		"program imports its own":   {"imports of ours", files{"lru/a.go": `import "` + ours + `/lru"`}, []string{"lru/a.go:1: imports lru of ours, which lru must not"}},
		"example uses the API":      {"imports of ours", files{"examples/x/a.go": root, "examples/x/a_test.go": `import "` + ours + `/cachetest"`}, nil},
		"example reaches inside":    {"imports of ours", files{"examples/x/a.go": `import "` + ours + `/internal/wire"`}, []string{"examples/x/a.go:1: imports internal/wire of ours, which examples/x must not"}},
		"cachetest reaches inside":  {"imports of ours", files{"cachetest/a_test.go": `import "` + ours + `/internal/wire"`}, []string{"cachetest/a_test.go:1: imports internal/wire of ours, which cachetest must not"}},
		"root imports cachetest":    {"imports of ours", files{"a.go": `import "` + ours + `/cachetest"`}, []string{"a.go:1: imports cachetest of ours, which . must not"}},
		"root's test does":          {"imports of ours", files{"a_test.go": `import "` + ours + `/cachetest"`}, nil},
		"another module's prefix":   {"imports of ours", files{"lru/a.go": `import "` + ours + `-tools/x"`}, nil},
		"second file of gossip":     {"dependencies", files{"node.go": `import "github.com/hashicorp/memberlist"`}, []string{"node.go:1: imports github.com/hashicorp/memberlist, which it must not: gossip; one file knows it, so that it can be replaced"}},
		"gossip and its tests":      {"dependencies", files{"peers.go": `import "github.com/hashicorp/memberlist"`, "peers_x_test.go": `import "github.com/hashicorp/memberlist"`}, nil},
		"gossip elsewhere":          {"dependencies", files{"lru/peers.go": `import "github.com/hashicorp/memberlist"`}, []string{"lru/peers.go:1: imports github.com/hashicorp/memberlist, which it must not: gossip; one file knows it, so that it can be replaced"}},
		"test tool in the library":  {"dependencies", files{"a.go": `import "github.com/google/go-cmp/cmp"`}, []string{"a.go:1: imports github.com/google/go-cmp/cmp, which it must not: differences in tests"}},
		"test tool in a test":       {"dependencies", files{"a_test.go": `import "github.com/google/go-cmp/cmp"`}, nil},
		"unknown dependency":        {"dependencies", files{"a.go": `import "example.com/x"`}, []string{"a.go:1: imports example.com/x, which has no row in dependencies"}},
		"dependency's neighbour":    {"dependencies", files{"a.go": `import "golang.org/x/synctools"`}, []string{"a.go:1: imports golang.org/x/synctools, which has no row in dependencies"}},
		"module of its own":         {"dependencies", files{"bench/go.mod": "", "bench/x/a.go": `import "example.com/x"`}, nil},
		"standard library":          {"dependencies", files{"a.go": `import "encoding/json"`}, nil},
		"store opens connections":   {"no net", files{"store.go": `import "net"`, "ring.go": `import "net/netip"`}, []string{"ring.go:1: imports net/netip", "store.go:1: imports net"}},
		"http does, and lru/":       {"no net", files{"http.go": `import "net"`, "lru/store.go": `import "net"`}, nil},
		"sleep in a test":           {"sleep", files{"a_test.go": `import "time"; func f() { time.Sleep(1) }`}, []string{"a_test.go:1: time.Sleep in a test file without bubbles"}},
		"sleep under another name":  {"sleep", files{"a_test.go": `import clock "time"; var nap = clock.Sleep`}, []string{"a_test.go:1: time.Sleep in a test file without bubbles"}},
		"sleep in a bubble":         {"sleep", files{"a_test.go": `import ("time"; "testing/synctest"); var nap, run = time.Sleep, synctest.Test`}, nil},
		"sleep in a program":        {"sleep", files{"a.go": `import "time"; var nap = time.Sleep`}, nil},
		"somebody else's sleep":     {"sleep", files{"a_test.go": `import time "example.com/time"; var nap = time.Sleep`}, nil},
		"channel":                   {"package level", files{"a.go": `var c chan int`}, []string{"a.go:1: c holds a channel"}},
		"made channel":              {"package level", files{"a.go": `var c = make(chan int)`}, []string{"a.go:1: c holds a channel"}},
		"channels in a map":         {"package level", files{"a.go": `var c = map[string]chan int{}`}, []string{"a.go:1: c holds a channel"}},
		"channel in a struct":       {"package level", files{"a.go": `type t struct{ next *t; c <-chan int }; var c t`}, []string{"a.go:1: c holds a channel"}},
		"channel in another file":   {"package level", files{"a.go": `var c = &t[int]{}`, "b.go": `type t[T any] struct{ c chan T }`}, []string{"a.go:1: c holds a channel"}},
		"channel of another folder": {"package level", files{"a.go": `import "` + ours + `/lru"; var c lru.T`, "lru/b.go": `type T struct{ c chan int }`}, []string{"a.go:1: c holds a channel"}},
		"channel behind a pointer":  {"package level", files{"a.go": `import "sync/atomic"; var c atomic.Pointer[chan int]`}, []string{"a.go:1: c holds a channel"}},
		"channel in an interface":   {"package level", files{"a.go": `var c = []any{1, make(chan int)}`}, []string{"a.go:1: c holds a channel"}},
		"channel from a function":   {"package level", files{"a.go": `func f() (int, chan int) { return 0, nil }; var n, c = f()`}, []string{"a.go:1: n, c holds a channel"}},
		"channel from a literal":    {"package level", files{"a.go": `var c = func() chan int { return nil }()`}, []string{"a.go:1: c holds a channel"}},
		"context":                   {"package level", files{"a.go": `import "context"; var c = context.Background(); var d context.Context`}, []string{"a.go:1: c holds what context.Background returns", "a.go:1: d holds a context.Context"}},
		"pool":                      {"package level", files{"a.go": `import "sync"; var p = sync.Pool{New: func() any { return new(int) }}`}, []string{"a.go:1: p holds a sync.Pool"}},
		"condition":                 {"package level", files{"a.go": `import "sync"; var c = sync.NewCond(nil); var d struct{ sync.Cond }`}, []string{"a.go:1: c holds what sync.NewCond returns", "a.go:1: d holds a sync.Cond"}},
		"timers":                    {"package level", files{"a.go": `import "time"; var a, b, c = time.After(1), time.NewTimer(1), new(time.Ticker)`}, []string{"a.go:1: a holds what time.After returns", "a.go:1: b holds what time.NewTimer returns", "a.go:1: c holds a time.Ticker"}},
		"HTTP client":               {"package level", files{"a.go": `import "net/http"; var c = &http.Client{}`}, []string{"a.go:1: c holds a net/http.Client"}},
		"what no bubble owns": {"package level", files{"a.go": `import ("context"; "errors"; "sync"; "time"); var (
				base = time.Now()
				mu sync.Mutex
				err = errors.New("x")
				ended error = context.Canceled
				once = sync.OnceValue(func() int { return 1 })
				notify func() chan int = func() chan int { return make(chan int) }
			); func f() { c := make(chan int); close(c) }`}, nil},
		"interface satisfied": {"package level", files{"a.go": `type t struct{ c chan int }; var _ any = (*t)(nil)`}, nil},
		"channel of a test":   {"package level", files{"a_test.go": `var c chan int`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var parsed []source
			for file, text := range c.files {
				parsed = append(parsed, parse(t, file, "package p; "+text))
			}
			slices.SortFunc(parsed, func(a, b source) int { return strings.Compare(a.path, b.path) })
			if d := cmp.Diff(c.want, archChecks[c.check](parsed)); d != "" {
				t.Errorf("findings (-want +got):\n%s", d)
			}
		})
	}
}

func TestNamedPoolIsExempt(t *testing.T) {
	sources := []source{parse(t, "lru/a.go", `package p; import "sync"; var named, other = sync.Pool{}, 1; var a sync.Pool; var b = new(sync.Pool)`)}
	got := checkPackageLevel(sources, []string{"lru/a", "./b"})
	want := []string{"lru/a.go:1: named holds a sync.Pool", "lru/a.go:1: b holds a sync.Pool"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
}

func TestRequirementsNeedReasons(t *testing.T) {
	var all strings.Builder
	for module := range dependencies {
		fmt.Fprintf(&all, "\t%s v1.0.0\n", module)
	}
	good := "module m\n\ngo 1.26\n\nrequire (\n" + all.String() + ")\n\nrequire example.com/i v1.0.0 // indirect\n"
	if got := checkRequirements(good); got != nil {
		t.Errorf("findings in a good go.mod: %q", got)
	}
	got := checkRequirements("require example.com/x v1.0.0\nrequire (\n\texample.com/y v1.0.0 // why not\n\texample.com/z v1.0.0 // indirect\n)\n")
	want := []string{
		"go.mod requires example.com/x, which has no row in dependencies",
		"go.mod requires example.com/y, which has no row in dependencies",
	}
	for module := range dependencies {
		want = append(want, "dependencies has a row for "+module+", which go.mod does not require")
	}
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
}

type files = map[string]string
