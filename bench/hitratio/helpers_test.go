package main

import (
	"testing"

	"github.com/peercache/peercache/bench/internal/stores"
)

func libraries(t *testing.T, names ...string) []stores.Library {
	t.Helper()
	libs, err := stores.Named(names...)
	if err != nil {
		t.Fatal(err)
	}
	return libs
}
