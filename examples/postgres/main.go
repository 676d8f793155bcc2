// The postgres example feeds the invalidation of a cache from the change stream
// of its database. Whoever changes a row, this program, another or a person at
// psql, no process serves the old row for longer than a notification takes.
//
//	go run .
//
// A trigger notifies the key of every row that changes (LISTEN and NOTIFY of
// PostgreSQL), and a listener on one of three nodes removes what was notified from
// all of them. The program reads and changes users, measures how long the nodes
// serve what has changed, ends the listener's connection and looks whether a change
// that nobody heard of is served all the same. Its exit status is 0 only if so.
//
// Without -dsn, and without PGHOST in the environment, it starts a server of its
// own in a temporary directory; else it uses a schema of its own, which it
// drops at the end.
//
// The files: listener.go and queue.go are what a service would copy, schema.sql is
// what goes into its database; users.go reads the table, service.go is a node;
// demo.go is what happens to them; server.go starts a server, and database.go
// makes the schema.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Exit statuses.
const (
	exitBroken      = 1   // a promise was broken, or the run could not be made
	exitUsage       = 2   // the flags make no sense
	exitInterrupted = 130 // by Ctrl-C, as of a shell
)

// nodes is how many share the cache: one to own a key, one that holds a copy, one
// that listens, each way around.
const nodes = 3

func main() {
	dsn := flag.String("dsn", "", "use the server at this `address`, such as postgres://user@host/database;\nwithout, and without PGHOST, start one")
	verbose := flag.Bool("v", false, "show what the nodes and the listener log")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(exitUsage)
	}

	// The second Ctrl-C ends the program at once; the server notices.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	level := slog.LevelError
	if *verbose {
		level = slog.LevelDebug
	}
	ok, err := run(ctx, *dsn, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		os.Exit(exitInterrupted)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitBroken)
	case !ok:
		os.Exit(exitBroken)
	}
}

// run is the whole program. It reports whether every promise held.
func run(ctx context.Context, dsn string, out io.Writer, log *slog.Logger) (ok bool, err error) {
	stop := func() error { return nil }
	if dsn == "" && os.Getenv("PGHOST") == "" {
		own, err := startServer(ctx)
		if err != nil {
			return false, err
		}
		stop = own.stop
		dsn = own.dsn()
	}
	defer func() { err = errors.Join(err, stop()) }()
	config, err := pgxpool.ParseConfig(dsn) // where it leaves something out, the environment says it
	if err != nil {
		return false, err
	}
	db, err := openDatabase(ctx, config)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.close(ctx)) }()
	fmt.Fprintf(out, "PostgreSQL %s, %d nodes\n\n", db.version, nodes)
	table := &userTable{pool: db.pool}
	services, err := startServices(ctx, nodes, table, log)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, stopServices(ctx, services)) }()

	// On one node, whichever. That of the last to start: the others hear of
	// changes from their peers only.
	listener := newListener(db.listening(), services[nodes-1].users, log)
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	defer listening.Wait()
	defer cancel()
	listening.Go(func() { listener.run(ctx) })

	d := &demo{out: out, db: db, table: table, services: services, listener: listener}
	err = d.play(ctx)
	return !d.broken, err
}
