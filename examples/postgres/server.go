package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// errNoPrograms is a machine on which no server can be started.
var errNoPrograms = errors.New("no initdb and postgres in PATH or /usr/lib/postgresql/*/bin: " +
	"apt-get install postgresql, or say with -dsn where a server runs")

const (
	// serverStart bounds how long a new server takes to accept connections, and
	// serverStop how long it takes to end. Arbitrary: both take a fraction of a
	// second where the machine is not busy.
	serverStart = 30 * time.Second
	serverStop  = 15 * time.Second
)

// postmaster starts a server, ends it when standard input ends, and waits for it.
// Standard input is a pipe that this process holds, so that a kill -9 of this
// process ends the server too.
const postmaster = `exec 3<&0
"$@" &
server=$!
(read -r _; kill -INT "$server") <&3 &
wait "$server"`

// A server is a PostgreSQL of our own: its data are in a temporary directory, and it
// listens on a socket in there that only its user and root can reach.
type server struct {
	dir   string
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{} // closed once err says how
	err   error
}

// startServer makes and starts a server. It returns errNoPrograms if there is none
// on this machine. The caller stops it.
func startServer(ctx context.Context) (*server, error) {
	bin, err := findPrograms()
	if err != nil {
		return nil, err
	}
	user, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "peercache-pg-") // short: the path of a socket has 107 bytes at most
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, ended: make(chan struct{})}
	if err := s.start(ctx, user, bin); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// start makes the data, starts the server and waits until it accepts connections.
func (s *server) start(ctx context.Context, user account, bin string) error {
	if err := user.own(s.dir); err != nil {
		return err
	}
	// Who can reach the socket is trusted, and what is lost in a crash is not missed.
	data := filepath.Join(s.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = s.dir, user.attr()
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb (its user must be able to reach TMPDIR): %w\n%s", err, bytes.TrimSpace(out))
	}
	if err := s.launch(ctx, user, filepath.Join(bin, "postgres"), "-D", data, "-k", s.dir, "-c", "listen_addresses=", "-F"); err != nil {
		return err
	}
	return s.await(ctx)
}

// launch starts the server's process.
func (s *server) launch(ctx context.Context, user account, command ...string) error {
	log, err := os.Create(s.logFile())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own, and nothing was written to this one
	// Not ended by ctx: it is to be stopped in order, after the connections to it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "sh", append([]string{"-c", postmaster, "postmaster"}, command...)...)
	cmd.Dir, cmd.SysProcAttr = s.dir, user.attr()
	cmd.Stdout, cmd.Stderr = log, log
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	return nil
}

// await waits until the server accepts connections.
func (s *server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, serverStart)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.dsn())
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-time.After(20 * time.Millisecond): // arbitrary
		case <-s.ended:
			log, _ := os.ReadFile(s.logFile())
			return fmt.Errorf("postgres: %w\n%s", cmp.Or(s.err, err), bytes.TrimSpace(log))
		case <-ctx.Done():
			return fmt.Errorf("postgres does not answer: %w", err)
		}
	}
}

func (s *server) dsn() string {
	return "postgres:///postgres?user=postgres&host=" + url.QueryEscape(s.dir)
}

func (s *server) logFile() string { return filepath.Join(s.dir, "log") }

// stop ends the server and removes its data.
func (s *server) stop() error {
	var err error
	if s.cmd != nil {
		_ = s.stdin.Close() // fails if the process has ended
		select {
		case <-s.ended:
		case <-time.After(serverStop):
			err = errors.New("postgres does not end") // by itself it does, a minute after its directory has gone
		}
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// findPrograms returns the directory of initdb and postgres: of PATH, else the newest
// that Debian's packages installed, which are not in PATH.
func findPrograms() (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	release := func(dir string) float64 {
		v, _ := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64) // 15, or 9.6 of old
		return v
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Compare(release(b), release(a)) })
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = slices.Insert(dirs, 0, filepath.Dir(path))
	}
	for _, dir := range dirs {
		_, missing := exec.LookPath(filepath.Join(dir, "initdb"))
		_, alsoMissing := exec.LookPath(filepath.Join(dir, "postgres"))
		if missing == nil && alsoMissing == nil {
			return dir, nil
		}
	}
	return "", errNoPrograms
}
