package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/peercache/peercache"
)

// This file is what a service would copy, with queue.go: it turns the
// notifications of a database into Removes. It knows neither the table nor what
// is cached.
//
// Why that leaves nothing old behind: PostgreSQL sends a notification when the
// transaction has committed and its rows are visible to every query that starts
// from then on. So the Remove begins after the commit, and what a Remove
// promises is that a Get after it brings nothing that was loaded before it
// began. A load that read the old row and is still under way is detached, and
// its value kept nowhere. A service that removes a key itself has to do so after
// its commit; one that does it within the transaction lets another process load
// the old row again. The loader must read from the server that notifies, or from
// one that is never behind it: no replica that lags.

const (
	// channel is what schema.sql notifies.
	channel = "users_changed"

	// connectTimeout is for all steps from the dial to LISTEN.
	connectTimeout = 5 * time.Second

	// quietFor is how long the connection may be silent before the server is asked
	// whether it is still there; it has half of that to answer. One that vanished
	// with its machine closes no connection. Arbitrary: changes go unnoticed for
	// no longer than both together.
	quietFor = 10 * time.Second

	// A lost connection is dialed again after minRetry at most, doubling to
	// maxRetry, at random within the upper half. Arbitrary: soon after a
	// restart, and no burden while there is no server.
	minRetry = 200 * time.Millisecond
	maxRetry = 5 * time.Second

	// confirmWait is how long a Remove is waited for. Peers that are well take
	// a millisecond or two. A peer that is not must not hold up the keys that
	// changed meanwhile: the Remove goes on by itself.
	confirmWait = 250 * time.Millisecond
)

// An invalidator is the part of a cache that a listener uses: a
// [peercache.Cache] of any type.
type invalidator interface {
	Remove(ctx context.Context, keys ...string) error
	Clear(ctx context.Context) error
}

// A listener removes from a cache what the database says has changed. One in the
// whole cluster suffices, on any node, since a Remove reaches every process. Several
// do no harm but work: the same key is removed several times.
type listener struct {
	config *pgx.ConnConfig // made by pgx.ParseConfig
	cache  invalidator
	log    *slog.Logger
	queue  *queue
	quiet  time.Duration // quietFor, but in tests

	sessions      atomic.Int64 // times that LISTEN succeeded
	notifications atomic.Int64 // received
	removes       atomic.Int64 // calls of Remove that returned, each for all that was queued
	clears        atomic.Int64 // calls of Clear that returned
}

// newListener returns a listener that connects as config says, to the server
// itself: a pooler that hands connections around loses what they listen to.
func newListener(config *pgx.ConnConfig, cache invalidator, log *slog.Logger) *listener {
	return &listener{config: config, cache: cache, log: log, queue: newQueue(), quiet: quietFor}
}

// run listens until ctx ends, however often the connection is lost.
func (l *listener) run(ctx context.Context) {
	var invalidating sync.WaitGroup
	defer invalidating.Wait()
	invalidating.Go(func() { l.invalidate(ctx) })

	for retry := minRetry; ; retry = min(2*retry, maxRetry) {
		before := l.sessions.Load()
		err := l.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		if l.sessions.Load() > before {
			retry = minRetry
		}
		wait := retry/2 + rand.N(retry/2)
		l.log.Warn("changes of the database are not heard", "err", err, "retry", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// listen is the life of one connection. It returns why that ended.
func (l *listener) listen(ctx context.Context) error {
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	l.sessions.Add(1)

	// What changed before LISTEN, since the last connection or, at the first,
	// since the other processes cached it, nobody has told. After LISTEN and
	// not before: in between there would be a gap again.
	l.queue.addAll()
	l.log.Info("listening to changes of the database")
	for {
		key, err := l.next(ctx, conn)
		if err != nil {
			return err
		}
		l.notifications.Add(1)
		if key == "" { // the table was truncated
			l.queue.addAll()
		} else {
			l.queue.add(key)
		}
	}
}

func (l *listener) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, l.config)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		hangUp(ctx, conn)
		return nil, fmt.Errorf("LISTEN: %w", err)
	}
	return conn, nil
}

// hangUp closes a connection, politely if the server is there to hear it.
func hangUp(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // however that ends, the connection is of no more use
}

// next waits for one notification and returns its payload. While there is none,
// it makes sure that the server is there.
func (l *listener) next(ctx context.Context, conn *pgx.Conn) (key string, err error) {
	for {
		waiting, cancel := context.WithTimeout(ctx, l.quiet)
		n, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case n != nil:
			return n.Payload, nil
		case ctx.Err() != nil:
			return "", ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded) || conn.IsClosed():
			return "", err
		}
		pinging, cancel := context.WithTimeout(ctx, l.quiet/2)
		err = conn.Ping(pinging) // what is notified meanwhile, the connection keeps for the next wait
		cancel()
		if err != nil {
			return "", fmt.Errorf("silent, and so to a ping: %w", err)
		}
	}
}

// invalidate removes what is queued until ctx ends. What is queued then is left:
// the listener that comes next begins with a Clear.
func (l *listener) invalidate(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.queue.ready:
		}
		if err := l.invalidateQueued(ctx); err != nil && ctx.Err() == nil {
			l.logFailure(err)
		}
	}
}

// invalidateQueued makes one call for all that is queued.
func (l *listener) invalidateQueued(ctx context.Context) error {
	keys, all := l.queue.take()
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	switch {
	case all:
		defer l.clears.Add(1)
		return l.cache.Clear(ctx)
	case len(keys) > 0:
		defer l.removes.Add(1)
		return l.cache.Remove(ctx, keys...)
	default:
		return nil // the token was for what an earlier call took along
	}
}

func (l *listener) logFailure(err error) {
	partial, ok := errors.AsType[*peercache.PartialError](err)
	if !ok {
		l.log.Error("what changed may be in the cache still", "err", err)
		return
	}
	// No reason to try again: delivery goes on until they confirm or are gone.
	for peer, err := range partial.Peers {
		l.log.Warn("not yet confirmed", "peer", peer, "err", err)
	}
}
