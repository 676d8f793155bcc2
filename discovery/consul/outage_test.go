package consul_test

import (
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

// What Follow does while Consul fails, forgets or misleads.

func TestLookUpsThatFailKeepTheLastList(t *testing.T) {
	for name, fail := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"no leader": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return true
		},
		"forbidden": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return true
		},
		"connections dropped": func(http.ResponseWriter, *http.Request) bool {
			panic(http.ErrAbortHandler)
		},
		"no answer": func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		},
		"answers that stop halfway": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("X-Consul-Index", "99")
			_, _ = io.WriteString(w, `[{"Service":`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, "<html>the proxy is not well</html>")
			return true
		},
		"instances that the token may not read": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("X-Consul-Index", "99")
			w.Header().Set("X-Consul-LastContact", "0")
			w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
			if r.Method == http.MethodGet {
				_, _ = io.WriteString(w, "[]")
			}
			return r.Method == http.MethodGet
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *agent) {
				x, y, z := startThree(t, a)
				a.meddle(fail)
				began := time.Now()
				for range 4 {
					time.Sleep(time.Minute)
					wantPeers(t, "during the outage", []string{urlA, urlB, urlC}, x, y, z)
				}
				// Of each of three: five soon, and then one every 5 to 10 s.
				if n := a.count(patternHealth, began); n > 3*(5+48) {
					t.Errorf("%d look-ups in 4 minutes of outage, want at most %d", n, 3*(5+48))
				}
				start(t, a, urlD, nil)
				a.meddle(nil)
				for range 250 { // the checks were critical, and the instances gone
					time.Sleep(100 * time.Millisecond)
					for _, p := range []*process{x, y, z} {
						if peers := p.peers(); len(peers) < 3 {
							t.Fatalf("after the outage: Peers() of %s = %q, want no fewer than before", p.node.Self().URL, peers)
						}
					}
				}
				wantPeers(t, "after the outage", []string{urlA, urlB, urlC, urlD}, x, y, z)
				if n, m := x.logs.count("cannot look up the peers; trying again"), x.logs.count("cannot look up the peers no more"); n != 1 || m != 1 {
					t.Errorf("logged %d failures and %d successes, want one of each", n, m)
				}
			})
		})
	}
}

func TestStartsAloneWhileConsulIsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		a.meddle(func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return true
		})
		x, y := start(t, a, urlA, nil), start(t, a, urlB, nil)
		time.Sleep(10 * time.Minute)
		wantPeers(t, "alone", []string{urlA}, x)
		wantPeers(t, "alone", []string{urlB}, y)
		a.meddle(nil)
		time.Sleep(15 * time.Second)
		wantPeers(t, "when Consul is there", []string{urlA, urlB}, x, y)
	})
}

func TestIndexThatGoesBackwardsIsReset(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x, y, z := startThree(t, a)
		a.restore(2) // far below what the three wait for
		time.Sleep(10 * time.Second)
		wantPeers(t, "after the reset", []string{urlA, urlB, urlC}, x, y, z)
		if err := z.stop(); err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
		wantPeers(t, "after a change at a low index", []string{urlA, urlB}, x, y)
	})
}

func TestQueriesCarryTheIndexThatTheAnswerBeforeAllows(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		answers := []string{"5", "9", "", "7", "3", "8", "0", "0", "4"} // "" is a failure
		want := []string{"", "5", "9", "", "7", "", "8", "", "1", "4"}
		var mu sync.Mutex
		var got []string
		a.meddle(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Pattern != patternHealth {
				return false
			}
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r.FormValue("index"))
			if len(got) > len(answers) {
				return false
			}
			if answers[len(got)-1] == "" {
				http.Error(w, "No cluster leader", http.StatusInternalServerError)
				return true
			}
			w.Header().Set("X-Consul-Index", answers[len(got)-1])
			_, _ = io.WriteString(w, "[]")
			return true
		})
		start(t, a, urlA, nil)
		time.Sleep(20 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("queries with the indexes %q, want %q", got, want)
		}
	})
}

func TestQueriesThatDoNotBlockArePaced(t *testing.T) {
	for name, index := range map[string]func() uint64{
		"an index of 0":          func() uint64 { return 0 },
		"an index that stands":   func() uint64 { return 7 },
		"an index that runs":     func() uint64 { return uint64(time.Now().UnixNano()) },
		"an index that runs off": func() uint64 { return math.MaxInt64 - uint64(time.Now().UnixNano()) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *agent) {
				a.answer(func(_ http.ResponseWriter, entries []*api.ServiceEntry, _ uint64) (any, uint64) {
					return entries, index()
				})
				x := start(t, a, urlA, nil)
				began := time.Now()
				time.Sleep(time.Minute)
				// Four at once, and one every 2 s.
				if n := a.count(patternHealth, began); n > 4+30 {
					t.Errorf("%d queries in a minute, want at most %d", n, 4+30)
				}
				y := start(t, a, urlB, nil)
				time.Sleep(5 * time.Second)
				wantPeers(t, "with a second", []string{urlA, urlB}, x, y)
			})
		})
	}
}

