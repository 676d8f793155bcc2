package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A burst asks a client to run for so long.
type burst struct {
	Time time.Duration
}

// A sample is what a burst has measured.
type sample struct {
	Gets    int64   // that succeeded
	Seconds float64 // that they took, all together
	Latency histogram
	Failed  int64
	Error   string  // of one that failed
	CPU     float64 // seconds of both processes, 0 where the system does not tell; the parent counts them
}

func (s sample) rate() float64 { return float64(s.Gets) / s.Seconds }

// keySize is the length of all keys, in bytes.
const keySize = 20

func newKey(i int) string { return fmt.Sprintf("user:%0*d", keySize-len("user:"), i) }

// fill returns keys that the server owns, after it has been given their values and
// has given them back.
func (j job) fill(ctx context.Context, c *client) ([]string, error) {
	keys := make([]string, 0, j.Keys)
	value := j.newValue()
	for i := 0; len(keys) < j.Keys; i++ {
		key := newKey(i)
		if c.owns != nil && !c.owns(key) {
			// Of two nodes each owns half of the keys. This many in vain, and the
			// server is no node of the ring.
			if i > 100*j.Keys {
				return nil, errors.New("the server owns no keys")
			}
			continue
		}
		if c.put != nil {
			if err := c.put(ctx, key, value); err != nil {
				return nil, err
			}
		}
		if err := j.first(ctx, c, key); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// first gets a key for the first time. On a machine that has other work, processes that
// have just started are late now and then, and some alternatives do not wait for long.
func (j job) first(ctx context.Context, c *client, key string) (err error) {
	for range 3 {
		if err = j.check(c.get(ctx, key)); err == nil {
			break
		}
	}
	return err
}

// check says what is wrong with what a Get has returned.
func (j job) check(size int, err error) error {
	if err == nil && size != j.Size {
		return fmt.Errorf("a value of %d bytes instead of %d", size, j.Size)
	}
	return err
}

// A caller is what one of the goroutines that ask has seen.
type caller struct {
	gets, failed int64
	err          error // of the last that failed
	latency      histogram
}

// run has all callers ask for the keys until the time is over.
func (b burst) run(ctx context.Context, j job, c *client, keys []string) sample {
	// A request of a service has a context that can end. To wait for that too costs
	// something in all libraries.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var over atomic.Bool
	defer time.AfterFunc(b.Time, func() { over.Store(true) }).Stop()

	begin := time.Now()
	callers := make([]caller, j.Callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { callers[i].run(ctx, j, c, keys, i, &over) })
	}
	wg.Wait()

	s := sample{Seconds: time.Since(begin).Seconds()}
	for i := range callers {
		s.Gets += callers[i].gets
		s.Failed += callers[i].failed
		s.Latency.merge(callers[i].latency)
		if err := callers[i].err; err != nil {
			s.Error = err.Error()
		}
	}
	return s
}

// run asks for every key whose index is i modulo the number of callers, again and
// again.
func (c *caller) run(ctx context.Context, j job, from *client, keys []string, i int, over *atomic.Bool) {
	// Reading the clock takes up to 70 ns, a tenth of the fastest Get. Of many callers
	// one Get in eight tells enough.
	timed := int64(min(j.Callers, 8))
	for at := i; !over.Load(); at += j.Callers {
		if at >= len(keys) {
			at = i
		}
		var err error
		if (c.gets+c.failed)%timed == 0 {
			begin := time.Now()
			err = j.check(from.get(ctx, keys[at]))
			c.latency.add(time.Since(begin))
		} else {
			err = j.check(from.get(ctx, keys[at]))
		}
		if err != nil {
			c.failed++
			c.err = err
			continue
		}
		c.gets++
	}
}
