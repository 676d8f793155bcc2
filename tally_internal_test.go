package peercache

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// newTestTally returns the tally of a call by the node a that knows others, and who is told
// of it beside them.
func newTestTally(removals int, peers ...string) (t *tally, more *[]string) {
	more = new([]string)
	t = newTally("http://a", audience{urlsOf(peers...), 1}, removals)
	t.more = func(peers []string) { *more = append(*more, peers...) }
	return t, more
}

func urlsOf(names ...string) (urls []string) {
	for _, name := range names {
		urls = append(urls, "http://"+name)
	}
	return urls
}

func (t *tally) isDone() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

func TestTally(t *testing.T) {
	type step func(t *tally)
	confirm := func(peer string) step { return func(t *tally) { t.confirmed("http://"+peer, audience{hash: 1}) } }
	knows := func(peer string, members ...string) step {
		return func(t *tally) { t.confirmed("http://"+peer, audience{peers: urlsOf(members...)}) }
	}
	left := func(peer string) step { return func(t *tally) { t.confirmed("http://"+peer, audience{}) } }
	fail := func(peer string) step { return func(t *tally) { t.failed("http://"+peer, errSilent) } }
	many := make([]string, 2*maxMembers)
	for i := range many {
		many[i] = fmt.Sprint("x", i)
	}
	tests := []struct {
		name     string
		removals int
		peers    []string
		steps    []step
		more     []string
		waiting  []string
	}{
		{name: "nobody else", removals: 1},
		{"all confirm", 1, []string{"b", "c"}, []step{confirm("b"), confirm("c")}, nil, nil},
		{"one has not", 1, []string{"b", "c"}, []step{confirm("c")}, nil, []string{"b"}},
		{"one has left", 1, []string{"b", "c"}, []step{left("b"), confirm("c")}, nil, nil},
		{"one of two parts", 2, []string{"b"}, []step{confirm("b")}, nil, []string{"b"}},
		{"both parts", 2, []string{"b"}, []step{confirm("b"), confirm("b")}, nil, nil},
		{"failed, and then confirmed", 1, []string{"b"}, []step{fail("b"), confirm("b")}, nil, nil},
		{"one that nobody waits for", 1, []string{"b"}, []step{confirm("d"), fail("d")}, nil, []string{"b"}},
		{"other members", 1, []string{"b"}, []step{knows("b", "a", "b", "d")}, []string{"d"}, []string{"d"}},
		{"who confirm", 1, []string{"b"}, []step{knows("b", "d"), confirm("d")}, []string{"d"}, nil},
		{"of whom some have confirmed", 1, []string{"b", "c"}, []step{confirm("c"), knows("b", "c", "d")}, []string{"d"}, []string{"d"}},
		{"the same others are told once", 1, []string{"b", "c"}, []step{knows("b", "d"), knows("c", "d")}, []string{"d"}, []string{"d"}},
		{"each of whom knows more", 1, []string{"b"}, []step{knows("b", "d"), knows("d", "e", "b")}, []string{"d", "e"}, []string{"e"}},
		{"what is no URL of a member", 1, []string{"b"}, []step{knows("b", "d/", "")}, nil, nil},
		{"too many", 1, []string{"b"}, []step{knows("b", many...)}, many[:maxMembers], many[:maxMembers]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tally, more := newTestTally(tt.removals, tt.peers...)
			for _, s := range tt.steps {
				s(tally)
			}
			if !slices.Equal(*more, urlsOf(tt.more...)) {
				t.Errorf("%v are told too, want %v", *more, tt.more)
			}
			err := tally.result(errUntold)
			if len(tt.waiting) == 0 {
				if err != nil || !tally.isDone() {
					t.Errorf("result = %v, done = %v, want nil and done", err, tally.isDone())
				}
				return
			}
			partial, ok := errors.AsType[*PartialError](err)
			if !ok || tally.isDone() {
				t.Fatalf("result = %v, done = %v, want a *PartialError", err, tally.isDone())
			}
			var waiting []string
			for peer, err := range partial.Peers {
				waiting = append(waiting, peer)
				if err == nil {
					t.Errorf("no error for %s", peer)
				}
			}
			slices.Sort(waiting)
			want := urlsOf(tt.waiting...)
			slices.Sort(want)
			if !slices.Equal(waiting, want) {
				t.Errorf("waits for %v, want %v", waiting, want)
			}
		})
	}
}
