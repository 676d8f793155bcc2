// The local example is a cache in one process: no cluster, no network, nothing
// to close. Ten goroutines ask for the same slow value at the same time, and it
// is made once.
//
//	go run ./examples/local
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var queries atomic.Int32
	greeting := func(ctx context.Context, name string) (string, error) {
		queries.Add(1)
		return slowGreeting(ctx, name)
	}

	// All there is to it: a name, how long values live, how they are made.
	greetings := peercache.New("greetings", peercache.TTL(time.Minute, greeting), nil)

	began := time.Now()
	answers := make([]string, 10)
	errs := make([]error, len(answers))
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i], errs[i] = greetings.Get(ctx, "gopher") })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("caller %d: %w", i, err)
		}
	}
	fmt.Printf("%d callers got %q after %v\n", len(answers), answers[0], time.Since(began).Round(time.Millisecond))

	began = time.Now()
	if _, err := greetings.Get(ctx, "gopher"); err != nil {
		return err
	}
	fmt.Printf("one more got it after %v\n", time.Since(began))

	s := greetings.Stats()
	fmt.Printf("%d gets, %d slow query; the cache holds %d entry in %d bytes\n",
		s.Gets, queries.Load(), s.Entries, s.Bytes)
	return nil
}

// slowGreeting stands for a database: 200 ms for one answer.
func slowGreeting(ctx context.Context, name string) (string, error) {
	select {
	case <-time.After(200 * time.Millisecond):
		return "hello, " + name, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
