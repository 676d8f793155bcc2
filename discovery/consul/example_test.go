package consul_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/peercache/peercache"

	"github.com/peercache/peercache/discovery/consul"
)

// The least that a process does. This one is not run, for it takes a machine with the
// address 10.0.0.5; that of Follow is the same on this machine.
//
//nolint:errcheck // of ListenAndServe: shown short, serveUsers below checks it
func Example() {
	ctx, mux := context.Background(), http.NewServeMux()
	run := func(client *api.Client) error {
		node, err := peercache.NewNode("http://10.0.0.5:8080", &peercache.NodeOptions{Insecure: true})
		if err != nil {
			return err
		}
		users := peercache.New("users", peercache.TTL(time.Minute, loadUser), &peercache.Options{Node: node})
		mux.Handle("GET /users/{id}", serve(users))
		mux.Handle(node.Handler())
		go http.ListenAndServe(":8080", mux)
		err = consul.Follow(ctx, node, client, nil) // until ctx ends, and the node is deregistered
		return errors.Join(err, node.Leave(context.WithoutCancel(ctx)))
	}
	_ = run
}

// The life of a service, until its context ends.
func serveUsers(ctx context.Context, listener net.Listener, client *api.Client, opts *consul.Options) error {
	node, err := peercache.NewNode("http://"+listener.Addr().String(), nil)
	if err != nil {
		return err
	}
	users := peercache.New("users", peercache.TTL(time.Minute, loadUser), &peercache.Options{Node: node})
	mux := http.NewServeMux()
	mux.Handle(node.Handler())
	mux.Handle("GET /users/{id}", serve(users))
	mux.HandleFunc("GET /peers", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, len(node.Peers())) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // before Follow: peers ask as soon as they know

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	followed := make(chan error, 1)
	go func() { followed <- consul.Follow(ctx, node, client, opts) }()
	select {
	case <-ctx.Done():
		err = <-followed // until the node is deregistered
	case err = <-followed:
	case err = <-served:
		stop()
		err = errors.Join(err, <-followed)
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return errors.Join(err, node.Leave(stopping), server.Shutdown(stopping)) // in this order
}

func serve(users *peercache.Cache[string]) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, err := users.Get(r.Context(), r.PathValue("id"))
		if err != nil {
			http.Error(w, "no answer", http.StatusBadGateway)
			return
		}
		fmt.Fprintln(w, name)
	})
}

func loadUser(_ context.Context, id string) (string, error) {
	return "the " + id, nil
}

// Three processes on one machine, whose agent is a stand-in for Consul's.
func ExampleFollow() {
	agent := exampleAgent()
	defer agent.close()
	ctx, stop := context.WithCancel(context.Background()) // in a main: signal.NotifyContext
	done := make(chan error)
	var urls []string
	for range 3 {
		client, err := api.NewClient(&api.Config{Address: agent.server.Listener.Addr().String()}) // in a main: api.DefaultConfig()
		if err != nil {
			fmt.Println(err)
		}
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
		}
		urls = append(urls, "http://"+listener.Addr().String())
		go func() { done <- serveUsers(ctx, listener, client, &consul.Options{TTL: 5 * time.Second}) }()
	}
	for _, url := range urls {
		awaitAnswer(url+"/peers", "3")
		fmt.Print(ask(url + "/users/gopher"))
	}
	stop()
	fmt.Println(<-done, <-done, <-done)
	fmt.Println(len(agent.ids()), "instances are left")
	// Output:
	// the gopher
	// the gopher
	// the gopher
	// <nil> <nil> <nil>
	// 0 instances are left
}

// A cluster of its own, for a service that other teams run too.
func ExampleOptions() {
	node, err := peercache.NewNode("http://127.0.0.1:8080", nil)
	if err != nil {
		fmt.Println(err)
	}
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		fmt.Println(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop() // at once, for there is no agent here
	err = consul.Follow(ctx, node, client, &consul.Options{
		Service: "shop-users-cache",
		TTL:     30 * time.Second, // the machines are starved at times
	})
	fmt.Println(err)
	// Output: <nil>
}

func exampleAgent() *agent {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	return newAgent(l, new(net.Dialer).DialContext)
}

// awaitAnswer asks until the answer is as wanted.
func awaitAnswer(url, want string) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for ask(url) != want {
		<-ticker.C
	}
}

func ask(url string) string {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

func TestReadmeShowsCodeOfTheExamples(t *testing.T) {
	// Lines without their indentation: README.md shows parts of functions.
	flat := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for line := range strings.Lines(string(text)) {
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
		return b.String()
	}
	source := flat("example_test.go")
	blocks := strings.Split(flat("README.md"), "```go\n")[1:]
	if len(blocks) != 2 {
		t.Errorf("%d blocks of Go in README.md, want the short one and the long one", len(blocks))
	}
	for _, block := range blocks {
		code, _, closed := strings.Cut(block, "```")
		if !closed || !strings.Contains(source, code) {
			t.Errorf("README.md shows code that is not in the examples:\n%s", code)
		}
	}
}
