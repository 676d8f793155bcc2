package main

import (
	"context"
	_ "embed"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// schema makes the table and the triggers that notify.
//
//go:embed schema.sql
var schema string

// userTTL is how long a user is served from memory, on all nodes alike (see
// startService): so long that no entry ends by itself during a run. What a run
// sees of changes, the notifications brought. In a service it bounds how old a
// value may be while nobody listens, as when the database cannot be reached.
const userTTL = 10 * time.Minute

// A User is what the service is about.
type User struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// A userTable reads the table of users. It is safe for concurrent use.
type userTable struct {
	pool    *pgxpool.Pool
	queries atomic.Int64
}

// load is a [github.com/peercache/peercache.BatchLoader]. Its one statement sees all that is
// committed when it begins.
func (t *userTable) load(ctx context.Context, ids []string) (map[string]User, time.Duration, error) {
	t.queries.Add(1)
	rows, err := t.pool.Query(ctx, "SELECT id, name FROM users WHERE id = ANY($1)", ids)
	if err != nil {
		return nil, 0, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[User])
	if err != nil {
		return nil, 0, err
	}
	users := make(map[string]User, len(all))
	for _, u := range all {
		users[u.ID] = u
	}
	return users, userTTL, nil
}
