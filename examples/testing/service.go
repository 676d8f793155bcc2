package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/peercache/peercache"
)

// A User is what the service is about.
type User struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// A Store is where users are kept: slow, and to be asked as rarely as possible.
// Implementations are safe for concurrent use.
type Store interface {
	// User returns the user with this id, or errNoUser.
	User(ctx context.Context, id string) (User, error)

	// Rename gives a user another name. It returns errNoUser if there is none
	// with this id.
	Rename(ctx context.Context, id, name string) error
}

var errNoUser = errors.New("no such user")

const (
	// userTTL is how long a user is served from memory. Renames through this
	// service are seen at once, whatever it is: the TTL is for changes that
	// reach the store by other ways.
	userTTL = 5 * time.Minute

	// noUserTTL is how long an unknown id is remembered as unknown, so that a
	// client that asks again and again does not reach the store each time.
	noUserTTL = 10 * time.Second
)

// userLoader reads users from store for a cache. It is a function of its own,
// apart from the service, because in a cluster it runs where the key is owned,
// not where the request came in; and because a test hands it to
// cachetest.Caches.
func userLoader(store Store) peercache.Loader[User] {
	return func(ctx context.Context, id string) (User, time.Duration, error) {
		u, err := store.User(ctx, id)
		if errors.Is(err, errNoUser) {
			return User{}, noUserTTL, peercache.ErrNotFound
		}
		return u, userTTL, err
	}
}

// A service serves user profiles over HTTP:
//
//	GET /users/{id}             the user as JSON; 404 if there is none
//	PUT /users/{id}?name=NAME   renames the user
//
// It takes its cache from outside: in production that is one on a node, in a
// test one of a cluster in memory.
type service struct {
	users *peercache.Cache[User]
	store Store
	mux   *http.ServeMux
}

func newService(users *peercache.Cache[User], store Store) *service {
	s := &service{users: users, store: store, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /users/{id}", s.profile)
	s.mux.HandleFunc("PUT /users/{id}", s.rename)
	return s
}

// ServeHTTP implements http.Handler.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *service) profile(w http.ResponseWriter, r *http.Request) {
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
		// A client that went away is the only way this fails.
		_ = json.NewEncoder(w).Encode(u)
	}
}

func (s *service) rename(w http.ResponseWriter, r *http.Request) {
	id, name := r.PathValue("id"), r.FormValue("name")
	if name == "" {
		http.Error(w, "name is missing", http.StatusBadRequest)
		return
	}
	switch err := s.store.Rename(r.Context(), id, name); {
	case errors.Is(err, errNoUser):
		http.Error(w, "no such user", http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, "the user store does not answer", http.StatusBadGateway)
		return
	}

	// First the store, then the cache: the other way round a Get in between
	// would bring the old name back. A peer that did not confirm may show the
	// old name for a while (peercache.ErrPartial); the new one is stored, so the
	// request has succeeded all the same, but the client is told.
	if err := s.users.Remove(r.Context(), id); err != nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