func TestQueriesThatBlockAreFew(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		startThree(t, a)
		began := time.Now()
		time.Sleep(10 * time.Minute)
		if n := a.count(patternHealth, began); n > 3*20 {
			t.Errorf("%d queries of three processes in 10 quiet minutes, want at most %d", n, 3*20)
		}
	})
}

func TestAgentThatForgetsIsToldAgain(t *testing.T) {
	for name, release := range map[string]func(http.ResponseWriter, string){"404": recentRelease, "500": oldRelease} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *agent) {
				a.release = release
				x, y, z := startThree(t, a)
				a.restart()
				for range 100 {
					time.Sleep(100 * time.Millisecond)
					wantPeers(t, "after the restart", []string{urlA, urlB, urlC}, x, y, z)
				}
				if ids := a.ids(); len(ids) != 3 {
					t.Errorf("the catalog has %q, want three instances", ids)
				}
				if err := z.stop(); err != nil {
					t.Errorf("Follow() = %v, want nil", err)
				}
				wantPeers(t, "after a leave", []string{urlA, urlB}, x, y)
			})
		})
	}
}

func TestPeersThatVanishTogetherAreKeptForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x, y, z := startThree(t, a)
		y.line.cut.Store(true)
		z.line.cut.Store(true)
		yID, zID := instanceAt(t, a, 8082), instanceAt(t, a, 8083)
		if !a.remove(yID, zID) {
			t.Fatal("the catalog has not the instances to be removed")
		}
		time.Sleep(40 * time.Second)
		z.line.cut.Store(false) // it was only lost
		time.Sleep(49 * time.Second)
		wantPeers(t, "before the time is over", []string{urlA, urlB, urlC}, x)
		if n := x.logs.count("peers vanished"); n != 1 {
			t.Errorf("logged %d times that peers vanished, want 1", n)
		}
		time.Sleep(3 * time.Second)
		wantPeers(t, "when the time is over", []string{urlA, urlC}, x)
	})
}

func TestUpToHalfMayLeaveTogetherAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		for _, url := range []string{urlB, urlC, urlD, "http://127.0.0.1:8085"} {
			a.put(foreign(url, map[string]string{"url": url}))
		}
		x := start(t, a, urlA, nil)
		time.Sleep(20 * time.Second)
		wantPeers(t, "at the start", []string{urlA, urlB, urlC, urlD, "http://127.0.0.1:8085"}, x)
		a.remove(urlC, urlD)
		wantPeers(t, "after half have left", []string{urlA, urlB, "http://127.0.0.1:8085"}, x)
	})
}

func TestOnlyPeerIsKeptForAWhileIfItMayOnlyBeLost(t *testing.T) {
	for name, lose := range map[string]func(a *agent, x, y string){
		"the agent has lost its state": func(a *agent, _, _ string) { a.restart() },
		"this node is missing too":     func(a *agent, x, y string) { a.remove(x, y) },
		"the index went backwards": func(a *agent, _, y string) {
			a.mu.Lock()
			a.catalog[y].expire.Stop()
			delete(a.catalog, y)
			a.mu.Unlock()
			a.restore(2)
		},
		"the look-up before failed": func(a *agent, _, y string) {
			a.meddle(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Pattern == patternHealth {
					http.Error(w, "No cluster leader", http.StatusInternalServerError)
				}
				return r.Pattern == patternHealth
			})
			time.Sleep(time.Second)
			a.remove(y)
			a.meddle(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *agent) {
				x, y := start(t, a, urlA, nil), start(t, a, urlB, nil)
				time.Sleep(20 * time.Second)
				wantPeers(t, "at the start", []string{urlA, urlB}, x, y)
				y.line.cut.Store(true)
				lose(a, instanceAt(t, a, 8081), instanceAt(t, a, 8082))
				for range 85 {
					wantPeers(t, "after the loss", []string{urlA, urlB}, x)
					time.Sleep(time.Second)
				}
				time.Sleep(15 * time.Second)
				wantPeers(t, "when the time is over", []string{urlA}, x)
			})
		})
	}
}

