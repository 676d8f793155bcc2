package consul_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// A stand-in for Consul: the endpoints that Follow uses, as the documentation of the HTTP
// API describes them. What processes and tests do with it is in process_test.go.

const (
	patternRegister   = "PUT /v1/agent/service/register"
	patternDeregister = "PUT /v1/agent/service/deregister/{id}"
	patternUpdate     = "PUT /v1/agent/check/update/{id}"
	patternHealth     = "GET /v1/health/service/{name}"
)

// An agent is a Consul agent without a cluster, which serves its own catalog. Its checks
// expire by timers, so that in a bubble that takes no time.
type agent struct {
	server *httptest.Server
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)

	mu        sync.Mutex // guards the fields below
	catalog   map[string]*instance
	index     uint64
	changed   chan struct{} // closed, and made anew, with each change
	restores  int
	requests  map[string][]time.Time // by pattern
	intercept func(w http.ResponseWriter, r *http.Request) bool
	release   func(w http.ResponseWriter, checkID string) // answers about a check that is unknown
}

// An instance is one of a service, with its only check.
type instance struct {
	api.AgentServiceRegistration
	passing  bool
	modified uint64
	expire   *time.Timer // to critical, and from there to nothing
}

// newAgent serves at a listener, until it is closed.
func newAgent(l net.Listener, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *agent {
	a := &agent{
		dial:     dial,
		catalog:  make(map[string]*instance),
		index:    10,
		changed:  make(chan struct{}),
		requests: make(map[string][]time.Time),
		release:  recentRelease,
	}
	mux := http.NewServeMux()
	for pattern, serve := range map[string]http.HandlerFunc{
		patternRegister:   a.register,
		patternDeregister: a.deregister,
		patternUpdate:     a.update,
		patternHealth:     a.health,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body) // until then the server does not see that a client goes
			if err != nil {
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			a.mu.Lock()
			a.requests[pattern] = append(a.requests[pattern], time.Now())
			intercept := a.intercept
			a.mu.Unlock()
			if intercept == nil || !intercept(w, r) {
				serve(w, r)
			}
		})
	}
	a.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	a.server.Start()
	return a
}

func (a *agent) close() {
	a.server.CloseClientConnections()
	a.server.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.catalog {
		i.expire.Stop()
	}
}

// changeLocked makes a new index and wakes those who wait for it.
func (a *agent) changeLocked() {
	a.index++
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) register(w http.ResponseWriter, r *http.Request) {
	var s api.AgentServiceRegistration
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		http.Error(w, "Request decode failed: "+err.Error(), http.StatusBadRequest)
		return
	}
	if s.Name == "" || s.Check == nil {
		http.Error(w, "Missing service name or check", http.StatusBadRequest)
		return
	}
	if _, err := time.ParseDuration(s.Check.TTL); err != nil {
		http.Error(w, "Invalid check: "+err.Error(), http.StatusBadRequest)
		return
	}
	if after, err := time.ParseDuration(s.Check.DeregisterCriticalServiceAfter); err != nil || after < time.Minute {
		http.Error(w, "Invalid check: deregistered too soon", http.StatusBadRequest)
		return
	}
	a.put(s)
}

// put registers an instance, as register does for processes.
func (a *agent) put(s api.AgentServiceRegistration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := &instance{AgentServiceRegistration: s, passing: s.Check.Status == api.HealthPassing}
	if old := a.catalog[s.ID]; old != nil {
		old.expire.Stop()
	}
	a.catalog[s.ID] = i
	a.changeLocked()
	i.modified = a.index
	i.expire = time.AfterFunc(duration(s.Check.TTL), func() { a.critical(i) })
}

// critical is where a check goes that was not updated for its TTL.
func (a *agent) critical(i *instance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.catalog[i.ID] != i {
		return
	}
	i.passing = false
	a.changeLocked()
	i.expire = time.AfterFunc(duration(i.Check.DeregisterCriticalServiceAfter), func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.catalog[i.ID] == i && !i.passing {
			delete(a.catalog, i.ID)
			a.changeLocked()
		}
	})
}

func (a *agent) deregister(w http.ResponseWriter, r *http.Request) {
	if !a.remove(r.PathValue("id")) {
		http.Error(w, fmt.Sprintf("Unknown service ID %q", r.PathValue("id")), http.StatusNotFound)
	}
}

// remove takes instances out of the catalog in one change, and reports whether they all
// were there.
func (a *agent) remove(ids ...string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := true
	for _, id := range ids {
		i := a.catalog[id]
		if i == nil {
			all = false
			continue
		}
		i.expire.Stop()
		delete(a.catalog, id)
	}
	a.changeLocked()
	return all
}

