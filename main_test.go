package peercache_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain runs the tests, or what the environment says instead, and then looks for goroutines that were left behind.
func TestMain(m *testing.M) {
	if run := children[os.Getenv(childKind)]; run != nil {
		run()
		return
	}
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen { // tests that run beside others mostly wait
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if err := leaks(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// leaks waits for goroutines to end: memberlist's, and those of connections, do so
// a few seconds after what they belonged to was stopped.
func leaks() error {
	var err error
	for range 30 {
		if err = goleak.Find(); err == nil {
			return nil
		}
	}
	return err
}
