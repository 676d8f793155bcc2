package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asService has the test binary be the service, for its tests.
const asService = "PEERCACHE_EXAMPLE_SERVICE"

func TestMain(m *testing.M) {
	if os.Getenv(asService) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A process is a running service.
type process struct {
	cmd         *exec.Cmd
	url, gossip string     // from what it logs
	ended       chan error // gets what Wait returned
}

// start starts a service and waits until it serves.
func start(t *testing.T, seeds ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("of no use to anybody else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe, "-addr", "127.0.0.1:0", "-seeds", strings.Join(seeds, ",")), ended: make(chan error, 1)} //nolint:noctx // ends by SIGTERM or with the test
	p.cmd.Env = append(os.Environ(), asService+"=1", "GOSSIP=127.0.0.1:0", "SECRET_FILE="+secret)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serving := make(chan string, 1)
	var logged strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			logged.WriteString(lines.Text() + "\n")
			if _, rest, ok := strings.Cut(lines.Text(), " serving url="); ok {
				serving <- rest
			}
		}
		p.ended <- p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // fails if it has ended
		<-done
		if t.Failed() {
			t.Logf("a service logged\n%s", &logged)
		}
	})
	select {
	case at := <-serving:
		p.url, p.gossip, _ = strings.Cut(at, " gossip=")
	case <-done:
		t.Fatal("a service ended before it served")
	case <-time.After(20 * time.Second): // arbitrary: it takes a tenth of a second
		t.Fatal("a service does not serve")
	}
	return p
}

// get asks for a path. Any goroutine of the test may call it.
func (p *process) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path, http.NoBody)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, string(text)
}

// awaitHealth waits until a service answers a health check with a status.
func (p *process) awaitHealth(t *testing.T, want int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second) // arbitrary: far more than it takes
	for {
		got, _ := p.get(t, "/healthz")
		if got == want {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("GET /healthz = %d, want %d", got, want)
		}
	}
}

// askAll asks processes for a path, all at once.
func askAll(t *testing.T, all []*process, path string) []string {
	t.Helper()
	answers := make([]string, len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() {
			status, body := p.get(t, path)
			if status != http.StatusOK {
				t.Errorf("process %d: GET %s = %d, %s", i, path, status, body)
			}
			answers[i] = body
		})
	}
	wg.Wait()
	return answers
}

func TestThreeProcessesLookUpOnceAndHandOver(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGTERM to send")
	}
	first := start(t)
	all := []*process{first, start(t, first.gossip), start(t, first.gossip)}
	for _, p := range all {
		p.awaitHealth(t, http.StatusOK)
	}

	// Each process is ready by itself; until they also know each other, which
	// takes them some tenths of a second, two may look up the same user.
	var path, want string
	for id, deadline := 1, time.Now().Add(20*time.Second); want == ""; id++ {
		path = fmt.Sprint("/users/", id)
		answers := askAll(t, all, path)
		if answers[0] == answers[1] && answers[0] == answers[2] {
			want = answers[0]
		} else if time.Now().After(deadline) {
			t.Fatalf("GET %s = %q, want one look-up for all", path, answers)
		}
	}
	var u User
	if err := json.Unmarshal([]byte(want), &u); err != nil || path != "/users/"+u.ID || u.Name != "gopher "+u.ID {
		t.Fatalf("GET %s = %s, %v", path, want, err)
	}
	if status, body := first.get(t, "/users/0"); status != http.StatusNotFound {
		t.Errorf("GET /users/0 = %d, %s, want 404", status, body)
	}

	// The one that holds the user goes, and the others have it.
	var rest []*process
	var owner *process
	for _, p := range all {
		if p.url == u.LookedUpBy {
			owner = p
			continue
		}
		rest = append(rest, p)
	}
	if owner == nil {
		t.Fatalf("none of the processes looked up %s", want)
	}
	if err := owner.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	owner.awaitHealth(t, http.StatusServiceUnavailable) // and answers still
	if status, body := owner.get(t, path); status != http.StatusOK || body != want {
		t.Errorf("a process that leaves: GET %s = %d, %s, want %s", path, status, body, want)
	}
	select {
	case err := <-owner.ended:
		if err != nil {
			t.Errorf("the process ended with %v, want status 0", err)
		}
	case <-time.After(leaveTimeout + shutdownTimeout):
		t.Error("the process did not end by SIGTERM")
	}
	for i, p := range rest {
		if status, body := p.get(t, path); status != http.StatusOK || body != want {
			t.Errorf("survivor %d: GET %s = %d, %s, want %s", i, path, status, body, want)
		}
	}
}

func TestFlagsWinOverTheEnvironment(t *testing.T) {
	env := map[string]string{
		"ADDR": "127.0.0.1:1", "URL": "http://10.0.0.1:1", "GOSSIP": "127.0.0.1:2", "SEEDS": "a,b:3 c",
		"PEERCACHE_SECRET": "in the environment\n",
	}
	getenv := func(name string) string { return env[name] }
	c, err := parseConfig(nil, getenv)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(append([]string{c.addr, c.url, c.gossip, string(c.secret)}, c.seeds...), "|"),
		"127.0.0.1:1|http://10.0.0.1:1|127.0.0.1:2|in the environment|a|b:3|c"; got != want {
		t.Errorf("from the environment: %s, want %s", got, want)
	}

	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("in the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err = parseConfig([]string{"-addr", ":4", "-url", "http://u", "-gossip", ":5", "-seeds", "d", "-secret-file", file}, getenv)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(append([]string{c.addr, c.url, c.gossip, string(c.secret)}, c.seeds...), "|"),
		":4|http://u|:5|in the file|d"; got != want {
		t.Errorf("from flags: %s, want %s", got, want)
	}
	if _, err := parseConfig([]string{"-secret-file", file + "x"}, getenv); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a secret file that is not there: %v, want that error", err)
	}
}

func TestLookUpEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lookUp("")(ctx, "1"); !errors.Is(err, context.Canceled) {
		t.Errorf("look-up with a context that has ended = %v, want context.Canceled", err)
	}
}
