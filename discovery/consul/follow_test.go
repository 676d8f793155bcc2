package consul_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
	"github.com/peercache/peercache"

	"github.com/peercache/peercache/discovery/consul"
)

// What Follow does while Consul does its part. The rest is in outage_test.go.

func TestClusterGrowsFromOneToThree(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x := start(t, a, urlA, &peercache.NodeOptions{Zone: "eu-1a", Weight: 2})
		wantPeers(t, "alone", []string{urlA}, x)
		y := start(t, a, urlB, &peercache.NodeOptions{Zone: "eu-1b"})
		wantPeers(t, "with a second", []string{urlA, urlB}, x, y)
		z := start(t, a, urlC, nil)
		time.Sleep(10 * time.Second)
		wantPeers(t, "with a third", []string{urlA, urlB, urlC}, x, y, z)

		want := []peercache.Peer{{URL: urlA, Zone: "eu-1a", Weight: 2}, {URL: urlB, Zone: "eu-1b", Weight: 1}, {URL: urlC, Weight: 1}}
		for _, p := range []*process{x, y, z} {
			if diff := cmp.Diff(want, p.node.Peers()); diff != "" {
				t.Errorf("Peers() of %s (-want +got):\n%s", p.node.Self().URL, diff)
			}
			select {
			case <-p.node.Ready():
			default:
				t.Errorf("%s is not ready", p.node.Self().URL)
			}
		}
	})
}

func TestPeersSeeALeaveAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x, y, z := startThree(t, a)
		began := time.Now()
		if err := z.stop(); err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
		wantPeers(t, "after the third has left", []string{urlA, urlB}, x, y)
		if err := y.stop(); err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
		wantPeers(t, "after the second has left", []string{urlA}, x)
		if took := time.Since(began); took > 0 {
			t.Errorf("two leaves took %v, want no time", took)
		}
		if ids := a.ids(); len(ids) != 1 {
			t.Errorf("the catalog has %q, want one instance", ids)
		}
	})
}

func TestSilentProcessDisappearsAfterItsTTL(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x, y, z := startThree(t, a)
		z.line.cut.Store(true)
		time.Sleep(6 * time.Second)
		wantPeers(t, "within the TTL", []string{urlA, urlB, urlC}, x, y)
		time.Sleep(5 * time.Second)
		wantPeers(t, "after the TTL", []string{urlA, urlB}, x, y)
		wantPeers(t, "of the silent process", []string{urlA, urlB, urlC}, z)
		time.Sleep(time.Minute)
		if ids := a.ids(); len(ids) != 2 {
			t.Errorf("the catalog has %q a minute later, want two instances", ids)
		}

		z.line.cut.Store(false)
		time.Sleep(15 * time.Second)
		wantPeers(t, "when the silent one is back", []string{urlA, urlB, urlC}, x, y, z)
	})
}

func TestRegistrationSaysWhatTheNodeIs(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		p, client := newProcess(t, a, "https://[2001:db8::5]:8443/app", &peercache.NodeOptions{Insecure: true, Zone: "eu-1a", Weight: 3})
		p.follow(t, client, &consul.Options{Service: "users-cache", TTL: 30 * time.Second})
		synctest.Wait()
		got, ok := a.registration(8443)
		if !ok {
			t.Fatal("no instance at port 8443")
		}
		const id = "users-cache-https-2001-db8-5-8443-app-a7451cb7"
		want := api.AgentServiceRegistration{
			ID: id, Name: "users-cache", Address: "2001:db8::5", Port: 8443,
			Meta: map[string]string{"url": "https://[2001:db8::5]:8443/app", "zone": "eu-1a", "weight": "3"},
			Check: &api.AgentServiceCheck{
				CheckID: "service:" + id, Name: "process confirms itself", TTL: "30s",
				Status: "passing", DeregisterCriticalServiceAfter: "1m0s",
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("registration (-want +got):\n%s", diff)
		}
		from := time.Now()
		time.Sleep(5*time.Minute + time.Second)
		if n := a.count(patternUpdate, from); n != 30 {
			t.Errorf("confirmed %d times in 5 minutes, want 30: every third of the TTL", n)
		}
		if n := a.count(patternRegister, time.Time{}); n != 1 {
			t.Errorf("registered %d times, want 1", n)
		}
	})
}

