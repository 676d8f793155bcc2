package peercache

import (
	"context"
	"net"
)

// A Network is where a node's connections come from: a VPN in user space, the
// memory of a test. Every address handed to it is an IP literal with a port;
// names are resolved before. All three functions must be set and be safe for
// concurrent use.
type Network struct {
	// Dial connects to addr; network is "tcp". It must return soon after ctx
	// ends.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Listen accepts connections for gossip; network is "tcp". A port of 0
	// picks a free one, which the listener's Addr tells.
	Listen func(network, addr string) (net.Listener, error)

	// ListenPacket sends and receives the packets of gossip; network is "udp".
	ListenPacket func(network, addr string) (net.PacketConn, error)
}

// osNetwork is the operating system's.
func osNetwork() *Network {
	var dialer net.Dialer
	return &Network{
		Dial: dialer.DialContext,
		Listen: func(network, addr string) (net.Listener, error) {
			return new(net.ListenConfig).Listen(context.Background(), network, addr)
		},
		ListenPacket: func(network, addr string) (net.PacketConn, error) {
			return new(net.ListenConfig).ListenPacket(context.Background(), network, addr)
		},
	}
}
