package peercache

import (
	"errors"
	"slices"
	"testing"
)

// The tally of a call by the nodes a, b and c; a is the caller, and known to itself under
// the hash 1.
func newTestTally(removals int, peers ...string) (t *tally, met *[]string) {
	met = new([]string)
	return newTally("a", audience{peers, 1}, removals, func(_ *tally, peer string) { *met = append(*met, peer) }), met
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
	confirm := func(peer string, hash uint64) step { return func(t *tally) { t.confirmed(peer, hash) } }
	join := func(peer string, members ...string) step { return func(t *tally) { t.join(peer, members, 1) } }
	fail := func(peer string) step { return func(t *tally) { t.failed(peer, errSilent) } }
	tests := []struct {
		name     string
		removals int
		peers    []string
		steps    []step
		met      []string
		waiting  []string
	}{
		{name: "nobody else", removals: 1},
		{"all confirm", 1, []string{"b", "c"}, []step{confirm("b", 1), confirm("c", 1)}, nil, nil},
		{"one has not", 1, []string{"b", "c"}, []step{confirm("c", 1)}, nil, []string{"b"}},
		{"one has left", 1, []string{"b", "c"}, []step{confirm("b", 0), confirm("c", 1)}, nil, nil},
		{"one of two parts", 2, []string{"b"}, []step{confirm("b", 1)}, nil, []string{"b"}},
		{"both parts", 2, []string{"b"}, []step{confirm("b", 1), confirm("b", 1)}, nil, nil},
		{"failed, and then confirmed", 1, []string{"b"}, []step{fail("b"), confirm("b", 1)}, nil, nil},
		{"one that nobody waits for", 1, []string{"b"}, []step{confirm("d", 1), fail("d")}, nil, []string{"b"}},
		{"other members", 1, []string{"b"}, []step{confirm("b", 2)}, []string{"b"}, []string{"b"}},
		{"other members, who are told", 1, []string{"b"}, []step{confirm("b", 2), join("b", "a", "b", "d")}, []string{"b"}, []string{"d"}},
		{"and confirm", 1, []string{"b"}, []step{confirm("b", 2), join("b", "d"), confirm("d", 2)}, []string{"b"}, nil},
		{"the same other members are asked for once", 1, []string{"b", "c"}, []step{confirm("b", 2), confirm("c", 2)}, []string{"b"}, []string{"b"}},
		{"each of whom knows more", 1, []string{"b"}, []step{confirm("b", 2), join("b", "d"), confirm("d", 3), join("d", "e", "b")}, []string{"b", "d"}, []string{"e"}},
		{"members whom nobody could be asked for", 1, []string{"b"}, []step{confirm("b", 2), fail("b")}, []string{"b"}, []string{"b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tally, met := newTestTally(tt.removals, tt.peers...)
			for _, s := range tt.steps {
				s(tally)
			}
			if !slices.Equal(*met, tt.met) {
				t.Errorf("members asked for of %v, want %v", *met, tt.met)
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
			if !slices.Equal(waiting, tt.waiting) {
				t.Errorf("waits for %v, want %v", waiting, tt.waiting)
			}
		})
	}
}
