package consul

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"

	"github.com/hashicorp/consul/api"
	"github.com/peercache/peercache"
)

// How a node is written into the meta data of an instance, and read out of it. The
// instance's address and port repeat what the URL says, for people and for DNS.

const (
	metaURL    = "url"
	metaZone   = "zone"
	metaWeight = "weight"
)

func metaOf(p peercache.Peer) map[string]string {
	return map[string]string{metaURL: p.URL, metaZone: p.Zone, metaWeight: strconv.Itoa(p.Weight)}
}

// A claim is what an instance says of its node.
type claim struct{ id, url, zone, weight string }

// instances turns answers of Consul into peers, and remembers what it made of the last
// answer, so that each claim is judged, and complained about, once while it is listed.
type instances struct {
	logger *slog.Logger
	judged map[claim]verdict
}

type verdict struct {
	peer peercache.Peer
	err  error
}

// peers returns the nodes listed, by URL. An URL that several instances claim, as after a
// process has moved to another agent, is the one's that registered last, so that all
// processes decide alike.
func (in *instances) peers(entries []*api.ServiceEntry) map[string]peercache.Peer {
	judged := make(map[claim]verdict, len(entries))
	peers := make(map[string]peercache.Peer, len(entries))
	latest := make(map[string]*api.AgentService, len(entries))
	for _, entry := range entries {
		if entry == nil || entry.Service == nil {
			continue
		}
		s := entry.Service
		c := claim{s.ID, s.Meta[metaURL], s.Meta[metaZone], s.Meta[metaWeight]}
		v, known := in.judged[c]
		if !known {
			if v.peer, v.err = c.peer(); v.err != nil {
				in.logger.Warn("peercache: consul: an instance of the service is no node; leaving it out",
					"instance", s.ID, "address", s.Address, "err", v.err)
			}
		}
		judged[c] = v
		if v.err != nil {
			continue
		}
		if other := latest[v.peer.URL]; other != nil &&
			cmp.Or(cmp.Compare(s.ModifyIndex, other.ModifyIndex), cmp.Compare(s.ID, other.ID)) < 0 {
			continue
		}
		latest[v.peer.URL], peers[v.peer.URL] = s, v.peer
	}
	in.judged = judged
	return peers
}

// peer is what SetPeers will take. A claim that it refuses must not be in its list, or
// the whole list is refused; so the judge is the same code, by way of a node that is made
// and dropped. That costs under a millisecond, once for an instance.
func (c claim) peer() (peercache.Peer, error) {
	u, err := url.Parse(c.url)
	if err != nil {
		return peercache.Peer{}, err
	}
	if u.Hostname() == "" { // which NewNode takes for this machine
		return peercache.Peer{}, fmt.Errorf("peercache: its meta data has no URL with a host: %q", c.url)
	}
	weight := 1
	if c.weight != "" {
		if weight, err = strconv.Atoi(c.weight); err != nil {
			return peercache.Peer{}, fmt.Errorf("peercache: its weight: %w", err)
		}
	}
	node, err := peercache.NewNode(c.url, &peercache.NodeOptions{Insecure: true, Zone: c.zone, Weight: weight})
	if err != nil {
		return peercache.Peer{}, err
	}
	return node.Self(), nil
}
