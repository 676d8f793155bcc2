package peercache_test

import (
	"context"
	"testing"
	"time"
)

// TestChangeOfTheSecretFailsNoGet restarts three nodes one after the other, three times,
// while each of them gets keys from when it has joined until it has left. After each
// restart all fetch from each other, whatever secrets they have.
func TestChangeOfTheSecretFailsNoGet(t *testing.T) {
	t.Parallel() // it mostly waits
	type running struct {
		*realNode
		stop func() int64 // its load
	}
	start := func(secrets [2][]byte, seeds ...string) running {
		n := newSecret(t, secrets[0], secrets[1])
		if err := n.Join(t.Context(), seeds...); err != nil {
			t.Fatal(err)
		}
		return running{n, load(t, n)}
	}
	var gets, fetches, unanswered int64
	end := func(r running) {
		said, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond) // enough to tell the others
		defer cancel()
		_ = r.Leave(said)
		gets += r.stop()
		r.server.Close()
		s := r.cache.Stats()
		fetches, unanswered = fetches+s.PeerGets, unanswered+s.PeerErrors
	}
	old := [2][]byte{secretA, nil}
	nodes := []running{start(old)}
	for range 2 {
		nodes = append(nodes, start(old, nodes[0].GossipAddr()))
	}
	for _, secrets := range [][2][]byte{{secretA, secretB}, {secretB, secretA}, {secretB, nil}} {
		for range nodes {
			next := start(secrets, nodes[1].GossipAddr(), nodes[2].GossipAddr())
			end(nodes[0])
			nodes = append(nodes[1:], next)
			awaitPeers(t, nodes[0].realNode, nodes[1].realNode, nodes[2].realNode)
			for _, from := range nodes {
				for _, owner := range nodes {
					if from.realNode == owner.realNode {
						continue
					}
					eventually(t, "a node asks the owner for its key", func() bool { // where nobody gets the processor, it may be another first
						key := keyAt(t, from.realNode, owner.realNode)
						wantValue(t, from.cache, key)
						_, held := owner.cache.Peek(key)
						return held
					})
				}
			}
		}
	}
	for _, r := range nodes {
		end(r)
	}
	t.Logf("9 restarts: %d Gets, %d fetches, %d of them answered by another than was asked first", gets, fetches, unanswered)
	if fetches == 0 {
		t.Error("nothing was fetched: the test shows nothing")
	}
}
