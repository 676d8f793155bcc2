package etcd

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/peercache/peercache"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"
)

var (
	self = peercache.Peer{URL: "http://127.0.0.1:1", Zone: "z", Weight: 2}
	peer = peercache.Peer{URL: "http://127.0.0.1:2", Zone: "", Weight: 1}
	late = peercache.Peer{URL: "http://127.0.0.1:3", Zone: "", Weight: 1}
)

func testRoster() *roster { return newRoster("/p/", self, slog.New(slog.DiscardHandler)) }

// entryOf returns the entry of a peer.
func entryOf(t *testing.T, p peercache.Peer) *mvccpb.KeyValue {
	t.Helper()
	value, err := encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return &mvccpb.KeyValue{Key: []byte(keyOf("/p/", p.URL)), Value: []byte(value)}
}

func wantPeers(t *testing.T, r *roster, now time.Time, want ...peercache.Peer) {
	t.Helper()
	if d := cmp.Diff(want, r.peers(now)); d != "" {
		t.Errorf("peers (-want +got):\n%s", d)
	}
}

func TestRosterWithoutEntriesIsTheNodeItself(t *testing.T) {
	wantPeers(t, testRoster(), time.Now(), self)
}

func TestEntryOfTheNodeItselfSaysNothing(t *testing.T) {
	r := testRoster()
	r.replace([]*mvccpb.KeyValue{entryOf(t, peercache.Peer{URL: self.URL, Zone: "elsewhere", Weight: 99})})
	wantPeers(t, r, time.Now(), self)
}

func TestListReplacesWhatWasKnown(t *testing.T) {
	r := testRoster()
	r.replace([]*mvccpb.KeyValue{entryOf(t, peer)})
	wantPeers(t, r, time.Now(), self, peer)
	r.replace([]*mvccpb.KeyValue{entryOf(t, late)})
	wantPeers(t, r, time.Now(), self, late)
	r.replace(nil)
	wantPeers(t, r, time.Now(), self)
}

func TestHeldPeersStayUntilTheHoldEnds(t *testing.T) {
	r, now := testRoster(), time.Now()
	r.replace([]*mvccpb.KeyValue{entryOf(t, peer)})
	wantPeers(t, r, now, self, peer)

	r.hold(now.Add(time.Second))
	r.replace([]*mvccpb.KeyValue{entryOf(t, late)})
	wantPeers(t, r, now, self, peer, late)
	r.remove(keyOf("/p/", late.URL))
	wantPeers(t, r, now.Add(time.Second-1), self, peer, late)
	wantPeers(t, r, now.Add(time.Second), self)
}

func TestHeldPeerTakesItsNewWeight(t *testing.T) {
	r, now := testRoster(), time.Now()
	r.replace([]*mvccpb.KeyValue{entryOf(t, peer)})
	wantPeers(t, r, now, self, peer)
	r.hold(now.Add(time.Second))
	heavier := peer
	heavier.Weight = 7
	r.replace([]*mvccpb.KeyValue{entryOf(t, heavier)})
	wantPeers(t, r, now, self, heavier)
}

// What is decoded is what a node said of itself, whatever its entry looks like in
// etcd; the rest is an error, and SetPeers takes what is not.
func TestDecodedPeerIsOneThatSetPeersTakes(t *testing.T) {
	for text, want := range map[string]bool{
		`{"url":"http://127.0.0.1:2"}`:                               true,
		`{"url":"http://127.0.0.1:2","zone":"a","weight":100}`:       true,
		`{"url":"https://example.com/app","later":[1]}`:              true,
		`{"url":"http://127.0.0.1:2/"}`:                              false,
		`{"url":"http://127.0.0.1:2","weight":-1}`:                   false,
		`{"url":"http://127.0.0.1:2"}{}`:                             false,
		`{"url":"ftp://127.0.0.1:2"}`:                                false,
		`{"url":"http://0.0.0.0:2"}`:                                 false,
		`{"url":"http://h/` + strings.Repeat("a", 250) + `"}`:        false,
		`["http://127.0.0.1:2"]`:                                     false,
		`{"url":"http://127.0.0.1:2","zone":"` + "\x00\xff" + `"}`:   false,
		`{"url":"http://127.0.0.1:2","zone":"` + "\u00e9" + `"}`:     true,
		`{"url":"http://user:password@127.0.0.1:2"}`:                 false,
		`{"url":"http://127.0.0.1:2","zone":{"a":"b"},"weight":"1"}`: false,
	} {
		var url string
		if _, rest, ok := strings.Cut(text, `"url":"`); ok {
			url, _, _ = strings.Cut(rest, `"`)
		}
		p, err := decode("/p/", keyOf("/p/", url), []byte(text))
		if (err == nil) != want {
			t.Errorf("decode(%s) = %v, %v, want success %t", text, p, err, want)
		}
		if err == nil {
			setPeers(t, p)
		}
	}
}

func TestAnyPeerSurvivesItsEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		url := rapid.StringMatching(`https?://(10\.1\.2\.[1-9]|[a-z]{1,9}\.example)(:(8080|9[0-9]))?(/[A-Za-z0-9_~-]{1,5}){0,2}`).Draw(t, "url")
		zone := rapid.StringN(0, 16, 64).Draw(t, "zone")
		want := peercache.Peer{URL: url, Zone: zone, Weight: rapid.IntRange(1, 100).Draw(t, "weight")}
		value, err := encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode("/p/", keyOf("/p/", url), []byte(value))
		if err != nil || got != want {
			t.Errorf("decode(%s) = %v, %v, want %v", value, got, err, want)
		}
	})
}

func TestNoEntryIsAPeerThatSetPeersRefuses(t *testing.T) {
	urls := rapid.SampledFrom([]string{
		"http://127.0.0.1:2", "http://127.0.0.1:2/", "HTTP://127.0.0.1:2", "http://[::1]:2", "http://127.0.0.1:02", "http://h/a//b", "",
	})
	zones := rapid.OneOf(rapid.String(), rapid.StringN(60, 70, -1))
	decoded := 0
	rapid.Check(t, func(t *rapid.T) {
		url := urls.Draw(t, "url")
		value, err := json.Marshal(map[string]any{
			"url":    url,
			"zone":   zones.Draw(t, "zone"),
			"weight": rapid.IntRange(-2, 102).Draw(t, "weight"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := decode("/p/", keyOf("/p/", url), value); err == nil {
			decoded++
			setPeers(t, p)
		}
	})
	if decoded == 0 {
		t.Error("no entry was a peer, so that this has shown nothing")
	}
}

// setPeers holds a peer against the judge of what a peer is.
func setPeers(t rapid.TB, p peercache.Peer) {
	t.Helper()
	node, err := peercache.NewNode(self.URL, &peercache.NodeOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("NewNode() = %v", err)
	}
	if err := node.SetPeers(node.Self(), p); err != nil {
		t.Fatalf("SetPeers(self, %v) = %v, want nil for what was decoded", p, err)
	}
}

func TestRetriesComeWithinAThirdOfTheTTL(t *testing.T) {
	const ttl = 3 * time.Second
	if d := retryDelay(0, ttl); d != 0 {
		t.Errorf("retryDelay(0) = %v, want 0", d)
	}
	for failures, want := range map[int]time.Duration{1: firstRetry, 2: 2 * firstRetry, 4: 8 * firstRetry, 5: time.Second, 1 << 30: time.Second} {
		for range 100 {
			if d := retryDelay(failures, ttl); d < want/2 || d >= want {
				t.Fatalf("retryDelay(%d) = %v, want %v to %v", failures, d, want/2, want)
			}
		}
	}
}
