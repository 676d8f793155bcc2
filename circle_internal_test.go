package peercache

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

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
