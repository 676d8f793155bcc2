package peercache

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// The ledger by itself: what it says after what it was told.

// mine and others are processes of these tests.
const mine, other, third = 1, 2, 3

func newTestLedger() *ledger { return newLedger(mine, func(string) *engine { return nil }) }

// removalOf is a removal of a key by another process.
func removalOf(boot, seq uint64) *removal {
	return &removal{id: id{boot, seq}, cache: "c", keys: []string{fmt.Sprint("k", seq)}, at: now()}
}

func applyAll(l *ledger, boot uint64, seqs ...uint64) {
	for _, seq := range seqs {
		l.apply(removalOf(boot, seq))
	}
}

// hear has a ledger take an answer as it travels.
func (l *ledger) hear(t *testing.T, w *wire.Synced) (lost []run, more bool) {
	t.Helper()
	s, err := syncedOf(w)
	if err != nil {
		t.Fatal(err)
	}
	return l.take(s)
}

func nobodyLives(uint64) bool { return false }

func TestLedgerKnowsTheUnbrokenRunAndWhatIsBeyond(t *testing.T) {
	tests := []struct {
		name   string
		seqs   []uint64
		upTo   uint64
		has    []uint64
		hasNot []uint64
	}{
		{"in order", []uint64{1, 2, 3}, 3, []uint64{1, 3}, []uint64{4}},
		{"out of order", []uint64{3, 1, 2}, 3, []uint64{1, 2, 3}, []uint64{4}},
		{"with a gap", []uint64{1, 2, 4, 5}, 2, []uint64{2, 4, 5}, []uint64{3, 6}},
		{"again", []uint64{1, 1, 3, 3, 2, 2}, 3, []uint64{3}, []uint64{4}},
		{"the highest there is", []uint64{1, math.MaxUint64}, 1, []uint64{1, math.MaxUint64}, []uint64{2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newTestLedger()
			applyAll(l, other, tt.seqs...)
			if got := l.applied().of(other); got != tt.upTo {
				t.Errorf("applied up to %d, want %d", got, tt.upTo)
			}
			for _, seq := range tt.has {
				if !l.has(id{other, seq}) {
					t.Errorf("has(%d) = false, want true", seq)
				}
			}
			for _, seq := range tt.hasNot {
				if l.has(id{other, seq}) {
					t.Errorf("has(%d) = true, want false", seq)
				}
			}
		})
	}
}

// A record may have any number. To look for the end of the gap before it one by one, with
// the mutex held, would stop the process.
func TestGapOfAnyLengthIsFoundAndPassedOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLedger()
		applyAll(l, other, 1, 1<<60, 1<<61)
		time.Sleep(gapPatience)
		want := []run{{other, 2, 1<<60 - 1}}
		got := l.gaps(nobodyLives)
		if !slices.Equal(got, want) {
			t.Fatalf("gaps = %v, want %v", got, want)
		}
		l.passOver(got)
		if got := l.applied().of(other); got != 1<<60 {
			t.Errorf("applied up to %d after the gap was passed over, want %d", got, uint64(1<<60))
		}
		if s := l.answer(nil, false); idsOf(s.GetThrough()).of(other) != 1<<60 || len(s.GetRecords()) != 3 {
			t.Errorf("the answer to one who knows nothing goes through %v with %d records, want through %d with 3, one of them early", s.GetThrough(), len(s.GetRecords()), uint64(1<<60))
		}
	})
}

// What came early is spoken of only once the gap before it is passed over. By then it may
// have come a minute ago, and nobody else would ask.
func TestWhoPassesOverAGapComparesItselfAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLedger()
		l.found()
		applyAll(l, other, 2)
		time.Sleep(idsLife + time.Second)
		l.passOver(l.gaps(nobodyLives))
		if !l.stirred() {
			t.Error("not stirred after a gap was passed over, and nobody hears what came behind it")
		}
		time.Sleep(idsLife + time.Second)
		if l.stirred() {
			t.Error("stirred a minute later still")
		}
	})
}

func TestGapOfAProcessThatLivesIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLedger()
		applyAll(l, other, 1, 3)
		if got := l.gaps(nobodyLives); got != nil {
			t.Errorf("gaps at once = %v, want none", got)
		}
		time.Sleep(time.Hour)
		if got := l.gaps(func(boot uint64) bool { return boot == other }); len(got) != 0 {
			t.Errorf("gaps of a process that lives = %v, want none", got)
		}
	})
}

