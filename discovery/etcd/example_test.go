package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/peercache/peercache"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/peercache/peercache/discovery/etcd"
)

// A service from its start to its end. Its caches are made with Options.Node, as in
// any cluster.
func ExampleFollow() {
	ctx, stop := context.WithCancel(context.Background())                    // a service: signal.NotifyContext
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0") // a service: ":8080"
	if err != nil {
		log.Fatal(err)
	}
	node, err := peercache.NewNode("http://"+listener.Addr().String(), nil) // a service: "http://:8080"
	if err != nil {
		log.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:         []string{shared.endpoint}, // a service: "http://etcd:2379"
		DialKeepAliveTime: 10 * time.Second,          // a connection that is dead without a sign is noticed
		Logger:            zap.NewNop(),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	mux := http.NewServeMux()
	mux.Handle(node.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Print(err)
		}
	}()
	followed := make(chan error, 1)
	go func() { followed <- etcd.Follow(ctx, node, client, &etcd.Options{Prefix: "/shop/peercache/"}) }()

	<-node.Ready()
	fmt.Println(len(node.Peers()), "node")
	stop() // a service: <-ctx.Done()

	// Out of etcd first, so that the others know; then out of the cluster, which
	// goes on answering those that do not know yet; then the server.
	fmt.Println(<-followed)
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	fmt.Println(node.Leave(shutdown))
	fmt.Println(server.Shutdown(shutdown))
	// Output:
	// 1 node
	// <nil>
	// <nil>
	// <nil>
}
