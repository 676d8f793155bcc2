package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/peercache/peercache"
)

// Examples of nodes; the rest is in example_test.go.

// A value that is loaded at one node is there for all.
func ExampleNode() {
	a, b, stop := examplePair()
	defer stop()
	load := peercache.TTL(time.Minute, db.User)
	atA := peercache.New("users", load, &peercache.Options{Node: a})
	atB := peercache.New("users", load, &peercache.Options{Node: b})

	for _, users := range []*peercache.Cache[User]{atA, atB} {
		fmt.Println(users.Get(context.Background(), "gopher"))
	}
	fmt.Println(atA.Stats().Loads+atB.Stats().Loads, "load")
	// Output:
	// {the gopher} <nil>
	// {the gopher} <nil>
	// 1 load
}

// Spellings of one address are one node. An address that strangers might reach
// must be asked for.
func ExampleNewNode() {
	node, err := peercache.NewNode("HTTP://LocalHost:80/app/", nil)
	fmt.Println(node.Self().URL, err)

	_, err = peercache.NewNode("http://10.0.0.5:8080", nil)
	fmt.Println(err != nil)
	// Output:
	// http://localhost/app <nil>
	// true
}

func ExampleNodeOptions() {
	node, err := peercache.NewNode("http://10.0.0.5:8080", &peercache.NodeOptions{
		Cluster: "shop",
		Secret:  []byte("6f1c0e5b9d2a4f7788c3b1a0d4e5f607"), // of openssl rand -hex 16, and in no source
		Zone:    "eu-1a",
		Weight:  2, // twice the keys of others
	})
	fmt.Println(node.Self(), err)
	// Output: {http://10.0.0.5:8080 eu-1a 2} <nil>
}

func ExampleNode_Handler() {
	node, _ := peercache.NewNode("http://localhost:8080/app", nil)
	mux := http.NewServeMux()
	mux.Handle(node.Handler())

	pattern, _ := node.Handler()
	fmt.Println(pattern)
	// Output: POST /app/_peercache/v1
}

func ExampleNode_Join() {
	ctx := context.Background()
	first, stopFirst := exampleNode()
	defer stopFirst()
	if err := first.Join(ctx); err != nil { // the first has nobody to join
		fmt.Println(err)
	}
	second, stopSecond := exampleNode()
	defer stopSecond()
	if err := second.Join(ctx, first.GossipAddr()); err != nil {
		fmt.Println(err)
	}
	await(func() bool { return len(first.Peers()) == 2 && len(second.Peers()) == 2 })
	fmt.Println(slices.Equal(first.Peers(), second.Peers()))
	// Output: true
}

// Ready is what a readiness probe should wait for.
func ExampleNode_Ready() {
	node, stop := exampleNode()
	defer stop()
	if err := node.Join(context.Background()); err != nil {
		fmt.Println(err)
	}
	<-node.Ready()
	fmt.Println("ready")
	// Output: ready
}

// Where the platform knows the peers, SetPeers takes the place of Join, and is
// called again with every change.
func ExampleNode_SetPeers() {
	node, _ := peercache.NewNode("http://localhost:8080", nil)
	err := node.SetPeers(node.Self(), peercache.Peer{URL: "http://localhost:8081"})
	fmt.Println(len(node.Peers()), err)

	err = node.SetPeers() // what a look-up that failed returns
	fmt.Println(len(node.Peers()), err != nil)
	// Output:
	// 2 <nil>
	// 2 true
}

func ExamplePeer() {
	node, _ := peercache.NewNode("http://localhost:8080", nil)
	_ = node.SetPeers(node.Self(), peercache.Peer{URL: "http://localhost:8081", Zone: "eu-1b", Weight: 3})
	fmt.Println(node.Peers()[1])
	// Output: {http://localhost:8081 eu-1b 3}
}

