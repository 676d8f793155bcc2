package peercache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// F20: where a peer was or should be there is somebody else. Nobody is asked there, and
// nothing is said that is not for him.

func TestStrangerAtAPeersAddressHearsNeitherKeysNorValues(t *testing.T) {
	for name, c := range map[string]struct {
		node, stranger peercache.NodeOptions
		heard          bool
	}{
		"a peer, who hears them": {heard: true},
		"a wrong secret":         {node: peercache.NodeOptions{Secret: secretA}, stranger: peercache.NodeOptions{Secret: secretB}},
		"no secret":              {node: peercache.NodeOptions{Secret: secretA}},
		"a secret where is none": {stranger: peercache.NodeOptions{Secret: secretB}},
		"another cluster":        {stranger: peercache.NodeOptions{Cluster: "another"}},
		"another cluster, same secret": {
			node:     peercache.NodeOptions{Secret: secretA},
			stranger: peercache.NodeOptions{Secret: secretA, Cluster: "another"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()      // it mostly waits
			var overheard tap // all that both say to each other: each connection is dialled by one of them
			c.node.Network, c.stranger.Network = overheard.network(), overheard.network()
			a := newUnjoined(t, anywhere, c.node, victimOf)
			b := newUnjoined(t, anywhere, c.stranger, victimOf)
			meetEachOther(t, a, b)
			for from, to := range map[*realNode]*realNode{a: b, b: a} {
				large := strings.Repeat(victim, 20_000)
				for _, key := range keysOf(to, "key-"+victim, 5) {
					if v, err := from.cache.Get(t.Context(), key); err != nil || v != "value "+victim+" "+key {
						t.Errorf("Get(%s) = %q, %v", key, v, err)
					}
					// That they are not confirmed is right.
					_ = from.cache.Set(shortly(t), key, large, time.Minute)
					_ = from.cache.Remove(shortly(t), key)
				}
				if s := to.cache.Stats(); (s.Served > 0) != c.heard {
					t.Errorf("%d answers to the other, want some: %t", s.Served, c.heard)
				}
			}
			if overheard.size() < 200 {
				t.Fatalf("%d bytes were said: the test shows nothing", overheard.size())
			}
			if got := overheard.heard(victim); got != c.heard {
				t.Errorf("a key or value was said: %t, want %t", got, c.heard)
			}
		})
	}
}

// shortly returns a context that ends when a peer that is there has answered.
func shortly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestRedirectOfAPeerIsNotFollowed(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		var asked atomic.Int32
		cache, _, key := badPeer(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "peercache/1")
			http.Redirect(w, r, other.URL+r.URL.Path, status)
		})
		wantValue(t, cache, key)
		_ = cache.Set(shortly(t), key, "v", 0)
		_ = cache.Remove(shortly(t), key)
		if asked.Load() < 3 {
			t.Errorf("%d: the peer was asked %d times: the test shows nothing", status, asked.Load())
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went where a peer redirected them, want none", n)
	}
}

// The names that the process knows which runs confined, by what they stand for.
var confinedNames = map[string]string{
	"peer.example":        "192.0.2.7",
	"metadata.example":    "169.254.169.254",
	"mapped.example":      "::ffff:169.254.169.254",
	"link.example":        "fe80::1",
	"multicast.example":   "224.0.0.1",
	"multicast6.example":  "ff02::1",
	"unspecified.example": "0.0.0.0",
	"any.example":         "::",
}

const confinedProxy = "192.0.2.99:3128"

func init() { children["confined"] = runConfined }

// TestOnlyAddressesOfPeersAreDialled is about a process of its own, since proxies of the
// environment and the resolver are a whole process's.
func TestOnlyAddressesOfPeersAreDialled(t *testing.T) {
	cmd := newChild(t, "confined", "HTTP_PROXY=http://"+confinedProxy, "http_proxy=http://"+confinedProxy, "NO_PROXY=", "no_proxy=")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	dialled := strings.Fields(string(out))
	if len(dialled) == 0 {
		t.Fatal("nothing was dialled: the test shows nothing")
	}
	for _, addr := range dialled {
		if addr != "192.0.2.7:80" {
			t.Errorf("dialled %s, want 192.0.2.7:80, where the only peer is", addr)
		}
	}
}

// runConfined prints what a node dials whose peers' names stand for addresses that no
// peer has, but one.
func runConfined() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go answerNames(server)
		return client, nil
	}}
	if err := getConfined(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func getConfined(ctx context.Context) error {
	node, err := peercache.NewNode("http://127.0.0.1:1", &peercache.NodeOptions{Logger: discardLogger(), Network: &peercache.Network{
		Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			fmt.Println(addr)
			return nil, fmt.Errorf("no route to %s", addr)
		},
		Listen:       func(string, string) (net.Listener, error) { return nil, net.ErrClosed },
		ListenPacket: func(string, string) (net.PacketConn, error) { return nil, net.ErrClosed },
	}})
	if err != nil {
		return err
	}
	peers := []peercache.Peer{node.Self()}
	for name := range confinedNames {
		peers = append(peers, peercache.Peer{URL: "http://" + name})
	}
	if err := node.SetPeers(peers...); err != nil {
		return err
	}
	cache := peercache.New("c", valueOf, &peercache.Options{Node: node})
	for i := range 300 {
		key := fmt.Sprint("k", i)
		if v, err := cache.Get(ctx, key); err != nil || v != "value of "+key {
			return fmt.Errorf("Get = %q, %w", v, err)
		}
	}
	return nil // and the process ends
}

// answerNames is a name server for one connection (RFC 1035, as over TCP: each message
// has its length before it).
func answerNames(conn net.Conn) {
	defer conn.Close()
	b := make([]byte, 2+512)
	for {
		n, err := conn.Read(b)
		if err != nil || n < 2+12 {
			return
		}
		query := b[2:n]
		var name strings.Builder
		at := 12
		for at < len(query)-5 && query[at] != 0 {
			label := query[at+1 : at+1+int(query[at])]
			name.Write(label)
			at += 1 + len(label)
			if query[at] != 0 {
				name.WriteByte('.')
			}
		}
		question := query[12 : at+5]
		address := net.ParseIP(confinedNames[name.String()])
		wants := binary.BigEndian.Uint16(question[len(question)-4:])
		var data []byte
		switch isV6 := strings.Contains(confinedNames[name.String()], ":"); {
		case wants == 1 && !isV6:
			data = address.To4()
		case wants == 28 && isV6:
			data = address.To16()
		}
		answer := bytes.Clone(query[:2])
		answer = append(answer, 0x81, 0x80, 0, 1, 0, byte(min(len(data), 1)), 0, 0, 0, 0)
		answer = append(answer, question...)
		if data != nil {
			answer = append(answer, 0xc0, 12)                      // the name that was asked for
			answer = append(answer, question[len(question)-4:]...) // its type and class
			answer = append(answer, 0, 0, 0, 60, 0, byte(len(data)))
			answer = append(answer, data...)
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}
