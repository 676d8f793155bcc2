//go:build !race

package consistenthash_test

// underRace is set when the race detector is at work.
const underRace = false
