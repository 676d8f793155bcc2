package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// A driver asks the cluster for documentation, as its users would: over HTTP,
// popular things more often, at whichever node the dice say.
type driver struct {
	cluster  *cluster
	tally    *tally
	client   *http.Client
	keys     []string // the most popular one first
	zipf     float64
	seed     uint64
	inFlight int // requests at once, in all
}

// requestTimeout is longer than a load can take, its limit in the library being
// ten seconds: what it cuts off would never have been answered.
const requestTimeout = 15 * time.Second

// newClient is an http.Client that keeps one connection to each node for each
// request in flight.
func newClient(inFlight int) *http.Client {
	return &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: inFlight,
			DisableCompression:  true,
		},
	}
}

// byPopularity shuffles keys, so that what is asked for most has nothing to do
// with the alphabet. The same seed gives the same order.
func byPopularity(keys []string, seed uint64) []string {
	keys = slices.Clone(keys)
	rng := rand.New(rand.NewPCG(seed, 0))
	rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return keys
}

// run drives one phase until over is closed or ctx ends. When it returns all
// its requests have been answered.
func (d *driver) run(ctx context.Context, p phase, over <-chan struct{}) {
	var wg sync.WaitGroup
	for i := range d.inFlight {
		// One generator for each worker and phase: they do not depend on how
		// the workers take turns.
		rng := rand.New(rand.NewPCG(d.seed, uint64(p)<<32|uint64(i+1)))
		next := rand.NewZipf(rng, d.zipf, 1, uint64(len(d.keys)-1))
		wg.Go(func() {
			for ctx.Err() == nil {
				select {
				case <-over:
					return
				default:
					d.ask(ctx, rng, d.keys[next.Uint64()])
				}
			}
		})
	}
	wg.Wait()
}

var errNoNode = errors.New("no node is alive")

// ask asks for one key until it has an answer. A request that was at a node when
// the driver killed it goes to another, as a load balancer sees to: the text
// that it asks for must be there all the same.
func (d *driver) ask(ctx context.Context, rng *rand.Rand, key string) {
	began := time.Now()
	for retries := 0; ; retries++ {
		p := d.cluster.pick(rng)
		if p == nil {
			d.tally.failed(key, errNoNode, time.Since(began), retries)
			return
		}
		text, err := d.get(ctx, p, key)
		switch {
		case err == nil:
			d.tally.answered(key, text, time.Since(began), retries)
			return
		case ctx.Err() != nil:
			return // the run was interrupted
		case p.snapshot().state != killed:
			d.tally.failed(key, err, time.Since(began), retries)
			return
		}
	}
}

// get asks one node for the text of a key.
func (d *driver) get(ctx context.Context, p *process, key string) (string, error) {
	p.inFlight.Add(1)
	defer p.inFlight.Add(-1)
	text, err := d.fetch(ctx, p, http.MethodGet, "/doc/"+key, nil)
	return string(text), err
}

// fetch sends one request to a node. Any answer but 200 is an error.
func (d *driver) fetch(ctx context.Context, p *process, method, path string, body []byte) ([]byte, error) {
	u, err := url.Parse(p.snapshot().url)
	if err != nil {
		return nil, err
	}
	u.Path = path
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("node %d: %s: %.200s", p.id, res.Status, answer)
	}
	return answer, nil
}

// status asks a node for its counters and keeps them for the display.
func (d *driver) status(ctx context.Context, p *process) (status, error) {
	var st status
	body, err := d.fetch(ctx, p, http.MethodGet, "/stats", nil)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(body, &st); err != nil {
		return st, fmt.Errorf("node %d: stats: %w", p.id, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.stats = st.Cache
	return st, nil
}

// pollInterval is how often the driver looks again at something that it waits
// for. Arbitrary: neither felt by a person nor by the nodes.
const pollInterval = 50 * time.Millisecond

// poll calls done now and then until it returns true, at most for the given
// time. It reports whether it did.
func poll(ctx context.Context, during time.Duration, done func() bool) bool {
	timeout := time.NewTimer(during)
	defer timeout.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-timeout.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// agree waits until every live node names exactly the live nodes as its peers.
// It reports whether they did in time.
func (d *driver) agree(ctx context.Context, during time.Duration) bool {
	return poll(ctx, during, func() bool {
		procs := d.cluster.live()
		var want []string
		for _, p := range procs {
			want = append(want, p.snapshot().url)
		}
		slices.Sort(want)
		for _, p := range procs {
			st, err := d.status(ctx, p)
			if err != nil || !slices.Equal(st.Peers, want) {
				return false
			}
		}
		return true
	})
}

// owners returns which life owns each key that was asked for. The nodes have
// to agree on that.
func (d *driver) owners(ctx context.Context) (map[string]int, error) {
	procs := d.cluster.live()
	if len(procs) == 0 {
		return nil, errNoNode
	}
	lives := make(map[string]int, len(procs))
	for _, p := range procs {
		lives[p.snapshot().url] = p.life
	}
	keys := d.tally.asked()
	list, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	body, err := d.fetch(ctx, procs[0], http.MethodPost, "/owners", list)
	if err != nil {
		return nil, err
	}
	var urls []string
	if err := json.Unmarshal(body, &urls); err != nil {
		return nil, fmt.Errorf("node %d: owners: %w", procs[0].id, err)
	}
	if len(urls) != len(keys) {
		return nil, fmt.Errorf("node %d: owners of %d keys, want %d", procs[0].id, len(urls), len(keys))
	}
	owners := make(map[string]int, len(keys))
	for i, key := range keys {
		owners[key] = lives[urls[i]]
	}
	return owners, nil
}

// settle waits until as many load events have arrived from each live node as
// that node counts loads, so that all of them belong to the phase that has just
// ended. It returns an error that names the nodes where the two differ for
// good: then something was loaded uncounted, or counted and not loaded.
func (d *driver) settle(ctx context.Context) error {
	const patience = 3 * time.Second // arbitrary: the events are in the pipe already
	var errs []error
	poll(ctx, patience, func() bool {
		errs = nil
		for _, p := range d.cluster.live() {
			st, err := d.status(ctx, p)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if n := p.snapshot().loads; n != st.Cache.Loads {
				errs = append(errs, miscounted(p.id, st.Cache.Loads, n))
			}
		}
		return len(errs) == 0
	})
	return errors.Join(errs...)
}

// miscounted is the error that the counters of a node are wrong.
func miscounted(id int, counted, ran int64) error {
	return fmt.Errorf("node %d counts %d loads, its loader ran %d times", id, counted, ran)
}

// killBusy kills p while requests to it are in flight, if any are within a
// second. It waits for two, where the driver sends that many: a single one is
// often answered before the signal arrives.
func (d *driver) killBusy(ctx context.Context, p *process) error {
	enough := int64(min(2, d.inFlight))
	busy := time.NewTicker(time.Millisecond)
	defer busy.Stop()
	for deadline := time.Now().Add(time.Second); p.inFlight.Load() < enough && time.Now().Before(deadline); {
		select {
		case <-busy.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return p.kill()
}
