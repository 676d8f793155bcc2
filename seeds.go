package peercache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Finding the cluster, and finding it again: seeds and lost members are tried until
// the node leaves. Seeds are looked up each time, for a name may mean other addresses
// tomorrow.

const (
	// seedsTimeout bounds the first round, which Join waits for.
	seedsTimeout = 2 * time.Second

	// A node that knows nobody tries every second, and once at once when it has lost
	// the last it knew; others only look for seeds that are not among their members,
	// which is how halves of a cluster that never met find each other, and for lost
	// members whose turn it is. Both times vary by half, so that nodes that started
	// together do not try together.
	seekAlone  = time.Second
	seekOthers = 10 * time.Second

	// seekAtOnce is how many seeds a round tries, and how many lost members
	// (arbitrary; enough to get past a dead one).
	seekAtOnce = 2

	// tryAtOnce is how many addresses the first round tries at the same time, for
	// a name may stand for hundreds. Dead ones take 2 s each, which is all there is.
	tryAtOnce = 32
)

// A seed is a host and the port of its gossip.
type seed struct{ host, port string }

func parseSeeds(seeds []string) ([]seed, error) {
	parsed := make([]seed, 0, len(seeds))
	for _, s := range seeds {
		host, port, err := net.SplitHostPort(s)
		if err != nil { // no port, perhaps
			host, port = s, defaultGossipPort
			if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
				host = s[1 : len(s)-1]
			}
			if _, ipErr := netip.ParseAddr(host); ipErr != nil && (host != s || strings.ContainsAny(host, ":[]")) {
				return nil, fmt.Errorf("peercache: seed %q is not a host:port: %w", s, err)
			}
		}
		if host == "" || strings.ContainsAny(host, "/ @") {
			return nil, fmt.Errorf("peercache: seed %q is not a host:port", s)
		}
		if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
			return nil, fmt.Errorf("peercache: seed %q: its port is not 1 to 65535", s)
		}
		parsed = append(parsed, seed{host, port})
	}
	return parsed, nil
}

// lookup returns all addresses of a host, which may be one already.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

// lookupOne returns the address of a host to bind or to advertise, IPv4 if it
// has one.
func lookupOne(ctx context.Context, host string) (netip.Addr, error) {
	addrs, err := lookup(ctx, host)
	if err != nil {
		return netip.Addr{}, err
	}
	if i := slices.IndexFunc(addrs, netip.Addr.Is4); i >= 0 {
		return addrs[i], nil
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address", host)
	}
	return addrs[0], nil
}

// A seeker keeps a node in touch with its cluster.
type seeker struct {
	node   *Node
	gossip *gossip
	seeds  []seed
	alone  chan struct{} // room for one: the last member known was lost
}

// tryAll tries every seed once, each as soon as it is looked up, and calls met with each
// address that answers. It reports whether there was one to try, this node itself aside,
// and how many addresses answered.
func (s *seeker) tryAll(ctx context.Context, met func(addr string)) (tried bool, reached int, err error) {
	ctx, cancel := context.WithTimeout(ctx, seedsTimeout)
	defer cancel()
	type result struct {
		addr    string
		reached int
		err     error
	}
	results := make(chan result)
	atOnce := make(chan struct{}, tryAtOnce)
	found := s.lookUp(ctx)
	warned := false
	var addrs []string
	for waiting := len(s.seeds); waiting > 0; {
		select {
		case f := <-found:
			waiting--
			err = errors.Join(err, f.err)
			tried = tried || f.err != nil
			fresh := s.missing(f.addrs, addrs)
			if far := farFromLoopback(s.node.host, s.gossip.advertised.Addr(), fresh); far != "" && !warned {
				warned = true
				s.node.logger.Warn("peercache: this node is on a loopback address, which other machines take for themselves, and its seed is not: "+
					"use an address of this machine", "url", s.node.self.url, "gossip", s.gossip.addr, "seed", far)
			}
			for _, addr := range fresh {
				tried = true
				waiting++
				s.node.background(func() {
					atOnce <- struct{}{}
					reached, err := s.gossip.join([]string{addr})
					<-atOnce
					select {
					case results <- result{addr, reached, err}:
					case <-ctx.Done(): // nobody waits for it any more
					}
				})
			}
			addrs = append(addrs, fresh...)
		case r := <-results:
			waiting--
			if reached += r.reached; r.reached > 0 {
				met(r.addr)
			}
			err = errors.Join(err, r.err)
		case <-ctx.Done():
			return true, reached, errors.Join(err, ctx.Err())
		case <-s.node.life.Done():
			return true, reached, errLeft
		}
	}
	return tried, reached, err
}

