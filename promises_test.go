package peercache_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// The checker of what Set, Remove and Clear promise: a history of calls on many
// nodes, and what no Get in it may have returned. The calls themselves are made in
// promises_random_test.go.
//
// Every key has a version at its origin. Who changes a key raises it first, and
// then calls Remove, Set or Clear; that call's floor is the version when it began.
// Once the call binds a node, a Get that starts there returns no older version, but
// for the value of a Set that had not finished when the call began. A call binds
//
//   - the calling process as soon as it returns, whatever it returns,
//   - the processes in the caller's view, and in the views of those, that a
//     *PartialError does not name, as soon as it returns,
//   - each other process a while after it has contact with one that is bound.
//
// A call whose process is killed before it returns binds nobody.

const (
	// catchUp is how long after contact a process may serve what it missed.
	catchUp = 3 * time.Second

	// hearsay is catchUp where neither the caller itself is in contact, nor is the
	// contact news to the two, and so they learn of what they missed when they next
	// happen to compare: once a second, with a peer that is picked at random.
	hearsay = 10 * time.Second

	// callLimit is how long a Set goes on whose caller's context has ended.
	callLimit = 2100 * time.Millisecond

	unbound = time.Duration(math.MaxInt64)
)

// A stamp is a moment: what happened later has the greater order, also within one
// instant of the bubble's clock.
type stamp struct {
	order int
	at    time.Duration // since the history began
}

// A change is one call of Set, Remove or Clear.
type change struct {
	kind       string
	node       int
	floors     map[string]int // versions when it began, of each key that it is about
	start, end stamp          // end.order is 0 while it runs
	sights     [4]sight       // just before it began, just after, when it returned, and just after that
	unfinished []int          // the nodes that its *PartialError names
	partial    bool
	impatient  bool // its context has ended before
	lost       bool // its process was killed before it returned, or it failed
}

// A sight tells by node which nodes it sees in the cluster.
type sight [][]int

// A read is what one Get, or a GetMany of one of its keys, has returned.
type read struct {
	node       int
	key        string
	start, end stamp
	version    int
	absent     bool    // not found; version is the newest that was absent
	set        *change // who supplied the value, nil for a loader
}

// A span is a time in which two nodes have contact: nothing keeps them from
// talking, and each sees the other in the cluster.
type span struct {
	from, to time.Duration
	met      bool // they had not seen each other just before
}

// A record is all that has happened, for the checker.
type record struct {
	nodes   int
	changes []*change
	reads   []*read
	spans   map[[2]int][]span // by the smaller index and the greater
}

// A violation is a read that a change forbids.
type violation struct {
	promise int // its number in the contract
	read    *read
	change  *change
}

// check returns the reads that break a promise, each with one change that it
// breaks, in the order in which the reads began.
func (r *record) check() []violation {
	due := make(map[*change][]time.Duration, len(r.changes))
	of := make(map[string][]*change)
	for _, c := range r.changes {
		due[c] = r.due(c)
		for key := range c.floors {
			of[key] = append(of[key], c)
		}
	}
	var found []violation
	for _, got := range r.reads {
		for _, c := range of[got.key] {
			if c.end.order == 0 || c.end.order > got.start.order || got.start.at < due[c][got.node] || got.version >= c.floors[got.key] {
				continue
			}
			if s := got.set; s != nil && (s.endsAfter(c.start) || got.start.at < due[s][got.node]) {
				continue
			}
			found = append(found, violation{c.promise(got.node), got, c})
			break
		}
	}
	slices.SortFunc(found, func(a, b violation) int { return a.read.start.order - b.read.start.order })
	return found
}

// endsAfter says whether a Set may not have finished at a moment. One that nobody
// waits for any more goes on.
func (c *change) endsAfter(s stamp) bool {
	return c.end.order == 0 || c.end.order > s.order || c.impatient && c.start.at+callLimit >= s.at
}