// The interleaving:
//
//  1. P draws an id and removes k, and fetches k from Q, which learns of the id as what
//     the key needs.
//  2. P dies before it has told anybody of the id itself.
//  3. A minute later Q does not remember the id with k any more. From then on it asks
//     only peers that have applied it, and nobody ever will.
func TestIDOfADeadProcessThatNobodyHasIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, r := newTestLedger(), newTestLedger()
		applyAll(q, other, 1)
		applyAll(r, other, 1)
		time.Sleep(idsLife)
		q.age(ids{{other, 2}})
		if aged, _ := q.aged(); r.covers(aged) {
			t.Fatal("a peer that has not applied the id is not behind")
		}
		time.Sleep(gapPatience)
		want := []run{{other, 2, 2}}
		got := q.gaps(nobodyLives)
		if !slices.Equal(got, want) {
			t.Fatalf("gaps = %v, want %v", got, want)
		}
		q.passOver(got)
		if !q.covers(ids{{other, 2}}) {
			t.Error("what was passed over is not taken for applied")
		}
		r.hear(t, q.answer(r.applied(), false))
		if aged, _ := q.aged(); !r.covers(aged) {
			t.Error("a peer that has compared itself is behind still, and will be for ever")
		}
	})
}

func TestLedgersThatAreComparedAgree(t *testing.T) {
	a, b := newTestLedger(), newTestLedger()
	applyAll(a, other, 1, 2, 3, 5)
	applyAll(b, third, 1, 2)
	a.hear(t, b.answer(a.applied(), false))
	b.hear(t, a.answer(b.applied(), false))
	for name, l := range map[string]*ledger{"a": a, "b": b} {
		if got := l.applied(); got.of(other) != 3 || got.of(third) != 2 {
			t.Errorf("%s has applied %v, want 3 of %d and 2 of %d", name, got, other, third)
		}
	}
}

// A peer that repeats itself for ever must not be asked for ever.
func TestAnswerThatBringsNothingNewIsNoReasonToAskOn(t *testing.T) {
	l := newTestLedger()
	forged := &wire.Synced{
		Applied: ids{{other, 100}}.toWire(),
		Records: []*wire.Record{removalOf(other, 50).toWire()},
	}
	if _, more := l.hear(t, forged); !more {
		t.Error("the first answer brought a record and promised more, and is not followed up")
	}
	if _, more := l.hear(t, forged); more {
		t.Error("the same answer again is followed up")
	}
}

func TestNumbersOfAPeerAreTakenAsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, n := range []uint64{1, 1 << 20, math.MaxUint64 - 1, math.MaxUint64} {
			l := newTestLedger()
			l.hear(t, &wire.Synced{
				Applied: ids{{other, n}}.toWire(),
				Through: ids{{other, n}, {mine, n}}.toWire(),
				Gone:    []*wire.Range{{Boot: third, First: 1, Last: n}, {Boot: mine, First: 1, Last: n}, {Boot: other, First: n, Last: 1}},
			})
			l.giveUp([]run{{third, 1, n}}, func() {})
			applyAll(l, other, n)
			applyAll(l, third, n, 7)
			l.answer(nil, false)
			l.answer(nil, true)
			time.Sleep(time.Minute)
			l.passOver(l.gaps(nobodyLives))
			if got := l.applied().of(mine); got != 0 {
				t.Errorf("%d: a peer says that this process has drawn %d", n, got)
			}
		}
	})
}

func TestNewProcessBeginsWhereAPeerSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newTestLedger()
		applyAll(old, other, 1, 2)
		time.Sleep(idsLife + time.Second)
		applyAll(old, other, 3)
		l := newTestLedger()
		dropped := 0
		l.adopt(idsOf(old.answer(nil, true).GetBegin()), func() { dropped++ })
		if dropped != 1 {
			t.Errorf("what may be older than what is taken for applied was dropped %d times, want once", dropped)
		}
		if got := l.applied().of(other); got != 2 {
			t.Errorf("it begins at %d, want 2", got)
		}
		if _, more := l.hear(t, old.answer(l.applied(), false)); more || !l.has(id{other, 3}) {
			t.Errorf("more = %v, has(3) = %v, want the last minute", more, l.has(id{other, 3}))
		}
		time.Sleep(time.Hour)
		late := newTestLedger()
		time.Sleep(idsLife)
		late.adopt(ids{{other, 3}}, func() {
			dropped++
			if late.covers(ids{{other, 3}}) {
				t.Error("it says that it has applied what it has not dropped for yet")
			}
			if aged, _ := late.aged(); aged.of(other) != 3 {
				t.Error("what starts while it drops may be fetched from a peer that is behind")
			}
		})
		if dropped != 2 || !late.covers(ids{{other, 3}}) {
			t.Errorf("dropped %d times, want once more, and then it has what it was told of", dropped-1)
		}
		first := newTestLedger()
		if first.adopt(nil, func() { dropped++ }); dropped != 2 || first.isFresh() {
			t.Error("where nothing was ever removed nothing is to be dropped")
		}
	})
}

