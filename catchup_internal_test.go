package peercache

import (
	"fmt"
	"testing"

	"github.com/peercache/peercache/internal/wire"
)

func TestLargestAnswerToWhatWasMissedIsTaken(t *testing.T) {
	none := func(string) *engine { return nil }
	knows, missed := newLedger(1, none), newLedger(2, none)
	missed.found()
	const lost = 5
	for boot := range uint64(maxBoots) {
		knows.progressLocked(boot + 10).skipTo(lost)
		knows.progressLocked(boot + 10).evicted = lost
		for seq := range uint64(8) {
			r := &removal{id: id{boot + 10, lost + 1 + seq}, cache: "c", at: now()}
			for k := range boot % 4 {
				r.keys = append(r.keys, fmt.Sprint("key-", k))
			}
			knows.apply(r)
		}
	}
	asked := 0
	for more := true; more; asked++ {
		frame, err := wire.AppendFrame(nil, &wire.Response{Synced: knows.answer(missed.applied(), false)})
		if err != nil {
			t.Fatal(err)
		}
		var resp wire.Response
		if err := wire.Unmarshal(frame[frameHead(frame):], &resp); err != nil {
			t.Fatalf("answer %d: %v", asked, err)
		}
		var gone []run
		if gone, more = missed.hear(t, resp.GetSynced()); len(gone) > 0 {
			missed.giveUp(gone, func() {})
		}
	}
	if !missed.covers(knows.applied()) {
		t.Errorf("after %d answers something is missing still", asked)
	}
	t.Logf("%d answers", asked)
}

// frameHead is the length of the varint that begins a frame.
func frameHead(frame []byte) int {
	n := 1
	for frame[n-1] >= 0x80 {
		n++
	}
	return n
}