// due returns from when on a change binds each node.
func (r *record) due(c *change) []time.Duration {
	due := slices.Repeat([]time.Duration{unbound}, r.nodes)
	if c.end.order == 0 || c.lost {
		return due
	}
	due[c.node] = c.end.at
	for _, n := range c.confirmed() {
		due[n] = c.end.at
	}
	for again := true; again; {
		again = false
		for pair, spans := range r.spans {
			for _, ends := range [][2]int{pair, {pair[1], pair[0]}} {
				from, to := ends[0], ends[1]
				for _, s := range spans {
					start := max(s.from, due[from])
					wait := hearsay
					if from == c.node || s.met && s.from > c.end.at {
						wait = catchUp
					}
					if due[from] != unbound && s.to-start >= wait && start+wait < due[to] {
						due[to], again = start+wait, true
					}
				}
			}
		}
	}
	return due
}

// confirmed returns the nodes that have confirmed a change which has returned: those
// that the caller saw all the time around its beginning, and those that they saw
// until they confirmed.
func (c *change) confirmed() []int {
	sees := func(n, other int, sights ...sight) bool {
		return !slices.Contains(c.unfinished, other) && !slices.ContainsFunc(sights, func(s sight) bool {
			return n >= len(s) || !slices.Contains(s[n], other)
		})
	}
	var first []int
	for n := range c.sights[0] {
		if n != c.node && sees(c.node, n, c.sights[0], c.sights[1]) {
			first = append(first, n)
		}
	}
	all := slices.Clone(first)
	for _, via := range first {
		for n := range c.sights[0] {
			if n != c.node && !slices.Contains(all, n) && sees(via, n, c.sights[:]...) {
				all = append(all, n)
			}
		}
	}
	return all
}

// promise returns the number of the promise by which a change binds a node.
func (c *change) promise(node int) int {
	switch {
	case node == c.node && c.partial:
		return 7
	case node == c.node || !c.partial && slices.Contains(c.confirmed(), node):
		if c.kind == "Remove" {
			return 4
		}
		return 5
	case c.partial && (slices.Contains(c.unfinished, node) || slices.Contains(c.confirmed(), node)):
		return 8
	}
	return 9
}

func (c *change) String() string {
	result := "nil"
	switch {
	case c.end.order == 0:
		result = "running"
	case c.lost:
		result = "killed"
	case c.partial:
		result = fmt.Sprint("unconfirmed by ", c.unfinished)
	}
	var floors []string
	for _, key := range slices.Sorted(maps.Keys(c.floors)) {
		floors = append(floors, fmt.Sprint(key, "@", c.floors[key]))
	}
	if c.kind == "Clear" {
		floors = []string{"everything"}
	}
	var sees []int
	if c.node < len(c.sights[0]) {
		sees = c.sights[0][c.node]
	}
	return fmt.Sprintf("%v to %v: node %d, which sees %v: %s of %s: %s", c.start.at, c.end.at, c.node, sees, c.kind, strings.Join(floors, " "), result)
}

func (r *read) String() string {
	from := "loaded"
	switch {
	case r.absent:
		from = "not found"
	case r.set != nil:
		from = fmt.Sprint("set by node ", r.set.node)
	}
	return fmt.Sprintf("%v to %v: node %d: Get = %s@%d, %s", r.start.at, r.end.at, r.node, r.key, r.version, from)
}

// A history makes a record while a cluster runs, and is the origin of its keys.
type history struct {
	cluster *cachetest.Cluster
	began   time.Time

	mu       sync.Mutex // guards the fields below
	order    int
	record   record
	versions map[string]int
	values   map[string]*change // each value that there ever was, and the Set that supplied it
	network  []plight           // of each node
	apart    map[[2]int]bool    // pairs that did not see each other when last looked at
	events   []event            // faults
}

// A plight is what keeps a node from talking to others.
type plight struct {
	gone, killed, paused bool
	group                int
	delay                time.Duration
}

type event struct {
	stamp
	text string
}

// nearness is the delay between two nodes up to which they count as in contact:
// well below every timeout.
const nearness = 50 * time.Millisecond

func newHistory(c *cachetest.Cluster) *history {
	h := &history{
		cluster:  c,
		began:    time.Now(),
		versions: make(map[string]int),
		values:   make(map[string]*change),
		apart:    make(map[[2]int]bool),
	}
	h.record.spans = make(map[[2]int][]span)
	return h
}

