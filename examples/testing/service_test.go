package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/cachetest"
)

// A countingStore is the slow store of the example, counting how often it is
// read and failing while it is down.
type countingStore struct {
	*slowStore
	reads atomic.Int32
	down  atomic.Bool
}

var errDown = errors.New("connection refused")

func (s *countingStore) User(ctx context.Context, id string) (User, error) {
	s.reads.Add(1)
	if s.down.Load() {
		return User{}, errDown
	}
	return s.slowStore.User(ctx, id)
}

// deployment is the service as it runs in production: one instance in each of
// several processes, all before one store.
type deployment struct {
	cluster *cachetest.Cluster
	caches  []*peercache.Cache[User]
	service []*service
	store   *countingStore
}

// deploy starts n processes in memory. It must be called inside a synctest
// bubble, where the second that the store takes for an answer is no time at all.
func deploy(t *testing.T, n int) *deployment {
	t.Helper()
	d := &deployment{
		cluster: cachetest.NewCluster(t, n),
		store:   &countingStore{slowStore: newSlowStore(time.Second, User{"1", "Ada"}, User{"2", "Grace"})},
	}
	d.caches = cachetest.Caches(d.cluster, "users", userLoader(d.store), nil)
	for _, users := range d.caches {
		d.service = append(d.service, newService(users, d.store))
	}
	return d
}

// do sends one request to process i.
func (d *deployment) do(t *testing.T, i int, method, target string) (code int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	d.service[i].ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, http.NoBody))
	return w.Code, strings.TrimSpace(w.Body.String())
}

// wantProfile asks process i for user 1.
func (d *deployment) wantProfile(t *testing.T, i int, name string) {
	t.Helper()
	want := fmt.Sprintf(`{"id":"1","name":%q}`, name)
	if code, body := d.do(t, i, "GET", "/users/1"); code != http.StatusOK || body != want {
		t.Errorf("process %d: GET /users/1 = %d %s, want 200 %s", i, code, body, want)
	}
}

func (d *deployment) wantReads(t *testing.T, want int32) {
	t.Helper()
	if got := d.store.reads.Load(); got != want {
		t.Errorf("the store was read %d times, want %d", got, want)
	}
}

// owner is the index of the process that owns user 1.
func (d *deployment) owner(t *testing.T) int {
	t.Helper()
	url := d.caches[0].Owner("1")
	for i := range d.cluster.Len() {
		if d.cluster.Node(i).Self().URL == url {
			return i
		}
	}
	t.Fatalf("no process has the owner's URL %q", url)
	return -1
}

func TestStoreIsReadOnceForAllProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deploy(t, 3)
		var wg sync.WaitGroup
		for i := range d.service {
			for range 5 {
				wg.Go(func() { d.wantProfile(t, i, "Ada") })
			}
		}
		wg.Wait()
		d.wantReads(t, 1)
	})
}

func TestProfileIsServedAfterItsOwnerDied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deploy(t, 3)
		owner := d.owner(t)
		d.wantProfile(t, owner, "Ada")
		d.wantReads(t, 1)

		d.cluster.Kill(owner)
		for i := range d.service {
			if i != owner {
				d.wantProfile(t, i, "Ada")
			}
		}
		// What the owner held died with it. The others agree on who owns the
		// user now, so the store is read once more, not once by each.
		d.wantReads(t, 2)
	})
}

func TestProfileIsReadAgainAfterItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deploy(t, 3)
		d.wantProfile(t, 0, "Ada")

		// Somebody changes the database behind the service's back.
		if err := d.store.Rename(t.Context(), "1", "Ada Lovelace"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(userTTL / 2)
		d.wantProfile(t, 0, "Ada")
		d.wantReads(t, 1)

		time.Sleep(userTTL / 2)
		for i := range d.service {
			d.wantProfile(t, i, "Ada Lovelace")
		}
		d.wantReads(t, 2)
	})
}

func TestRenameIsSeenByAllProcessesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deploy(t, 3)
		for i := range d.service {
			d.wantProfile(t, i, "Ada")
		}
		if code, body := d.do(t, 1, "PUT", "/users/1?name=Countess"); code != http.StatusNoContent {
			t.Fatalf("PUT /users/1 = %d %s, want 204", code, body)
		}
		for i := range d.service {
			d.wantProfile(t, i, "Countess")
		}
		d.wantReads(t, 2)
	})
}

func TestUnknownUserIsRememberedAsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deploy(t, 3)
		for i := range d.service {
			if code, body := d.do(t, i, "GET", "/users/99"); code != http.StatusNotFound {
				t.Errorf("process %d: GET /users/99 = %d %s, want 404", i, code, body)
			}
		}
		d.wantReads(t, 1)

		time.Sleep(noUserTTL)
		if code, body := d.do(t, 0, "GET", "/users/99"); code != http.StatusNotFound {
			t.Errorf("GET /users/99 later = %d %s, want 404", code, body)
		}
		d.wantReads(t, 2)
	})
}

func TestStoreErrorIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deploy(t, 3)
		d.store.down.Store(true)
		for i := range d.service {
			if code, body := d.do(t, i, "GET", "/users/1"); code != http.StatusBadGateway {
				t.Errorf("process %d: GET /users/1 = %d %s, want 502", i, code, body)
			}
		}
		d.store.down.Store(false)
		d.wantProfile(t, 0, "Ada")
	})
}

func TestRenameWithoutNameIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deploy(t, 1)
		if code, body := d.do(t, 0, "PUT", "/users/1"); code != http.StatusBadRequest {
			t.Errorf("PUT /users/1 = %d %s, want 400", code, body)
		}
		if code, body := d.do(t, 0, "PUT", "/users/99?name=Nobody"); code != http.StatusNotFound {
			t.Errorf("PUT /users/99?name=Nobody = %d %s, want 404", code, body)
		}
		d.wantProfile(t, 0, "Ada")
	})
}