// A cache that is new learns of the last minute from the log. What the log has lost of
// that, peers must have applied to be asked.
func TestNewCacheTrustsOnlyPeersThatHaveWhatTheLogHasLost(t *testing.T) {
	l := newTestLedger()
	const n = maxRecords + 10
	for seq := range uint64(n) {
		applyAll(l, other, seq+1)
	}
	if got := len(l.since("c", 0)); got == n || got == 0 {
		t.Fatalf("the log has %d of %d records, want it to have overflowed", got, n)
	}
	if aged, _ := l.aged(); aged.of(other) < n-maxRecords {
		t.Errorf("peers must have applied up to %d, want at least %d", aged.of(other), n-maxRecords)
	}
}

func TestLogIsBounded(t *testing.T) {
	l := newTestLedger()
	keys := make([]string, wire.MaxKeys)
	for i := range keys {
		keys[i] = fmt.Sprintf("%01024d", i)
	}
	for seq := range uint64(30) {
		l.apply(&removal{id: id{other, seq + 1}, cache: "c", keys: keys, at: now()})
	}
	if records, bytes := l.sizes(); bytes > maxLogBytes || records == 0 {
		t.Errorf("the log has %d bytes in %d records, want at most %d", bytes, records, maxLogBytes)
	}
	s := l.answer(ids{{other, 1}}, false)
	if len(s.GetGone()) != 1 || s.GetGone()[0].GetFirst() != 2 {
		t.Errorf("gone = %v, want what was overwritten from 2 on", s.GetGone())
	}
	if size := len(s.GetRecords()) * l.log[l.gone].size(); size > maxSyncBytes || size == 0 {
		t.Errorf("the answer has about %d bytes of records, want at most %d", size, maxSyncBytes)
	}
}

func TestEarlyOnesAreBounded(t *testing.T) {
	l := newTestLedger()
	for seq := range uint64(2 * maxEarly) {
		l.mu.Lock()
		l.markLocked(id{other, 2 * (seq + 1)})
		l.mu.Unlock()
	}
	if p := l.boots[other]; len(p.early) > maxEarly {
		t.Errorf("%d early ones, want at most %d", len(p.early), maxEarly)
	}
}

func TestNumbersPassedOverAreStillApplied(t *testing.T) {
	l := newTestLedger()
	l.hear(t, &wire.Synced{Applied: ids{{other, 5}}.toWire(), Through: ids{{other, 5}}.toWire()})
	if l.has(id{other, 4}) || l.applied().of(other) != 5 {
		t.Errorf("has(4) = %v, applied up to %d: want it passed over", l.has(id{other, 4}), l.applied().of(other))
	}
	applyAll(l, other, 4)
	if !l.has(id{other, 4}) {
		t.Error("what comes after all is not applied")
	}
}

// Where more processes have drawn ids than are told apart, no two ledgers need have kept
// the same ones. What the one speaks of and the other does not is no reason to drop
// everything, which each would have every second.
func TestLedgersOfMoreProcessesThanAreToldApartAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const boots = maxBoots + 500
		a, b := newTestLedger(), newTestLedger()
		for i := range uint64(boots) {
			applyAll(a, 1000+i, 1, 2)
			applyAll(b, 1000+boots-1-i, 1, 2)
		}
		time.Sleep(2 * idsLife)
		fresh := newTestLedger()
		fresh.adopt(idsOf(a.answer(nil, true).GetBegin()), func() {})
		for _, l := range []*ledger{a, b} { // what the log held is lost
			l.mu.Lock()
			for _, p := range l.boots {
				p.evicted = p.upTo
				clear(p.records)
			}
			l.log, l.gone = nil, 0
			l.mu.Unlock()
		}
		ledgers := map[string]*ledger{"a": a, "b": b, "one that is new": fresh}
		for name, l := range ledgers {
			for _, from := range ledgers {
				lost, more := l.hear(t, from.answer(l.applied(), false))
				if len(lost) > 0 || more {
					t.Errorf("%s takes %d runs for lost and asks for more = %v, want neither", name, len(lost), more)
				}
				if !l.covers(from.applied()) {
					t.Errorf("%s does not know what it has applied", name)
				}
			}
			if n := len(l.boots); n > maxBoots {
				t.Errorf("%s tells %d processes apart, want at most %d", name, n, maxBoots)
			}
			applyAll(l, 1000, 3) // one that was heard of long ago, in a and fresh
			if got := l.applied().of(1000); got != 3 {
				t.Errorf("%s has applied up to %d of a process that is back, want 3", name, got)
			}
		}
	})
}

func TestPastIsBounded(t *testing.T) {
	l := newTestLedger()
	for boot := range uint64(maxPast + 10) {
		l.pastLocked(boot, 1)
		l.pastLocked(boot, 2)
	}
	if len(l.past) > maxPast || len(l.order) > maxPast {
		t.Errorf("%d of the past, %d in order, want at most %d", len(l.past), len(l.order), maxPast)
	}
}
