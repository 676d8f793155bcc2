package etcd

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/peercache/peercache"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// What the entries in etcd say, and which peers follow from them. Nothing here talks
// to etcd.

// An entry is a node as it stands in etcd, in JSON. Readers skip fields that they do
// not know.
type entry struct {
	URL    string `json:"url"`
	Zone   string `json:"zone,omitempty"`
	Weight int    `json:"weight,omitempty"`
}

// keyOf returns the key of the node at this URL. An escaped URL has no slash, so that
// what lies deeper under the prefix can belong to others.
func keyOf(prefix, nodeURL string) string { return prefix + url.PathEscape(nodeURL) }

func encode(p peercache.Peer) (string, error) {
	value, err := json.Marshal(entry(p))
	return string(value), err
}

// decode returns the peer of an entry, or why it cannot be one.
func decode(prefix, key string, value []byte) (peercache.Peer, error) {
	var e entry
	if err := json.Unmarshal(value, &e); err != nil {
		return peercache.Peer{}, err
	}
	if want := keyOf(prefix, e.URL); key != want {
		return peercache.Peer{}, fmt.Errorf("its URL belongs under %s", want)
	}
	// One bad peer would make SetPeers refuse the list. To make a node of it costs
	// a millisecond, once for each new value, and checks by the very same rules.
	node, err := peercache.NewNode(e.URL, &peercache.NodeOptions{Zone: e.Zone, Weight: e.Weight, Insecure: true})
	if err != nil {
		return peercache.Peer{}, err
	}
	p := node.Self()
	if p.URL != e.URL { // two spellings of one address would be a peer listed twice
		return peercache.Peer{}, errors.New("its URL is not spelled as a node spells its own")
	}
	return p, nil
}

// A roster is what is known of the entries. It is not safe for concurrent use.
type roster struct {
	prefix string
	self   peercache.Peer
	ownKey string
	logger *slog.Logger

	known     map[string]known // by key; without the node's own
	published map[string]peercache.Peer
	holdUntil time.Time // until then no peer is dropped
}

// A known entry has the value last seen and the peer of the last value that was well
// formed; its URL is "" if none was.
type known struct {
	value string
	peer  peercache.Peer
}

func newRoster(prefix string, self peercache.Peer, logger *slog.Logger) *roster {
	return &roster{
		prefix: prefix,
		self:   self,
		ownKey: keyOf(prefix, self.URL),
		logger: logger,
		known:  make(map[string]known),
	}
}

// replace makes a full list of entries what is known.
func (r *roster) replace(list []*mvccpb.KeyValue) {
	listed := make(map[string]bool, len(list))
	for _, kv := range list {
		listed[string(kv.Key)] = true
		r.put(string(kv.Key), kv.Value)
	}
	maps.DeleteFunc(r.known, func(key string, _ known) bool { return !listed[key] })
}

// put takes in one entry. A malformed value leaves the peer of the one before, for
// whoever wrote it there was not the node.
func (r *roster) put(key string, value []byte) {
	if key == r.ownKey || strings.Contains(key[len(r.prefix):], "/") {
		return
	}
	k, seen := r.known[key]
	if seen && k.value == string(value) {
		return
	}
	k.value = string(value)
	if p, err := decode(r.prefix, key, value); err != nil {
		r.logger.Warn("peercache: etcd: ignoring a malformed entry", "entry", key, "err", err)
	} else {
		k.peer = p
	}
	r.known[key] = k
}

func (r *roster) remove(key string) { delete(r.known, key) }

// hold makes peers stay until then, whatever becomes of their entries.
func (r *roster) hold(until time.Time) { r.holdUntil = until }

// peers returns the list to publish, and takes it as published.
func (r *roster) peers(now time.Time) []peercache.Peer {
	next := make(map[string]peercache.Peer, len(r.known)+1)
	if now.Before(r.holdUntil) {
		maps.Copy(next, r.published)
	}
	for _, k := range r.known {
		if k.peer.URL != "" {
			next[k.peer.URL] = k.peer
		}
	}
	next[r.self.URL] = r.self
	r.published = next
	return slices.SortedFunc(maps.Values(next), func(a, b peercache.Peer) int { return cmp.Compare(a.URL, b.URL) })
}