func (a *agent) update(w http.ResponseWriter, r *http.Request) {
	var u struct{ Status, Output string }
	if err := json.NewDecoder(r.Body).Decode(&u); err != nil || u.Status != api.HealthPassing {
		http.Error(w, "Invalid check status", http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.catalog {
		if i.Check.CheckID != r.PathValue("id") {
			continue
		}
		i.expire.Stop()
		i.expire = time.AfterFunc(duration(i.Check.TTL), func() { a.critical(i) })
		if !i.passing {
			i.passing = true
			a.changeLocked()
		}
		return
	}
	a.release(w, r.PathValue("id"))
}

// recentRelease and oldRelease are what agents have answered about unknown checks.
func recentRelease(w http.ResponseWriter, id string) {
	http.Error(w, fmt.Sprintf("Unknown check ID %q. Ensure that the check ID is passed, not the check name.", id), http.StatusNotFound)
}

func oldRelease(w http.ResponseWriter, id string) {
	http.Error(w, fmt.Sprintf("CheckID %q does not have associated TTL", id), http.StatusInternalServerError)
}

func (a *agent) health(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	asked, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	wait := 5 * time.Minute
	if d, err := time.ParseDuration(q.Get("wait")); err == nil && d > 0 {
		wait = min(d, 10*time.Minute)
	}
	timeout := time.NewTimer(wait + wait/16) // the most that agents add
	defer timeout.Stop()

	a.mu.Lock()
	defer a.mu.Unlock()
	restores, expired := a.restores, false
	for asked > 0 && a.index <= asked && a.restores == restores && !expired {
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-timeout.C:
			expired = true
		case <-r.Context().Done():
		}
		a.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
	a.answerLocked(w, a.listLocked(r.PathValue("name"), q.Has("passing")), a.index)
}

func (a *agent) listLocked(service string, passing bool) []*api.ServiceEntry {
	entries := []*api.ServiceEntry{}
	for _, i := range slices.SortedFunc(maps.Values(a.catalog), func(x, y *instance) int { return cmp.Compare(x.ID, y.ID) }) {
		if i.Name != service || passing && !i.passing {
			continue
		}
		entries = append(entries, &api.ServiceEntry{
			Node: &api.Node{Node: "machine", Address: "10.0.0.1"},
			Service: &api.AgentService{
				ID: i.ID, Service: i.Name, Address: i.Address, Port: i.Port, Meta: i.Meta,
				ModifyIndex: i.modified,
			},
		})
	}
	return entries
}

func (a *agent) answerLocked(w http.ResponseWriter, entries any, index uint64) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
	w.Header().Set("X-Consul-KnownLeader", "true")
	w.Header().Set("X-Consul-LastContact", "0")
	_ = json.NewEncoder(w).Encode(entries) // to a client that may have gone
}

// answer has queries answered as f says, at once: what there is, and its index, go in.
func (a *agent) answer(f func(w http.ResponseWriter, entries []*api.ServiceEntry, index uint64) (any, uint64)) {
	a.meddle(func(w http.ResponseWriter, r *http.Request) bool {
		name := r.PathValue("name")
		if name == "" {
			return false
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		entries, index := f(w, a.listLocked(name, true), a.index)
		a.answerLocked(w, entries, index)
		return true
	})
}

// meddle has f see all requests first: it reports whether it has answered. Queries that
// wait are let go to come back to it.
func (a *agent) meddle(f func(w http.ResponseWriter, r *http.Request) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.intercept = f
	a.changeLocked()
}

// restart is what the end of the process and a new one without its data do.
func (a *agent) restart() {
	a.mu.Lock()
	for _, i := range a.catalog {
		i.expire.Stop()
	}
	clear(a.catalog)
	a.index = 1
	a.mu.Unlock()
	a.server.CloseClientConnections()
}

// restore is what a snapshot with an older index does to the servers: queries that wait
// are answered with what is there.
func (a *agent) restore(index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changeLocked()
	a.index = index
	a.restores++
}

// ids returns the instances in the catalog, healthy or not.
func (a *agent) ids() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.catalog))
}

// registration returns the only instance at a port.
func (a *agent) registration(port int) (api.AgentServiceRegistration, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.catalog {
		if i.Port == port {
			return i.AgentServiceRegistration, true
		}
	}
	return api.AgentServiceRegistration{}, false
}

// count returns how many requests of a pattern have come since.
func (a *agent) count(pattern string, since time.Time) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, at := range a.requests[pattern] {
		if !at.Before(since) {
			n++
		}
	}
	return n
}

func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

// inMemory is a listener whose connections have no sockets, as bubbles need them.
type inMemory struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newInMemory() *inMemory {
	return &inMemory{accept: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *inMemory) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *inMemory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.accept <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *inMemory) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *inMemory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8500} }