func (h *history) nowLocked() stamp {
	h.order++
	return stamp{h.order, time.Since(h.began)}
}

func (h *history) now() stamp {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nowLocked()
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%d nodes, %d changes, %d Gets of %d keys, %d values",
		h.record.nodes, len(h.record.changes), len(h.record.reads), len(h.versions), len(h.values))
}

// commit raises the version of a key, and returns the new one.
func (h *history) commit(key string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.versions[key]++
	return h.versions[key]
}

func (h *history) version(key string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.versions[key]
}

// value makes a value of a key, which no other equals.
func (h *history) value(key string, version int, by *change) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := fmt.Sprint(key, "@", version, "#", len(h.values))
	h.values[v] = by
	return v
}

// sees returns which nodes each node sees.
func (h *history) sees() sight {
	n := h.cluster.Len()
	index := make(map[string]int, n)
	for i := range n {
		index[h.cluster.Node(i).Self().URL] = i
	}
	s := make(sight, n)
	for i := range n {
		for _, p := range h.cluster.Node(i).Peers() {
			s[i] = append(s[i], index[p.URL])
		}
	}
	return s
}

// begin records that a node is about to change keys.
func (h *history) begin(kind string, node int, keys []string) *change {
	c := &change{kind: kind, node: node, floors: make(map[string]int)}
	c.sights[0] = h.sees()
	h.mu.Lock()
	defer h.mu.Unlock()
	c.start = h.nowLocked()
	for _, key := range keys {
		c.floors[key] = h.versions[key]
	}
	h.record.changes = append(h.record.changes, c)
	// The call reads its view at some point of the instant in which it begins, and the
	// view may change in that instant.
	h.lookAgain(&c.sights[1])
	return c
}

// lookAgain notes which nodes each node sees when this instant is over.
func (h *history) lookAgain(at *sight) {
	go func() {
		<-time.After(time.Nanosecond)
		s := h.sees()
		h.mu.Lock()
		defer h.mu.Unlock()
		*at = s
	}()
}

// finish records what a change has returned. It returns an error that none may
// return.
func (h *history) finish(c *change, err error, impatient bool) error {
	s := h.sees()
	h.mu.Lock()
	defer h.mu.Unlock()
	c.end, c.sights[2] = h.nowLocked(), s
	h.lookAgain(&c.sights[3]) // whom a peer sees it has told before its ring follows
	c.lost, c.impatient = h.plightLocked(c.node).killed, impatient && err != nil
	if err == nil {
		return nil
	}
	var partial *peercache.PartialError
	if partial, c.partial = errors.AsType[*peercache.PartialError](err); !c.partial {
		c.lost = true
		return err
	}
	for i := range h.cluster.Len() {
		if partial.Peers[h.cluster.Node(i).Self().URL] != nil {
			c.unfinished = append(c.unfinished, i)
		}
	}
	return nil
}

// read records what a Get that began at start has returned, and says what is wrong
// with the value in itself. An absent version is one that absentVersion says.
func (h *history) read(node int, key string, start stamp, value string, found bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	got := &read{node: node, key: key, start: start, end: h.nowLocked()}
	if found {
		set, known := h.values[value]
		rest, ours := strings.CutPrefix(value, key+"@")
		if !known || !ours {
			return fmt.Errorf("node %d: Get(%s) = %q, which is no value of the key", node, key, value)
		}
		_, _ = fmt.Sscanf(rest, "%d#", &got.version)
		got.set = set
	} else {
		got.absent = true
		for got.version = h.versions[key]; !absentVersion(got.version); got.version-- {
			if got.version < 0 {
				return fmt.Errorf("node %d: Get(%s): not found, and there always was a value", node, key)
			}
		}
	}
	h.record.reads = append(h.record.reads, got)
	return nil
}

// absentVersion says whether the loader does not find a key of this version.
func absentVersion(version int) bool { return version%8 == 7 }

func (h *history) plightLocked(i int) *plight {
	for len(h.network) <= i {
		h.network = append(h.network, plight{})
	}
	return &h.network[i]
}

