package peercache

import (
	"sync"
	"time"
)

// Several processes with one URL: a restart whose death nobody has noticed yet, or a
// mistake, such as one URL in the configuration of two machines. Whoever answers at the
// URL counts, since that is who gets its requests.

const (
	// twinsRetry is how long an answer stands: the server of one process may end or
	// start while both live.
	twinsRetry = 5 * time.Second

	// A death is noticed within twinsNoticed, by far; what lasts longer is a mistake.
	twinsNoticed = 15 * time.Second
)

// twins finds out which of the processes with one URL counts. For one goroutine.
type twins struct {
	node   *Node
	gossip *gossip
	known  map[string]*twin // by URL
}

type twin struct {
	since, asked int64
	warned       everyMinute
}

// due returns a channel that has a value when it is time to settle again.
func (t *twins) due() <-chan time.Time {
	if len(t.known) == 0 {
		return nil
	}
	return time.After(twinsRetry)
}

// settle asks at each URL that several processes have who they are, if that was not done
// lately, and returns when it is known or nobody answers. No ring is built
// meanwhile: that would be one with the wrong process, and another right after.
func (t *twins) settle() {
	urls := t.gossip.twins()
	known := make(map[string]*twin, len(urls))
	var asking sync.WaitGroup
	at := now()
	for _, url := range urls {
		tw := t.known[url]
		if tw == nil {
			tw = &twin{since: at, asked: at - int64(twinsRetry)}
		}
		known[url] = tw
		if at-tw.asked < int64(twinsRetry) {
			continue
		}
		tw.asked = at
		asking.Go(func() {
			if g, err := t.node.greet(t.node.life, url, stateActive); err == nil {
				t.gossip.answers(url, g.boot)
			}
		})
		if at-tw.since > int64(twinsNoticed) && tw.warned.now() {
			t.node.logger.Warn("peercache: several live processes have one URL: only the one that answers there counts; "+
				"give each process a URL of its own", "url", url)
		}
	}
	asking.Wait()
	t.known = known
}
