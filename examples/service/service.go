package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/peercache/peercache"
)

// userTTL is how long a user is served from memory. Arbitrary, as the users here
// never change.
const userTTL = 5 * time.Minute

// A User is what the service is about.
type User struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	LookedUpBy string    `json:"looked_up_by"` // URL of the process that did, for all
	LookedUpAt time.Time `json:"looked_up_at"`
}

// lookUp returns what finds a user, for the process with this URL. It stands for
// a database or an API, and takes half a second, so that one sees in a terminal
// what comes from memory. Users are numbered from 1 to 1,000.
func lookUp(url string) func(ctx context.Context, id string) (User, error) {
	return func(ctx context.Context, id string) (User, error) {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return User{}, ctx.Err()
		}
		n, err := strconv.Atoi(id)
		if err != nil || n < 1 || n > 1000 {
			return User{}, peercache.ErrNotFound
		}
		return User{ID: id, Name: "gopher " + id, LookedUpBy: url, LookedUpAt: time.Now()}, nil
	}
}

// A service answers people's requests.
type service struct {
	users *peercache.Cache[User]
	ready func() bool // whether a load balancer may send requests here
}

func (s *service) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /users/{id}", s.user)
	mux.HandleFunc("GET /healthz", s.healthz)
}

func (s *service) user(w http.ResponseWriter, r *http.Request) {
	u, err := s.users.Get(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, peercache.ErrNotFound):
		http.Error(w, "no such user", http.StatusNotFound)
	case errors.Is(err, peercache.ErrOverloaded):
		http.Error(w, "busy, try again", http.StatusServiceUnavailable)
	case err != nil:
		http.Error(w, "the user store does not answer", http.StatusBadGateway)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(u) // fails only if the client has gone
	}
}

func (s *service) healthz(w http.ResponseWriter, _ *http.Request) {
	if !s.ready() {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n") // fails only if the client has gone
}
