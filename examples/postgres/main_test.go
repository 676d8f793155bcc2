package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// newServer starts a PostgreSQL for a test, or skips it where there is none.
func newServer(t *testing.T) *server {
	t.Helper()
	s, err := startServer(t.Context())
	if errors.Is(err, errNoPrograms) {
		t.Skip("NOT TESTED:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Stat of the server's directory after its end = %v, want not found", err)
		}
	})
	return s
}

// testLog has what nodes and listeners log shown with a test that failed.
func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func TestAllNodesServeWhatChangedInTheDatabase(t *testing.T) {
	s := newServer(t)
	ok, err := run(t.Context(), s.dsn(), t.Output(), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		t.Error("a promise was broken: see above")
	}

	conn, err := pgx.Connect(t.Context(), s.dsn())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	var left int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'peercache%'").Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 0 {
		t.Errorf("%d schemas are left in the database, want none", left)
	}
}

// Else the demo would show nothing.
func TestNodesThatNobodyTellsServeTheOldRow(t *testing.T) {
	s := newServer(t)
	config, err := pgxpool.ParseConfig(s.dsn())
	if err != nil {
		t.Fatal(err)
	}
	db, err := openDatabase(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	table := &userTable{pool: db.pool}
	services, err := startServices(t.Context(), nodes, table, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stopServices(t.Context(), services); err != nil {
			t.Error(err)
		}
	}()
	d := &demo{out: t.Output(), db: db, table: table, services: services}
	if err := d.warm(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.pool.Exec(t.Context(), "UPDATE users SET name = 'Ada Lovelace' WHERE id = 'ada'"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if d.everywhere(ctx, []string{"ada"}, "Ada Lovelace") {
		t.Error("the nodes serve what nobody told them")
	}
}

// A deafConn is a connection to a machine that vanishes: nothing fails, and
// nothing arrives any more.
type deafConn struct {
	net.Conn
	deaf *atomic.Bool
}

func (c deafConn) Write(b []byte) (int, error) {
	if c.deaf.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func TestServerThatVanishedIsDialedAgainAndTheCacheCleared(t *testing.T) {
	s := newServer(t)
	config, err := pgx.ParseConfig(s.dsn())
	if err != nil {
		t.Fatal(err)
	}
	var deaf []*atomic.Bool // of the connections so far
	var mu sync.Mutex       // guards deaf
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		mu.Lock()
		defer mu.Unlock()
		deaf = append(deaf, new(atomic.Bool))
		return deafConn{conn, deaf[len(deaf)-1]}, err
	}
	cache := new(fakeCache)
	l := newListener(config, cache, testLog(t))
	l.quiet = 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var listening sync.WaitGroup
	defer listening.Wait()
	defer cancel()
	listening.Go(func() { l.run(ctx) })

	if err := poll(ctx, func() bool { return cache.clears() == 1 }); err != nil {
		t.Fatalf("Clear was called %d times, want once when the listener has begun", cache.clears())
	}
	mu.Lock()
	for _, d := range deaf {
		d.Store(true)
	}
	mu.Unlock()
	if err := poll(ctx, func() bool { return cache.clears() > 1 && l.sessions.Load() > 1 }); err != nil {
		t.Errorf("%d calls of Clear in %d sessions, want another of both", cache.clears(), l.sessions.Load())
	}
}
