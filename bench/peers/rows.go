package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// A row is a size of values, and how many ask for them at once.
type row struct {
	size    int // in bytes
	callers int
	sealed  bool // also compares what is encrypted
}

// rows are the rows that there are.
var rows = []row{
	{size: 100, callers: 256, sealed: true},
	{size: 100, callers: 64},
	{size: 100, callers: 16},
	{size: 100, callers: 1},
	{size: 1 << 10, callers: 256},
	{size: 64 << 10, callers: 64},
	{size: 1 << 20, callers: 1, sealed: true},
}

// name is how the command line calls the row.
func (r row) name() string { return r.unit("") + "x" + strconv.Itoa(r.callers) }

func (r row) label() string { return r.name() }

// title is how its table is headed.
func (r row) title() string {
	if r.callers == 1 {
		return r.unit(" ") + ", 1 caller"
	}
	return fmt.Sprintf("%s, %d callers", r.unit(" "), r.callers)
}

func (r row) unit(space string) string {
	switch {
	case r.size >= 1<<20:
		return strconv.Itoa(r.size>>20) + space + "MiB"
	case r.size >= 1<<10:
		return strconv.Itoa(r.size>>10) + space + "KiB"
	}
	return strconv.Itoa(r.size) + space + "B"
}

// keys is how many keys are asked for. Their values take 16 MiB at most, which every
// server here holds with its defaults, and each caller has some that nobody else asks
// for: of callers that wait for one key most libraries ask the server once.
func (r row) keys() int {
	const most, held = 1024, 16 << 20
	return max(min(most, held/r.size), r.callers)
}

// A pair is an alternative at work.
type pair struct {
	name           string
	server, client *child
	pids           []int // of the processes that do the work
}

// starting bounds how long a process may take to start, and a burst beyond its time.
// Both are a matter of a second, on a busy machine of a few.
const starting = 30 * time.Second

// turns has all alternatives of a row run, in turns, and returns their samples.
func (p *plan) turns(ctx context.Context, r row) (samples []series, err error) {
	var pairs []*pair
	defer func() {
		for _, pair := range pairs {
			err = errors.Join(err, pair.stop())
		}
		if ctx.Err() != nil { // which is what all of them failed of
			err = ctx.Err()
		}
	}()
	for round := range p.rounds + 1 {
		i := 0
		for _, a := range p.stores {
			if a.sealed && !r.sealed {
				continue
			}
			if round == 0 {
				pair := &pair{name: a.name}
				pairs = append(pairs, pair)
				samples = append(samples, series{name: a.name})
				if err := pair.start(ctx, p.job(a, r)); err != nil {
					return nil, err
				}
			}
			s, err := pairs[i].burst(p.burst)
			if err != nil || ctx.Err() != nil {
				return nil, err
			}
			if s.Failed > 0 {
				fmt.Fprintf(p.warn, "peers: %s, %s: %d of %d Gets failed: %s\n", r.title(), a.name, s.Failed, s.Gets+s.Failed, s.Error)
			}
			if round > 0 { // the first fills caches of all kinds
				samples[i].samples = append(samples[i].samples, s)
			}
			i++
		}
	}
	return samples, nil
}

// job is what both processes of a pair are told.
func (p *plan) job(a alternative, r row) job {
	return job{Alternative: a.name, Size: r.size, Callers: r.callers, Keys: r.keys(), Heap: p.heap}
}

// start starts both processes. What has been started has to be stopped also if this
// fails.
func (p *pair) start(ctx context.Context, j job) error {
	var at place
	var err error
	if p.server, err = startChild(ctx, j); err != nil {
		return err
	}
	if err := p.server.answer(starting, &at); err != nil {
		return fmt.Errorf("%s: the server: %w", p.name, err)
	}
	j.Server = at.Address
	if p.client, err = startChild(ctx, j); err != nil {
		return err
	}
	var ready bool
	if err := p.client.answer(starting, &ready); err != nil {
		return fmt.Errorf("%s: the client: %w", p.name, err)
	}
	p.pids = []int{at.Pid, p.client.command.Process.Pid}
	return nil
}

// burst has the pair run once.
func (p *pair) burst(d time.Duration) (sample, error) {
	var s sample
	before := cpuSeconds(p.pids...)
	if err := p.client.requests.Encode(burst{Time: d}); err != nil {
		return s, fmt.Errorf("%s: %w", p.name, err)
	}
	if err := p.client.answer(d+starting, &s); err != nil {
		return s, fmt.Errorf("%s: %w", p.name, err)
	}
	if s.Gets == 0 {
		return s, fmt.Errorf("%s: no Get succeeded: %s", p.name, s.Error)
	}
	s.CPU = cpuSeconds(p.pids...) - before
	return s, nil
}

// stop ends both processes, the one that asks first.
func (p *pair) stop() error {
	var errs []error
	for _, c := range []*child{p.client, p.server} {
		if c == nil {
			continue
		}
		if err := c.stop(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	return errors.Join(errs...)
}
