package consul

import (
	"log/slog"
	"math/rand/v2"
	"time"
)

// firstRetry is short, for most failures are the restart of an agent.
const firstRetry = 250 * time.Millisecond

// An outage is a row of failures at the same thing. It says when to try again, and logs
// the first failure and the success after the last, since the rest is known then. For one
// goroutine.
type outage struct {
	logger  *slog.Logger
	what    string        // what does not work
	longest time.Duration // between two attempts
	wait    time.Duration // before the next attempt, as it will be; 0 if there is no outage
}

// failed notes a failure and returns how long to wait before the next attempt: twice as
// long as before, less up to half of it at random, so that processes which lost one agent
// at one time do not come back to it at one time.
func (o *outage) failed(err error) time.Duration {
	if o.wait == 0 {
		o.logger.Warn("peercache: consul: "+o.what+"; trying again", "err", err)
		o.wait = min(firstRetry, o.longest)
	} else {
		o.wait = min(2*o.wait, o.longest)
	}
	return o.wait - rand.N(o.wait/2+1)
}

// over notes a success.
func (o *outage) over() {
	if o.wait > 0 {
		o.logger.Info("peercache: consul: " + o.what + " no more")
	}
	o.wait = 0
}
