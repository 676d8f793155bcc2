package main

import (
	"path/filepath"
	"strings"
)

// What is replayed unless the command line says otherwise. The capacities are those
// at which figures for these traces are published.

// A set is a trace of the default set.
type set struct {
	name       string
	files      []string // one after the other
	capacities []int64
	bytes      bool // capacities are bytes, else entries
}

var defaultSets = []set{
	{name: "oltp", files: []string{oltpFile}, capacities: steps},
	{name: "mixed", files: []string{cordaFile, loopFile, cordaFile}, capacities: steps},
	{name: "web07", files: []string{"cache2k-web07.trace.xz"}, capacities: []int64{256, 1024, 4096}},
	{name: "corda", files: []string{cordaFile}, capacities: []int64{512, 1024, 4096}},
	{name: "loop", files: []string{loopFile}, capacities: []int64{250, 500, 750}},
	{name: "adapt_size", files: []string{"adapt_size-request.trace.xz"}, capacities: []int64{3 << 20, 12 << 20, 30 << 20, 90 << 20}, bytes: true},
}

const (
	oltpFile  = "arc-oltp.gz"                 // a database server: N. Megiddo, D. S. Modha, ARC, FAST 2003
	cordaFile = "corda-trace_vaultservice.gz" // a ledger: every key once or twice
	loopFile  = "lirs-loop.trace.gz"          // a loop that few caches hold: S. Jiang, X. Zhang, LIRS, SIGMETRICS 2002
)

// steps are capacities at which what small caches are good at gives way to what
// large ones are.
var steps = []int64{250, 500, 750, 1000, 1250, 1500, 1750, 2000, 8192}

func (s set) spec(dir string) string {
	paths := make([]string, len(s.files))
	for i, file := range s.files {
		paths[i] = filepath.Join(dir, file)
	}
	return strings.Join(paths, "+")
}

// A quarter of a percent, one and five of the keys that a trace has at most.
var syntheticCapacities = []int64{250, 1000, 5000}

const syntheticAccesses = 500_000
