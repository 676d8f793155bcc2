// The service example is the smallest complete service to copy: a web server
// whose processes share one cache of something slow to look up. Three of them on
// a laptop, each in a terminal of its own:
//
//	export PEERCACHE_SECRET=$(openssl rand -hex 32)    # the same in all three
//	go run ./examples/service -addr 127.0.0.1:8081 -gossip 127.0.0.1:7941
//	go run ./examples/service -addr 127.0.0.1:8082 -gossip 127.0.0.1:7942 -seeds 127.0.0.1:7941
//	go run ./examples/service -addr 127.0.0.1:8083 -gossip 127.0.0.1:7943 -seeds 127.0.0.1:7941
//
// Then ask all of them for the same thing. The first answer takes half a second,
// the others are there at once, and all say which process looked it up:
//
//	curl localhost:8081/users/42
//	curl localhost:8082/users/42
//	curl localhost:8083/users/42
//
// End one with Ctrl-C or SIGTERM: it hands what it holds to the others before it
// goes, so that they look nothing up again. Then start it again.
//
// Every flag has an environment variable beside it, for where that is how
// programs are told: ADDR, URL, GOSSIP, SEEDS, SECRET_FILE; and PEERCACHE_SECRET,
// which is no flag, since every user of a machine can read those. In production
// -url is where the other processes reach this one, such as http://10.0.0.5:8080;
// -gossip may be left out, and is port 7946 there; and -seeds is a DNS name that
// stands for all of them.
//
// GET /healthz is for a load balancer: 200 once this process has its place in the
// cluster, 503 before that, and again as soon as it has been told to end.
//
// main.go is the process, service.go what it serves.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/peercache/peercache"
)

const (
	// leaveTimeout is for the goodbye to the other processes: two seconds for
	// which it goes on answering those that have not heard of it, and what it
	// takes to hand the entries over. shutdownTimeout is for the requests of
	// users that are being answered then. An orchestrator should give both
	// together before it kills (Kubernetes: terminationGracePeriodSeconds, by
	// default 30).
	leaveTimeout    = 10 * time.Second
	shutdownTimeout = 10 * time.Second
)

func main() {
	c, err := parseConfig(os.Args[1:], os.Getenv)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		// SIGTERM is how an orchestrator ends a process, Ctrl-C how a person does.
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, c, slog.Default())
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// config is what a process has to know.
type config struct {
	addr   string   // host:port to serve on
	url    string   // where the other processes reach this one
	gossip string   // host:port of its gossip
	seeds  []string // gossip addresses of some others
	secret []byte
}

// parseConfig reads flags, and the environment where there are none.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var c config
	flags := flag.NewFlagSet("service", flag.ContinueOnError)
	flags.StringVar(&c.addr, "addr", cmp.Or(getenv("ADDR"), "127.0.0.1:8080"), "serve on `host:port`")
	flags.StringVar(&c.url, "url", getenv("URL"), "`URL` at which other processes reach this one (default http:// and what -addr has become)")
	flags.StringVar(&c.gossip, "gossip", getenv("GOSSIP"), "gossip on `host:port` (default the host of -url, port 7946)")
	seeds := flags.String("seeds", getenv("SEEDS"), "gossip `addresses` of other processes, separated by commas")
	secretFile := flags.String("secret-file", getenv("SECRET_FILE"), "`file` with the secret that all processes share (default $PEERCACHE_SECRET)")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	c.seeds = strings.FieldsFunc(*seeds, func(r rune) bool { return r == ',' || r == ' ' })
	secret := getenv("PEERCACHE_SECRET")
	if *secretFile != "" {
		text, err := os.ReadFile(*secretFile)
		if err != nil {
			return c, fmt.Errorf("secret: %w", err)
		}
		secret = string(text)
	}
	c.secret = []byte(strings.TrimSpace(secret)) // files end in a newline
	return c, nil
}

// run serves until ctx ends, and returns once everything has stopped.
func run(ctx context.Context, c config, logger *slog.Logger) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	node, err := peercache.NewNode(cmp.Or(c.url, "http://"+ln.Addr().String()), &peercache.NodeOptions{
		Secret: c.secret, // without one only loopback addresses are allowed
		Gossip: c.gossip,
		Logger: logger,
	})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	s := &service{
		users: peercache.New("users", peercache.TTL(userTTL, lookUp(node.Self().URL)), &peercache.Options{Node: node}),
		ready: func() bool { return ctx.Err() == nil && isClosed(node.Ready()) },
	}

	mux := http.NewServeMux()
	mux.Handle(node.Handler()) // what the processes ask each other, on the same port
	s.routes(mux)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }() // before Join: peers ask as soon as they know

	err = node.Join(ctx, c.seeds...)
	if err == nil {
		logger.Info("serving", "url", node.Self().URL, "gossip", node.GossipAddr())
		select {
		case <-ctx.Done():
		case err = <-served: // the listener failed
		}
	}
	// ctx has ended, and would end these two at once. Leave comes first: it hands
	// the entries over while the server still answers.
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	err = errors.Join(err, node.Leave(leaving))
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return errors.Join(err, server.Shutdown(closing))
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
