package peercache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// How peers are reached: connections on a Network, to addresses that a peer can have.
// What is said on them is in http.go.

// newTransport returns the connections to peers. HTTP/2 is off: its streams of a
// connection share one lock and one flow control, which costs more than it saves
// here. Proxies are for what leaves the cluster.
func newTransport(network *Network) *http.Transport {
	return &http.Transport{
		DialContext:         (&dialer{network}).dial,
		TLSHandshakeTimeout: dialTimeout,
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		DisableCompression:  true,
		MaxIdleConnsPerHost: 64, // the default of 2 closes most connections of a busy peer after each request
		IdleConnTimeout:     time.Minute,
	}
}

// A dialer connects to peers.
type dialer struct{ network *Network }

// dial resolves the host and tries its addresses in turn. Addresses that no peer
// has are never dialled, whatever name resolved to them.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, err := lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	deadline, _ := ctx.Deadline()
	for i, ip := range ips {
		if !dialable(ip) {
			errs = append(errs, fmt.Errorf("%s is no address of a peer", ip))
			continue
		}
		// Each has its share of what time is left, so that one that is dead does
		// not starve the others.
		share, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(ips)-i))
		conn, err := d.network.Dial(share, network, net.JoinHostPort(ip.String(), port))
		cancel()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("peercache: dial %s: %w", addr, errors.Join(errs...))
}

// refused reports whether nobody listens at any of the addresses that were dialled.
func refused(err error) bool {
	switch e := err.(type) { //nolint:errorlint // the tree is walked
	case nil:
		return false
	case interface{ Unwrap() []error }:
		errs := e.Unwrap()
		return len(errs) > 0 && !slices.ContainsFunc(errs, func(err error) bool { return !refused(err) })
	case interface{ Unwrap() error }:
		return refused(e.Unwrap())
	default:
		return errors.Is(err, syscall.ECONNREFUSED)
	}
}

func dialable(ip netip.Addr) bool {
	return !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLinkLocalUnicast()
}