func TestInstancesThatAreNoNodesAreLeftOutAndLoggedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		long := strings.Repeat("z", 65)
		for id, meta := range map[string]map[string]string{
			"no meta":       nil,
			"no URL":        {"zone": "eu-1a"},
			"not a URL":     {"url": "http://[::"},
			"no host":       {"url": "http://:8080"},
			"another world": {"url": "redis://127.0.0.1:6379"},
			"a query":       {"url": urlD + "?x=1"},
			"no number":     {"url": urlD, "weight": "heavy"},
			"too heavy":     {"url": urlD, "weight": "101"},
			"too far away":  {"url": urlD, "zone": long},
		} {
			a.put(foreign(id, meta))
		}
		a.put(foreign("by hand", map[string]string{"url": "HTTP://LOCALHOST:80/"})) // a node, spelled another way
		a.put(foreign("old", map[string]string{"url": urlC, "zone": "old", "weight": "2"}))
		a.put(foreign("new", map[string]string{"url": urlC, "zone": "new", "weight": "3"}))
		a.put(foreign("impostor", map[string]string{"url": urlA, "zone": "elsewhere"}))
		x := start(t, a, urlA, nil)
		y := start(t, a, urlB, nil)
		time.Sleep(10 * time.Minute)
		wantPeers(t, "among strangers", []string{urlA, urlB, urlC, "http://localhost"}, x, y)
		for _, peer := range x.node.Peers() {
			if peer.URL == urlC && (peer.Zone != "new" || peer.Weight != 3) {
				t.Errorf("of two claims to one URL, %+v counts, want the later one", peer)
			}
		}
		if got := x.node.Peers()[0]; got != x.node.Self() {
			t.Errorf("Peers()[0] = %+v, want the node itself, %+v", got, x.node.Self())
		}
		if n := x.logs.count("is no node"); n != 9 {
			t.Errorf("logged %d times that an instance is no node, want 9: each once", n)
		}
	})
}

func TestAnswersWithHolesAreRead(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		a.answer(func(_ http.ResponseWriter, entries []*api.ServiceEntry, index uint64) (any, uint64) {
			return append([]*api.ServiceEntry{nil, {}}, entries...), index
		})
		x, y := start(t, a, urlA, nil), start(t, a, urlB, nil)
		time.Sleep(20 * time.Second)
		wantPeers(t, "between holes", []string{urlA, urlB}, x, y)
	})
}

func TestEndDoesNotWaitForAnAgentThatHangs(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x := start(t, a, urlA, nil)
		time.Sleep(10 * time.Second)
		a.meddle(func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		})
		time.Sleep(4 * time.Second) // a confirmation is under way
		began := time.Now()
		if err := x.stop(); err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("the end took %v, want at most 6 s", took)
		}
		if n := x.logs.count("cannot deregister"); n != 1 {
			t.Errorf("logged %d times that it cannot deregister, want 1", n)
		}
	})
}

// A confirmation that the agent has read, and acts on later, must not come after the
// deregistration.
func TestDeregistrationComesLast(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		a.meddle(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Pattern != patternRegister {
				return false
			}
			time.Sleep(time.Second)
			a.register(w, r)
			return true
		})
		x := start(t, a, urlA, nil)
		time.Sleep(500 * time.Millisecond)
		if err := x.stop(); err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
		time.Sleep(2 * time.Second)
		if ids := a.ids(); len(ids) != 0 {
			t.Errorf("the catalog has %q, want nothing", ids)
		}
	})
}

func TestInstanceThatIsGoneAlreadyIsNoFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x := start(t, a, urlA, nil)
		synctest.Wait()
		a.remove(instanceAt(t, a, 8081))
		if err := x.stop(); err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
		if n := x.logs.count("cannot deregister"); n != 0 {
			t.Errorf("logged %d times that it cannot deregister, want 0", n)
		}
	})
}

func TestWaitForConsulEndsWithTheContext(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x, client := newProcess(t, a, urlA, nil)
		x.line.cut.Store(true)
		x.follow(t, client, nil)
		time.Sleep(time.Minute + 100*time.Millisecond)
		began := time.Now()
		if err := x.stop(); err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("the end took %v, want no time", took)
		}
	})
}

// foreign is an instance that somebody else has registered.
func foreign(id string, meta map[string]string) api.AgentServiceRegistration {
	return api.AgentServiceRegistration{
		ID: id, Name: "peercache", Meta: meta,
		Check: &api.AgentServiceCheck{CheckID: id, TTL: "24h", Status: api.HealthPassing, DeregisterCriticalServiceAfter: "1m"},
	}
}

func instanceAt(t *testing.T, a *agent, port int) string {
	t.Helper()
	s, ok := a.registration(port)
	if !ok {
		t.Fatalf("no instance at port %d", port)
	}
	return s.ID
}
