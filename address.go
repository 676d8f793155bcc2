package peercache

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Where a node is: its URL in the one spelling that is its identity, and the address
// of this machine where the URL does not say.

// plainPath is what the path of a node's URL may be made of: what needs no
// escaping and has no meaning in the pattern of a http.ServeMux.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._~-]*$`)

// plainHost is what the host of a node's URL may be made of, colons of IPv6 among it.
var plainHost = regexp.MustCompile(`^[A-Za-z0-9._:-]+$`)

// ownURL is normalizeURL for this process, whose URL need not say where it is.
func ownURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Hostname() != "" {
		return normalizeURL(raw)
	}
	addr, err := privateAddr()
	if err != nil {
		return nil, fmt.Errorf("peercache: node URL %q has no host, and this machine's address is not plain: %w", raw, err)
	}
	u.Host = hostPort(addr, u.Port())
	return normalizeURL(u.String())
}

// privateAddr returns the address by which others reach this machine: what the
// platform says, or the one private address of its interfaces.
func privateAddr() (netip.Addr, error) {
	if ip := os.Getenv("POD_IP"); ip != "" {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return addr, fmt.Errorf("environment variable POD_IP: %w", err)
		}
		return addr.Unmap(), nil
	}
	of, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	var addrs []netip.Addr
	for _, a := range of {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, prefix.Addr().Unmap())
		}
	}
	return onlyPrivate(addrs)
}

// onlyPrivate returns the private address among addrs, IPv4 before IPv6. Of several
// it takes none: one may be a bridge of containers, and a guess that is wrong shows
// only at the peers.
func onlyPrivate(addrs []netip.Addr) (netip.Addr, error) {
	for _, is := range []func(netip.Addr) bool{netip.Addr.Is4, netip.Addr.Is6} {
		var found []netip.Addr
		for _, addr := range addrs {
			if is(addr) && addr.IsPrivate() {
				found = append(found, addr)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return netip.Addr{}, fmt.Errorf("it has several, %v: put the right one into the URL or into the environment as POD_IP", found)
		}
	}
	return netip.Addr{}, errors.New("it has no private one: put the right one into the URL or into the environment as POD_IP")
}

// normalizeURL returns the one spelling of a node's URL.
func normalizeURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("peercache: node URL: %w", err)
	}
	u.Scheme = strings.ToLower(u.Scheme)
	u.Host = strings.ToLower(u.Host)
	defaultPort := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	switch {
	case defaultPort == "":
		return nil, fmt.Errorf("peercache: node URL %q is neither http nor https", raw)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return nil, fmt.Errorf("peercache: node URL %q has more than a host and a path", raw)
	case u.Hostname() == "":
		return nil, fmt.Errorf("peercache: node URL %q has no host: peers need one to reach this process", raw)
	case !plainHost.MatchString(u.Hostname()):
		// A client sends it in another spelling, without the zone, and the handler takes
		// the request for one to somebody else.
		return nil, fmt.Errorf("peercache: node URL %q: its host must be an address without a zone, or a name of A-Z a-z 0-9 . _ - "+
			"(an international one in its xn-- form)", raw)
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 || p[0] == '0' {
			return nil, fmt.Errorf("peercache: node URL %q: its port is not 1 to 65535", raw)
		}
	}
	if p := u.Port(); p == defaultPort || p == "" {
		u.Host = strings.TrimSuffix(u.Host, ":"+p)
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		addr = addr.Unmap()
		u.Host = hostPort(addr, u.Port())
		if addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
			return nil, fmt.Errorf("peercache: node URL %q: peers cannot reach %s: use an address of this machine", raw, addr)
		}
	}
	u.Path, u.ForceQuery = strings.TrimRight(u.Path, "/"), false
	if u.RawPath != "" || !plainPath.MatchString(u.Path) || u.Path != "" && u.Path != path.Clean(u.Path) {
		return nil, fmt.Errorf("peercache: node URL %q: its path has more than A-Z a-z 0-9 / . _ ~ -", raw)
	}
	return u, nil
}

// checkHome says what forbids a process that gossips at an address to have this URL: one
// that it would not have given itself, and one at another address. Whoever can gossip
// could otherwise have the cluster send its requests to somebody else. Of a name it
// shows only when it is dialled who it stands for.
func checkHome(rawURL string, gossip netip.Addr) error {
	u, err := normalizeURL(rawURL)
	if err != nil {
		return err
	}
	if u.String() != rawURL {
		return fmt.Errorf("peercache: node URL %q should be spelled %q", rawURL, u)
	}
	if host, err := netip.ParseAddr(u.Hostname()); err == nil && host != gossip && !(host.IsLoopback() && gossip.IsLoopback()) {
		return fmt.Errorf("peercache: node URL %q is at another address than the node's gossip, %s", rawURL, gossip)
	}
	return nil
}

// hostPort is the one spelling of an address with or without a port.
func hostPort(addr netip.Addr, port string) string {
	host := addr.String()
	if addr.Is6() {
		host = "[" + host + "]"
	}
	if port == "" {
		return host
	}
	return host + ":" + port
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