func TestURLsWithoutAPortHaveThatOfTheirScheme(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		start(t, a, "http://localhost", nil)
		start(t, a, "https://localhost", nil)
		synctest.Wait()
		for _, port := range []int{80, 443} {
			if s, ok := a.registration(port); !ok || s.Address != "localhost" {
				t.Errorf("instance at port %d: %q, %v; want localhost", port, s.Address, ok)
			}
		}
	})
}

func TestProcessesOfDifferentServicesDoNotMeet(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x := start(t, a, urlA, nil)
		y, client := newProcess(t, a, urlB, nil)
		y.follow(t, client, &consul.Options{Service: "other"})
		time.Sleep(time.Minute)
		wantPeers(t, "of the default service", []string{urlA}, x)
		wantPeers(t, "of another service", []string{urlB}, y)
	})
}

func TestFollowRefusesMisuse(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		p, client := newProcess(t, a, urlA, nil)
		left, _ := newProcess(t, a, urlB, nil)
		if err := left.node.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			node   *peercache.Node
			client *api.Client
			opts   consul.Options
			want   string
		}{
			"nil node":        {nil, client, consul.Options{}, "the node is nil"},
			"nil client":      {p.node, nil, consul.Options{}, "the client is nil"},
			"odd service":     {p.node, client, consul.Options{Service: "a/b"}, `"a/b"`},
			"service of dots": {p.node, client, consul.Options{Service: ".."}, `".."`},
			"short TTL":       {p.node, client, consul.Options{TTL: time.Millisecond}, "1ms"},
			"negative TTL":    {p.node, client, consul.Options{TTL: -1}, "-1ns"},
			"node that left":  {left.node, client, consul.Options{}, "has left"},
		} {
			if err := consul.Follow(t.Context(), c.node, c.client, &c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: Follow() = %v, want an error with %q", name, err, c.want)
			}
		}
		if n := a.count(patternRegister, time.Time{}); n != 0 {
			t.Errorf("registered %d times, want 0", n)
		}
	})
}

// This one has sockets: gossip binds them.
func TestFollowRefusesANodeThatHasJoined(t *testing.T) {
	node, err := peercache.NewNode(urlA, &peercache.NodeOptions{Gossip: "127.0.0.1:0", Logger: new(logs).logger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Leave(ended()) })
	if err := node.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := api.NewClient(&api.Config{HttpClient: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	if err := consul.Follow(t.Context(), node, client, nil); err == nil || !strings.Contains(err.Error(), "joined") {
		t.Errorf("Follow() = %v, want an error that says that the node has joined", err)
	}
}

func TestFollowEndsWhenItsNodeLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x := start(t, a, urlA, nil)
		y := start(t, a, urlB, nil)
		time.Sleep(10 * time.Second)
		wantPeers(t, "before", []string{urlA, urlB}, x, y)
		if err := y.node.Leave(ended()); err == nil {
			t.Error("Leave with a context that has ended = nil, want its error")
		}
		time.Sleep(4 * time.Second) // a third of the TTL, rounded up
		if err := y.stop(); err == nil || !strings.Contains(err.Error(), "left") {
			t.Errorf("Follow() = %v, want an error that says that the node has left", err)
		}
		wantPeers(t, "after", []string{urlA}, x)
	})
}

func TestContextThatHasEndedRegistersNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		p, client := newProcess(t, a, urlA, nil)
		if err := consul.Follow(ended(), p.node, client, nil); err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
		for _, pattern := range []string{patternRegister, patternDeregister, patternHealth} {
			if n := a.count(pattern, time.Time{}); n != 0 {
				t.Errorf("%d requests %s, want 0", n, pattern)
			}
		}
	})
}

func TestFollowingAgainBeginsWithThePeersThereAre(t *testing.T) {
	inBubble(t, func(t *testing.T, a *agent) {
		x, client := newProcess(t, a, urlA, nil)
		x.follow(t, client, nil)
		y := start(t, a, urlB, nil)
		time.Sleep(10 * time.Second)
		wantPeers(t, "before", []string{urlA, urlB}, x, y)
		if err := x.stop(); err != nil {
			t.Errorf("Follow() = %v, want nil", err)
		}
		x.line.cut.Store(true)
		x.follow(t, client, nil)
		time.Sleep(time.Minute)
		wantPeers(t, "while Consul does not answer", []string{urlA, urlB}, x)
	})
}
