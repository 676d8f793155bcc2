package peercache

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
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

func TestCircleTellsTheLostWhoHaveAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c circle
		want := func(when string, names ...string) {
			t.Helper()
			got := c.living()
			slices.Sort(got)
			if !slices.Equal(got, urlsOf(names...)) {
				t.Errorf("%s: %v are told though gossip has lost them, want %v", when, got, urlsOf(names...))
			}
		}
		c.turn(urlsOf("a", "b", "c"))
		if c.hear("http://stranger") || !c.hear("http://a") {
			t.Error("a stranger is told, or a member is not")
		}
		want("while all are members")
		c.turn(urlsOf("c"))
		want("one asked before it was lost", "a")
		time.Sleep(2 * time.Second)
		if !c.hear("http://b") {
			t.Error("one that was lost is not told")
		}
		want("another asks", "a", "b")
		time.Sleep(2 * time.Second)
		want("one has asked long ago", "b")
		c.hear("http://b")
		c.turn(urlsOf("b", "c"))
		time.Sleep(contactLife)
		want("all have asked long ago")
		if !c.has("http://b") || c.has("http://a") || !c.knows("http://a") || c.knows("http://stranger") {
			t.Error("it does not tell members, former ones and strangers apart")
		}
	})
}

func TestCircleForgetsWhoWasLostFirst(t *testing.T) {
	var c circle
	for i := range 2 * maxLost {
		c.turn(urlsOf("always", fmt.Sprint("x", i)))
	}
	if n := len(c.met); n != maxLost+2 {
		t.Errorf("%d are known, want two members and %d that were", n, maxLost)
	}
	if !c.has("http://always") || !c.knows(fmt.Sprint("http://x", maxLost)) || c.knows("http://x0") {
		t.Error("it has forgotten a member, or others than those that were lost first")
	}
}

// Who has left need not be told, however lately it has asked.
func TestWhoHasAskedAndLeftIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := newWireless(t)
		c := w.nodes[0].coherent
		c.circle.hear(w.nodes[1].self.url)
		if err := w.nodes[0].SetPeers(w.nodes[0].Self()); err != nil {
			t.Fatal(err)
		}
		if living, told := c.circle.living(), c.audience().peers; len(living) != 1 || len(told) != 0 {
			t.Errorf("%v are told, %v have asked: want nobody, for the one that has asked has left", told, living)
		}
	})
}
