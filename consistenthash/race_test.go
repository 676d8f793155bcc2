//go:build race

package consistenthash_test

// underRace makes tests that repeat the same work on other nodes do so less
// often: the race detector slows them tenfold, and finds no more in more sets.
const underRace = true