func ExampleNode_Peers() {
	a, _, stop := examplePair()
	defer stop()
	for _, p := range a.Peers() {
		fmt.Println(strings.HasPrefix(p.URL, "http://127.0.0.1:"), p.Weight)
	}
	// Output:
	// true 1
	// true 1
}

func ExampleNode_Self() {
	node, _ := peercache.NewNode("http://localhost:8080", nil)
	fmt.Println(node.Self().URL)
	// Output: http://localhost:8080
}

func ExampleNode_GossipAddr() {
	node, stop := exampleNode() // its options say Gossip: "127.0.0.1:0", which picks a port
	defer stop()
	if err := node.Join(context.Background()); err != nil {
		fmt.Println(err)
	}
	host, port, _ := net.SplitHostPort(node.GossipAddr())
	fmt.Println(host, port != "0")
	// Output: 127.0.0.1 true
}

// The life of a service, until its context ends.
func serveUsers(ctx context.Context, listener net.Listener, url string, opts *peercache.NodeOptions, seeds ...string) error {
	node, err := peercache.NewNode(url, opts)
	if err != nil {
		return err
	}
	users := peercache.New("users", peercache.TTL(time.Minute, db.User), &peercache.Options{Node: node})
	mux := http.NewServeMux()
	mux.Handle(node.Handler())
	mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		u, err := users.Get(r.Context(), r.PathValue("id"))
		if err != nil {
			http.Error(w, "no answer", http.StatusBadGateway)
			return
		}
		fmt.Fprintln(w, u.Name)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // before Join: peers ask as soon as they know

	if err = node.Join(ctx, seeds...); err == nil {
		select {
		case <-ctx.Done():
		case err = <-served:
		}
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return errors.Join(err, node.Leave(stopping), server.Shutdown(stopping)) // in this order
}

func ExampleNode_Leave() {
	ctx, stop := context.WithCancel(context.Background()) // in a main: signal.NotifyContext
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
	}
	done := make(chan error)
	go func() {
		done <- serveUsers(ctx, listener, "http://"+listener.Addr().String(), &peercache.NodeOptions{Gossip: "127.0.0.1:0"})
	}()
	stop()
	fmt.Println(<-done)
	// Output: <nil>
}

func ExampleNode_Stats() {
	a, _, stop := examplePair()
	defer stop()
	fmt.Println(a.Stats().Peers, "peers")
	// Output: 2 peers
}

func ExampleNodeStats() {
	s := peercache.NodeStats{Peers: 5, Failovers: 12}
	fmt.Printf("%d nodes; %d times a key's owner did not answer and the next was asked\n", s.Peers, s.Failovers)
	// Output: 5 nodes; 12 times a key's owner did not answer and the next was asked
}

// A Network that says where connections go.
func ExampleNetwork() {
	var dialer net.Dialer
	var listen net.ListenConfig
	var first sync.Once
	network := &peercache.Network{
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			first.Do(func() { fmt.Println(network, addr) })
			return dialer.DialContext(ctx, network, addr)
		},
		Listen: func(network, addr string) (net.Listener, error) {
			return listen.Listen(context.Background(), network, addr)
		},
		ListenPacket: func(network, addr string) (net.PacketConn, error) {
			return listen.ListenPacket(context.Background(), network, addr)
		},
	}
	node, _ := peercache.NewNode("http://127.0.0.1:8080", &peercache.NodeOptions{Network: network})
	_ = node.SetPeers(node.Self(), peercache.Peer{URL: "http://127.0.0.1:9"}) // nobody is there
	defer func() { _ = node.Leave(context.Background()) }()
	users := peercache.New("users", peercache.TTL(time.Minute, db.User), &peercache.Options{Node: node})
	_, err := users.Get(context.Background(), keyOwnedBy(users, "http://127.0.0.1:9"))
	fmt.Println(err) // it was loaded here
	// Output:
	// tcp 127.0.0.1:9
	// <nil>
}
