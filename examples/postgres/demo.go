package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/peercache/peercache"
)

const (
	// patience is how long a node may serve what has changed before that counts
	// as a broken promise. It is far less than userTTL: only the notification
	// brings the new value. Arbitrary: it takes milliseconds, or once the
	// connection is lost about a quarter of a second.
	patience = 10 * time.Second

	// crowd is how many rows one transaction changes.
	crowd = 500
)

// A demo is one run through the cases, against a database.
type demo struct {
	out      io.Writer
	db       *database
	table    *userTable
	services []*service
	listener *listener

	broken bool // a promise was
}

// play runs all cases. An error is a case that could not be made.
func (d *demo) play(ctx context.Context) error {
	if err := d.listen(ctx); err != nil {
		return err
	}
	for _, run := range []func(context.Context) error{d.read, d.write, d.crowd, d.lose} {
		if err := run(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(d.out, "\n%d notifications were %d calls of Remove and %d of Clear, in %d sessions; %d queries\n",
		d.listener.notifications.Load(), d.listener.removes.Load(), d.listener.clears.Load(), d.listener.sessions.Load(), d.table.queries.Load())
	if d.broken {
		fmt.Fprintln(d.out, "FAILED: a node went on serving what had changed")
	} else {
		fmt.Fprintln(d.out, "all nodes served what was changed, each time")
	}
	return nil
}

// listen waits for the listener's first session, and for the Clear that begins it.
func (d *demo) listen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := poll(ctx, func() bool { return d.listener.clears.Load() > 0 }); err != nil {
		return fmt.Errorf("nobody listens: %w", err)
	}
	return nil
}

// read has all nodes read the same user.
func (d *demo) read(ctx context.Context) error {
	const id, name = "ada", "Ada Byron"
	before := d.table.queries.Load()
	ok := true
	for _, s := range d.services {
		got, err := lookup(ctx, s, id)
		if err != nil {
			return err
		}
		ok = ok && got == name
	}
	// One, but where a node gets no processor for 300 ms: then the next one loads in its stead.
	queries := d.table.queries.Load() - before
	d.report(ok, "%d nodes read %s: %q, queries: %d", len(d.services), id, name, queries)
	return nil
}

// write changes a row in each way there is.
func (d *demo) write(ctx context.Context) error {
	for _, c := range []struct{ sql, id, name string }{
		{"UPDATE users SET name = 'Ada Lovelace' WHERE id = 'ada'", "ada", "Ada Lovelace"},
		{"INSERT INTO users VALUES ('edsger', 'Edsger Dijkstra')", "edsger", "Edsger Dijkstra"},
		{"UPDATE users SET id = 'hopper' WHERE id = 'grace'", "grace", ""},
		{"DELETE FROM users WHERE id = 'edsger'", "edsger", ""},
		{"TRUNCATE users", "ada", ""},
	} {
		if err := d.change(ctx, c.sql, c.id, c.name); err != nil {
			return err
		}
	}
	return nil
}

// crowd changes many rows in one transaction: a notification for each row, and far
// fewer Removes.
func (d *demo) crowd(ctx context.Context) error {
	if _, err := d.db.pool.Exec(ctx, "INSERT INTO users SELECT 'user' || n, 'old' FROM generate_series(1, $1::int) AS n", crowd); err != nil {
		return err
	}
	ids := make([]string, crowd)
	for i := range ids {
		ids[i] = fmt.Sprintf("user%d", i+1)
	}
	waiting, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	if !d.everywhere(waiting, ids, "old") {
		return fmt.Errorf("the nodes do not serve %d new rows: %w", crowd, waiting.Err())
	}
	removes := d.listener.removes.Load()
	if _, err := d.db.pool.Exec(ctx, "UPDATE users SET name = 'new'"); err != nil {
		return err
	}
	committed := time.Now()
	ok := d.everywhere(waiting, ids, "new")
	if err := ctx.Err(); err != nil {
		return err
	}
	d.report(ok, "UPDATE of %d rows: %s, %d calls of Remove", crowd, seen(committed), d.listener.removes.Load()-removes)
	return nil
}

// lose ends the listener's connection and changes a row before it is back.
func (d *demo) lose(ctx context.Context) error {
	const id = "user1"
	if err := d.warm(ctx, id); err != nil {
		return err
	}
	sessions, clears := d.listener.sessions.Load(), d.listener.clears.Load()
	ended, err := d.db.endListening(ctx)
	if err != nil {
		return err
	}
	if ended == 0 {
		return errors.New("the listener's connection is not to be found on the server")
	}
	fmt.Fprintf(d.out, "        the listener's connection is ended by the server\n")
	if err := d.change(ctx, "UPDATE users SET name = 'unheard' WHERE id = 'user1'", id, "unheard"); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := poll(waiting, func() bool { return d.listener.sessions.Load() > sessions && d.listener.clears.Load() > clears }) == nil
	if err := ctx.Err(); err != nil {
		return err
	}
	d.report(again, "the listener is back, and has cleared the cache")
	return d.change(ctx, "UPDATE users SET name = 'heard' WHERE id = 'user1'", id, "heard")
}

// change has all nodes hold a user, changes its row by SQL, and waits until all
// serve the new name, "" if there is to be no such user any more.
func (d *demo) change(ctx context.Context, sql, id, name string) error {
	if err := d.warm(ctx, id); err != nil {
		return err
	}
	if _, err := d.db.pool.Exec(ctx, sql); err != nil {
		return err
	}
	committed := time.Now()
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ok := d.everywhere(waiting, []string{id}, name)
	if err := ctx.Err(); err != nil {
		return err
	}
	d.report(ok, "%s: %s", sql, seen(committed))
	return nil
}

// warm has all nodes hold what there is about a user.
func (d *demo) warm(ctx context.Context, id string) error {
	for _, s := range d.services {
		if _, err := lookup(ctx, s, id); err != nil {
			return err
		}
	}
	return nil
}

// everywhere waits until all nodes serve this name for all ids, or until ctx ends. It
// reports whether they do.
func (d *demo) everywhere(ctx context.Context, ids []string, name string) bool {
	for _, s := range d.services {
		for _, id := range ids {
			err := poll(ctx, func() bool {
				got, err := lookup(ctx, s, id)
				return err == nil && got == name
			})
			if err != nil {
				return false
			}
		}
	}
	return true
}

// lookup returns the name that a node serves, "" for a user that does not exist.
func lookup(ctx context.Context, s *service, id string) (string, error) {
	u, err := s.users.Get(ctx, id)
	if errors.Is(err, peercache.ErrNotFound) {
		return "", nil
	}
	return u.Name, err
}

// seen says how long ago the commit was of a change that all nodes now serve.
func seen(committed time.Time) string {
	return fmt.Sprintf("all nodes serve that after %.1f ms", float64(time.Since(committed))/float64(time.Millisecond))
}

func (d *demo) report(ok bool, format string, args ...any) {
	verdict := "ok"
	if !ok {
		verdict, d.broken = "BROKEN", true
	}
	fmt.Fprintf(d.out, "%-6s  %s\n", verdict, fmt.Sprintf(format, args...))
}