// fault records a change of the network. It is called before one that breaks
// contact, and after one that makes it.
func (h *history) fault(text string, change func(of func(i int) *plight)) {
	h.mu.Lock()
	change(h.plightLocked)
	now := h.nowLocked()
	h.events = append(h.events, event{now, fmt.Sprintf("%v: %s", now.at, text)})
	h.mu.Unlock()
	h.look()
}

// look brings the spans of contact up to date.
func (h *history) look() {
	s := h.sees()
	h.mu.Lock()
	defer h.mu.Unlock()
	at := time.Since(h.began)
	h.record.nodes = len(s)
	for j := range s {
		for i := range j {
			a, b, pair := *h.plightLocked(i), *h.plightLocked(j), [2]int{i, j}
			spans := h.record.spans[pair]
			apart := !slices.Contains(s[i], j) || !slices.Contains(s[j], i)
			near := !apart && !a.gone && !b.gone && !a.paused && !b.paused && a.group == b.group && a.delay+b.delay <= nearness
			open := len(spans) > 0 && spans[len(spans)-1].to == unbound
			switch {
			case near && !open:
				h.record.spans[pair] = append(spans, span{at, unbound, h.apart[pair]})
			case !near && open:
				spans[len(spans)-1].to = at
			}
			h.apart[pair] = apart
		}
	}
}

// verdict checks the record. It returns how many reads break a promise and, of the
// first, what led to it.
func (h *history) verdict() (broken int, text string) {
	h.look()
	h.mu.Lock()
	defer h.mu.Unlock()
	found := h.record.check()
	if len(found) == 0 {
		return 0, ""
	}
	v := found[0]
	return len(found), fmt.Sprintf("promise %d is broken by\n  %v\nafter\n  %v\nThe last of %s:\n%s",
		v.promise, v.read, v.change, v.read.key, h.storyLocked(v.read))
}

// storyLocked returns the last operations on a key up to a read of it: faults,
// changes, and reads where a node's answer was not the one before.
func (h *history) storyLocked(of *read) string {
	lines := slices.Clone(h.events)
	for _, c := range h.record.changes {
		if _, ok := c.floors[of.key]; ok {
			lines = append(lines, event{c.start, c.String()})
		}
	}
	slices.SortFunc(h.record.reads, func(a, b *read) int { return a.start.order - b.start.order })
	last := make(map[int]*read)
	for _, r := range h.record.reads {
		if r.key != of.key {
			continue
		}
		if l := last[r.node]; r == of || l == nil || l.version != r.version || l.set != r.set || l.absent != r.absent {
			lines = append(lines, event{r.start, r.String()})
		}
		last[r.node] = r
	}
	lines = slices.DeleteFunc(lines, func(e event) bool { return e.order > of.start.order })
	slices.SortFunc(lines, func(a, b event) int { return a.order - b.order })
	var text strings.Builder
	for _, e := range lines[max(0, len(lines)-30):] {
		fmt.Fprintf(&text, "  %s\n", e.text)
	}
	return text.String()
}

