//go:build race

package peercache

// Race reports whether the race detector is on, under which memory is another matter.
const Race = true
