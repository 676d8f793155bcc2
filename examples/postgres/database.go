package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A database is the schema that one run has for itself, so that it meets no table
// of the same name. The pool's connections see its tables without naming it.
type database struct {
	pool    *pgxpool.Pool
	schema  string // its name
	version string // of the server
}

// openDatabase makes the schema with the table in it. It changes config. The
// caller closes the database.
func openDatabase(ctx context.Context, config *pgxpool.Config) (*database, error) {
	db := &database{schema: fmt.Sprintf("peercache_example_%08x", rand.Uint32())}
	config.ConnConfig.RuntimeParams["search_path"] = db.schema
	var err error
	if db.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	if err := db.pool.QueryRow(ctx, "SELECT current_setting('server_version')").Scan(&db.version); err != nil {
		db.pool.Close()
		return nil, err
	}
	for _, sql := range []string{
		"CREATE SCHEMA " + pgx.Identifier{db.schema}.Sanitize(),
		schema,
		"INSERT INTO users VALUES ('ada', 'Ada Byron'), ('grace', 'Grace Murray')",
	} {
		if _, err := db.pool.Exec(ctx, sql); err != nil {
			return nil, errors.Join(err, db.close(ctx))
		}
	}
	return db, nil
}

// listening is how the listener connects. Its connections bear the schema's name,
// so that the demo finds them among all that the server has.
func (db *database) listening() *pgx.ConnConfig {
	config := db.pool.Config().ConnConfig
	config.RuntimeParams["application_name"] = db.schema
	return config
}

// endListening ends the connections of the listener, and returns their number when
// they are gone.
func (db *database) endListening(ctx context.Context) (int, error) {
	rows, err := db.pool.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE application_name = $1", db.schema)
	if err != nil {
		return 0, err
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return 0, err
	}
	// A statement of its own: in a WHERE nobody knows what is evaluated first, and for whom.
	if _, err := db.pool.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", pids); err != nil {
		return 0, err
	}
	err = poll(ctx, func() bool {
		var left int
		return db.pool.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)", pids).Scan(&left) == nil && left == 0
	})
	return len(pids), err
}

// close drops the schema, and waits for all connections to be returned.
func (db *database) close(ctx context.Context) error {
	defer db.pool.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, err := db.pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{db.schema}.Sanitize()+" CASCADE")
	return err
}
