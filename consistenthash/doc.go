// Package consistenthash assigns keys to nodes so that every process which
// knows the same nodes computes the same assignment, without talking.
//
// # Slots
//
// The space of hashes is cut into [Slots] equal slots; the slot of a key is
// the top 16 bits of its hash. A [Table] gives each slot a list of owners: the
// first one is in charge, the next ones are where replicas live and who acts
// when those before are dead. Finding the owner of a key is a hash, a shift
// and a load, whatever the number of nodes, and work such as moving entries is
// done slot by slot, never key by key.
//
// # Who owns a slot
//
// Each slot ranks all nodes by rendezvous hashing (Thaler and Ravishankar,
// "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on
// Networking 6(1), 1998): the hashes of slot and node together give a score,
// and the best score wins. A node that leaves therefore loses its slots to
// the second best of each, spread over all others, and gets exactly those
// back when it returns. A weight scales the score: with u uniform in (0, 1),
// -log(u)/weight is an exponential waiting time, and the node that waits least
// wins in proportion to its weight (the weighted sampling of Efraimidis and
// Spirakis, Information Processing Letters 97(5), 2006; Schindelhauer and
// Schomaker use it for hashing, SPAA 2005). The logarithm is computed in
// integers, because two machines must not differ in its last bit.
//
// Chance alone would leave the busiest of 100 nodes 10 % above its share, and
// that of 1,000 nodes 40 %. So a node takes no more than 1.05 times its fair
// share, or 1.15 times where that is below 256 slots. Slots propose to nodes
// in the order of their ranking and a full node keeps the best (the deferred
// acceptance of Gale and Shapley, "College Admissions and the Stability of
// Marriage", American Mathematical Monthly 69(1), 1962); the outcome does not
// depend on the order of proposals. The caps seldom bind with up to 30 nodes
// of equal weight: nothing but the minimum moves there. With more, somewhat
// more than the minimum does.
//
// # What was not taken
//
// A ring of points needs some 4,000 points a node to come within 5 % of
// fair, which is millions of points to search, and a dead node's keys fall on
// few neighbours. Maglev's table is flat but moves keys between nodes that
// stayed, and has no natural second owner. Jump hashing lets only the last
// node leave. Schemes whose state depends on the order of past joins and
// leaves cannot be used by processes that have seen different histories.
//
// # Part of the protocol
//
// Every constant here (the number of slots, the hash and its seeds, the mixing
// function, the logarithm, the caps, the limits of weights and nodes) is part
// of the protocol: processes which differ in one disagree about owners.
// Golden vectors in the tests hold them; [Table.Digest] shows a difference at
// run time.
package consistenthash
