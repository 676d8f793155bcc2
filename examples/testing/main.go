// The testing example shows how to unit-test a service that uses peercache.
// The service, in service.go, serves user profiles from a slow store through a
// cache; its tests, in service_test.go, run it as a cluster of three processes
// in memory, kill one of them and let minutes pass, in milliseconds:
//
//	go test -v ./examples/testing
//
// It also runs, as one process with a store that takes 300 ms for an answer:
//
//	go run ./examples/testing
//	curl -i localhost:8080/users/1
//	curl -i -X PUT 'localhost:8080/users/1?name=Gopher'
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/peercache/peercache"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "serve on `host:port`")
	flag.Parse()
	if err := run(*addr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until the process is told to end.
func run(addr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	store := newSlowStore(300*time.Millisecond, User{"1", "Ada"}, User{"2", "Grace"}, User{"3", "Barbara"})

	// One process. For a cluster, Options names a Node; nothing else changes.
	users := peercache.New("users", userLoader(store), nil)

	server := &http.Server{Handler: newService(users, store), ReadHeaderTimeout: 5 * time.Second}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	fmt.Printf("serving http://%s/users/1 until Ctrl-C\n", ln.Addr())

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

// A slowStore is a Store in memory that takes its time.
type slowStore struct {
	delay time.Duration

	mu    sync.Mutex // guards the fields below
	users map[string]User
}

func newSlowStore(delay time.Duration, users ...User) *slowStore {
	s := &slowStore{delay: delay, users: make(map[string]User)}
	for _, u := range users {
		s.users[u.ID] = u
	}
	return s
}

// User implements Store.
func (s *slowStore) User(ctx context.Context, id string) (User, error) {
	if err := s.wait(ctx); err != nil {
		return User{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users[id]
	if !ok {
		return User{}, errNoUser
	}
	return u, nil
}

// Rename implements Store.
func (s *slowStore) Rename(ctx context.Context, id, name string) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users[id]
	if !ok {
		return errNoUser
	}
	u.Name = name
	s.users[id] = u
	return nil
}

func (s *slowStore) wait(ctx context.Context) error {
	select {
	case <-time.After(s.delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