func TestCheckerKnowsWhatIsPromised(t *testing.T) {
	second := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
	// In these records a call's order is ten times the second it is made at.
	at := func(n float64) stamp { return stamp{int(10 * n), second(n)} }
	all := sight{{0, 1, 2}, {0, 1, 2}, {0, 1, 2}}
	alone := sight{{0}, {1, 2}, {1, 2}}
	line := sight{{0, 1}, {0, 1, 2}, {1, 2}}
	call := func(kind string, from, to float64, sees sight, unfinished ...int) *change {
		return &change{
			kind: kind, floors: map[string]int{"k": 5}, start: at(from), end: at(to),
			sights: [4]sight{sees, sees, sees, sees}, unfinished: unfinished, partial: len(unfinished) > 0,
		}
	}
	set := func(node int, from, to float64, unfinished ...int) *change {
		c := call("Set", from, to, all, unfinished...)
		c.node, c.floors = node, map[string]int{"k": 4}
		return c
	}
	remove := call("Remove", 10, 11, all)
	lost := call("Remove", 10, 11, all)
	lost.lost = true
	impatient := set(1, 8.5, 8.5, 2)
	impatient.impatient = true
	contact := func(i, j int, from, to float64, met bool) map[[2]int][]span {
		return map[[2]int][]span{{i, j}: {{second(from), second(to), met}}}
	}
	for name, c := range map[string]struct {
		change *change
		node   int
		at     float64
		old    int // the version read
		set    *change
		spans  map[[2]int][]span
		want   int // the promise, 0 for none
	}{
		"stale after Remove":                     {remove, 1, 12, 4, nil, nil, 4},
		"stale after Clear":                      {call("Clear", 10, 11, all), 2, 12, 4, nil, nil, 5},
		"stale during Remove":                    {remove, 1, 10.5, 4, nil, nil, 0},
		"fresh":                                  {remove, 1, 12, 5, nil, nil, 0},
		"caller is killed":                       {lost, 0, 12, 4, nil, nil, 0},
		"own after partial":                      {call("Remove", 10, 12, all, 1), 0, 13, 4, nil, nil, 7},
		"unnamed after partial":                  {call("Remove", 10, 12, all, 1), 2, 13, 4, nil, nil, 8},
		"named after partial":                    {call("Remove", 10, 12, all, 1), 1, 60, 4, nil, nil, 0},
		"named in contact":                       {call("Remove", 10, 12, all, 1), 1, 15, 4, nil, contact(0, 1, 0, 20, false), 8},
		"named in contact for less than 3 s":     {call("Remove", 10, 12, all, 1), 1, 30, 4, nil, contact(0, 1, 0, 14, false), 0},
		"named and not yet due":                  {call("Remove", 10, 12, all, 1), 1, 14, 4, nil, contact(0, 1, 0, 20, false), 0},
		"behind one that was not seen":           {call("Remove", 10, 12, line, 1), 2, 13, 4, nil, nil, 0},
		"seen by one that confirmed":             {call("Remove", 10, 11, line), 2, 12, 4, nil, nil, 4},
		"unseen":                                 {call("Remove", 10, 11, alone), 1, 60, 4, nil, nil, 0},
		"unseen, met again":                      {call("Remove", 10, 11, alone), 1, 33, 4, nil, contact(0, 1, 30, 40, true), 9},
		"unseen, met again just now":             {call("Remove", 10, 11, alone), 1, 32, 4, nil, contact(0, 1, 30, 40, true), 0},
		"heard of from another":                  {call("Remove", 10, 12, all, 2), 2, 33, 4, nil, contact(1, 2, 30, 40, true), 8},
		"heard of from another, seen throughout": {call("Remove", 10, 12, all, 2), 2, 21, 4, nil, contact(1, 2, 0, 40, false), 0},
		"heard of from another for long":         {call("Remove", 10, 12, all, 2), 2, 22, 4, nil, contact(1, 2, 0, 40, false), 8},
		"value of a Set that was unfinished":     {remove, 1, 12, 4, set(1, 8, 10.5), nil, 0},
		"value of a Set that had finished":       {remove, 1, 12, 4, set(1, 8, 9), nil, 4},
		"Set unconfirmed there":                  {remove, 2, 12, 4, set(1, 7, 9, 2), nil, 0},
		"Set unconfirmed elsewhere":              {remove, 1, 12, 4, set(1, 7, 9, 2), nil, 4},
		"Set that goes on without its caller":    {remove, 1, 12, 4, impatient, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := &read{node: c.node, key: "k", start: at(c.at), version: c.old, set: c.set}
			r := record{nodes: 3, changes: []*change{c.change}, reads: []*read{got}, spans: c.spans}
			if c.set != nil {
				r.changes = append(r.changes, c.set)
			}
			var promises []int
			for _, v := range r.check() {
				promises = append(promises, v.promise)
			}
			want := []int{c.want}
			if c.want == 0 {
				want = nil
			}
			if d := cmp.Diff(want, promises); d != "" {
				t.Errorf("broken promises (-want +got):\n%s", d)
			}
		})
	}
}