// farFromLoopback returns the first of addrs that is not loopback, "" if there is none,
// or if a node with this host in its URL and this address for gossip is not on loopback.
func farFromLoopback(host string, gossip netip.Addr, addrs []string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if !isLoopback(host) && !gossip.IsLoopback() {
		return ""
	}
	for _, addr := range addrs {
		if ap, err := netip.ParseAddrPort(addr); err == nil && !ap.Addr().IsLoopback() {
			return addr
		}
	}
	return ""
}

// run tries seeds and lost members until the node leaves.
func (s *seeker) run() {
	for last := time.Now(); ; {
		wait := seekOthers
		if len(s.gossip.addrs()) == 0 {
			wait = seekAlone
		}
		timer := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-timer.C:
		case <-s.alone:
		case <-s.node.life.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		addrs := some(s.gossip.missed(time.Since(last)))
		last = time.Now()
		ctx, cancel := context.WithTimeout(s.node.life, seedsTimeout)
		seeds, err := s.lookUpAll(ctx)
		cancel()
		if err != nil {
			s.node.logger.Debug("peercache: looking up seeds", "err", err)
		}
		for _, addr := range some(seeds) {
			if !slices.Contains(addrs, addr) { // one that was lost too
				addrs = append(addrs, addr)
			}
		}
		if len(addrs) == 0 || s.node.life.Err() != nil {
			continue
		}
		if _, err := s.gossip.join(addrs); err != nil {
			s.node.logger.Debug("peercache: trying seeds and lost members", "addrs", addrs, "err", err)
		}
	}
}

// some picks a few of addrs, which it shuffles.
func some(addrs []string) []string {
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return addrs[:min(len(addrs), seekAtOnce)]
}

// A lookedUp is what a seed stands for.
type lookedUp struct {
	addrs []string
	err   error
}

// lookUp looks up all seeds at the same time, and sends what it finds as it finds it, one
// result for each: a name whose servers are silent holds up no other.
func (s *seeker) lookUp(ctx context.Context) <-chan lookedUp {
	found := make(chan lookedUp, len(s.seeds)) // room for all, also if nobody listens any more
	for _, seed := range s.seeds {
		s.node.background(func() {
			var f lookedUp
			ips, err := lookup(ctx, seed.host)
			for _, ip := range ips {
				f.addrs = append(f.addrs, net.JoinHostPort(ip.String(), seed.port))
			}
			f.err = err
			found <- f
		})
	}
	return found
}

// lookUpAll returns the addresses of seeds that are missing, and why there may be more.
func (s *seeker) lookUpAll(ctx context.Context) ([]string, error) {
	found := s.lookUp(ctx)
	var addrs []string
	var errs []error
	for range s.seeds {
		select {
		case f := <-found:
			addrs = append(addrs, s.missing(f.addrs, addrs)...)
			errs = append(errs, f.err)
		case <-ctx.Done(): // also when the node has left, which looks up nothing any more
			return addrs, errors.Join(append(errs, ctx.Err())...)
		}
	}
	return addrs, errors.Join(errs...)
}

// missing returns those of addrs that are no members of this cluster, nor among others.
func (s *seeker) missing(addrs, others []string) []string {
	known := append(s.gossip.addrs(), s.gossip.addr)
	var missing []string
	for _, addr := range addrs {
		if !slices.Contains(known, addr) && !slices.Contains(others, addr) && !slices.Contains(missing, addr) {
			missing = append(missing, addr)
		}
	}
	return missing
}
