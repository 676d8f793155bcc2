package peercache

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	hereURL  = "http://10.0.0.5:8080" // the client of most tests
	thereURL = "http://10.0.0.6:8080" // the server

	oldSecret = "the secret of last year"
	newSecret = "the secret of this year"
)

func TestSecretDerivesTheSameOnEveryNodeForEver(t *testing.T) {
	// Computed apart from this code, with HMAC alone. A node with other values does
	// not understand those with these: they belong to version 1 of the protocol.
	d, err := derive([]byte("0123456789abcdef"), "peercache", 1)
	if err != nil {
		t.Fatal(err)
	}
	got := [...]string{d.id, hex.EncodeToString(d.gossip), hex.EncodeToString(d.authority.Seed())}
	want := [...]string{
		"c4d6f51117b01d4ef7f1a7a7fda21d8d",
		"9d303faf7c6d04d4e2de02763800a441e6f70bdbeba21d81c65995b445f814cb",
		"b87a5d8fcde0b59440fc46e57af3dcd9f9f2eae838c9104fb105db4a85ce19f3",
	}
	if got != want {
		t.Errorf("derived id, key of gossip and seed of the authority\n%q, want\n%q", got, want)
	}
	here := newTestAuth(t, "0123456789abcdef", "", "peercache", hereURL)
	if now, err := derive([]byte("0123456789abcdef"), "peercache", metaProtocol); err != nil || here.ids()[0] != now.id {
		t.Errorf("a node of protocol %d has the id %q, want %q, %v", metaProtocol, here.ids()[0], now.id, err)
	}
}

func TestNothingDerivedIsSharedOrShowsTheSecret(t *testing.T) {
	seen := make(map[string]string) // what from, by the first 16 bytes
	for _, secret := range []string{"0123456789abcdef", "0123456789abcdeg", "0123456789abcdef\x00"} {
		for _, cluster := range []string{"a", "b", "a of a", ""} {
			for _, protocol := range []int{1, 2, 11} {
				d, err := derive([]byte(secret), cluster, protocol)
				if err != nil {
					t.Fatal(err)
				}
				id, err := hex.DecodeString(d.id)
				if err != nil || len(id) != 16 || len(d.gossip) != 32 {
					t.Errorf("id %q, %v, and %d bytes of gossip key, want 16 in hex and 32", d.id, err, len(d.gossip))
				}
				for name, part := range map[string][]byte{"id": id, "gossip": d.gossip, "authority": d.authority.Seed()} {
					from := fmt.Sprintf("%s of %q in %q, protocol %d", name, secret, cluster, protocol)
					if other := seen[string(part[:16])]; other != "" {
						t.Errorf("%s is also %s", from, other)
					}
					seen[string(part[:16])] = from
					if bytes.Contains(part, []byte(secret[:4])) {
						t.Errorf("%s is %x, which holds a piece of the secret", from, part)
					}
				}
			}
		}
	}
}

func TestUnfitSecretsAreRefusedAndNoneIsNoAuth(t *testing.T) {
	const good, short = "0123456789abcdef", "0123456789abcde"
	for _, c := range []struct{ secret, alternate, want string }{
		{"x", "", "NodeOptions.Secret has 1 bytes, at least 16 "},
		{short, "", "NodeOptions.Secret has 15 bytes, at least 16 "},
		{short, short, "NodeOptions.Secret has 15 bytes, at least 16 "},
		{good, short, "NodeOptions.AlternateSecret has 15 bytes, at least 16 "},
		{"", good, "NodeOptions.AlternateSecret without Secret"},
		{"", short, "NodeOptions.AlternateSecret without Secret"},
	} {
		a, err := newAuth([]byte(c.secret), []byte(c.alternate), "c", hereURL)
		if a != nil || err == nil || !strings.HasPrefix(err.Error(), "peercache: "+c.want) {
			t.Errorf("newAuth(%q, %q) = %v, %v, want an error that says %q", c.secret, c.alternate, a, err, c.want)
		}
	}
	for _, none := range [][]byte{nil, {}} {
		if a, err := newAuth(none, none, "c", hereURL); a != nil || err != nil {
			t.Errorf("newAuth(%#v, %#v) = %v, %v, want nil, nil", none, none, a, err)
		}
	}
}

func TestSecretThatIsItsOwnAlternateCountsOnce(t *testing.T) {
	a := newTestAuth(t, oldSecret, oldSecret, "c", hereURL)
	if _, others := a.gossipKeys(); len(a.ids()) != 1 || len(others) != 0 {
		t.Errorf("it has the ids %q and %d other keys of gossip, want one and none", a.ids(), len(others))
	}
}

func TestNodesOfOneSecretMeet(t *testing.T) {
	for _, url := range []string{
		"http://10.0.0.7", "https://cache.example:8443/a/b", "http://[fd00::1]:8080", "http://under_score:80/~x",
		"http://host.", "http://a..b:1", "http://m%C3%BCnchen:8080", "http://*:80&", "http://" + strings.Repeat("long", 100) + "/",
	} {
		here := newTestAuth(t, oldSecret, "", "c", url)
		there := newTestAuth(t, oldSecret, "", "c", thereURL)
		client, server := meet(t, here, thereURL, there)
		wantMet(t, client, server, url, thereURL)
		client, server = meet(t, there, url, here)
		wantMet(t, client, server, thereURL, url)
	}
}

func TestNodeWithoutURLIsNobody(t *testing.T) {
	// Both would match by text alone.
	here := newTestAuth(t, oldSecret, "", "c", hereURL)
	nobody := newTestAuth(t, oldSecret, "", "c", "")
	client, server := meet(t, here, "", nobody)
	wantRefused(t, client, server, "client", "names no node")
	client, server = meet(t, nobody, hereURL, here)
	wantRefused(t, client, server, "server", "names no node")
}

func TestEveryCertificateIsAnother(t *testing.T) {
	serials, keys := make(map[string]bool), make(map[string]bool)
	for range 3 {
		a := newTestAuth(t, newSecret, oldSecret, "c", hereURL)
		for _, trust := range a.trusts {
			leaf := trust.certificate.Leaf
			serials[leaf.SerialNumber.String()] = true
			keys[string(leaf.PublicKey.(ed25519.PublicKey))] = true
			if start, end := leaf.NotBefore.Year(), leaf.NotAfter.Year(); start != 1970 || end != 9999 {
				t.Errorf("a certificate is valid from %d to %d, want 1970 to 9999", start, end)
			}
		}
	}
	if len(serials) != 6 || len(keys) != 3 {
		t.Errorf("three nodes with two secrets have %d serial numbers and %d keys, want 6 and 3", len(serials), len(keys))
	}
}

func TestStrangerGetsNoByteThrough(t *testing.T) {
	const cluster = "c"
	here := newTestAuth(t, oldSecret, "", cluster, hereURL)
	there := newTestAuth(t, oldSecret, "", cluster, thereURL)
	theirs := there.trusts[0].certificate // public: whoever connected has seen it
	stranger := newTestAuth(t, newSecret, "", cluster, thereURL)
	stranger.trusts[0].id = here.ids()[0] // it repeats what it has seen
	abroad := newTestAuth(t, oldSecret, "", "d", thereURL)
	abroad.trusts[0].id = here.ids()[0]
	d, err := derive([]byte(oldSecret), cluster, metaProtocol)
	if err != nil {
		t.Fatal(err)
	}
	key := stranger.trusts[0].certificate.PrivateKey.(ed25519.PrivateKey)
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	subject := pkix.Name{CommonName: thereURL, Organization: []string{cluster}}
	naming := func(name pkix.Name) tls.Certificate { return issue(t, d.authority, key, name) }

	credulous := func(c *tls.Config) { c.VerifyConnection = nil } // a stranger takes anybody
	with := func(cert tls.Certificate) func(*tls.Config) {
		return func(c *tls.Config) {
			credulous(c)
			c.Certificates = []tls.Certificate{cert}
		}
	}
	for name, c := range map[string]struct {
		change func(*tls.Config) // what the stranger has instead of there's configuration
		as     *auth             // whose configuration the stranger begins with; there's if nil
		want   string            // what the node says
		only   string            // the side the stranger is on, "" for either
	}{
		"another secret":                    {as: stranger, change: credulous, want: "another secret"},
		"another cluster":                   {as: abroad, change: credulous, want: "another secret, protocol or cluster"},
		"another cluster's name":            {change: with(naming(pkix.Name{CommonName: thereURL, Organization: []string{"d"}})), want: `the cluster ["d"], this node of "c"`},
		"no cluster":                        {change: with(naming(pkix.Name{CommonName: thereURL})), want: "the cluster []"},
		"two clusters":                      {change: with(naming(pkix.Name{CommonName: thereURL, Organization: []string{"d", "c"}})), want: `the cluster ["c" "d"]`},
		"another node":                      {change: with(naming(pkix.Name{CommonName: thereURL + "0", Organization: []string{cluster}})), want: "the node that answers for " + thereURL + " is ", only: "server"},
		"no certificate":                    {change: func(c *tls.Config) { credulous(c); c.Certificates = nil }, want: "didn't provide a certificate", only: "client"},
		"signed by itself":                  {change: with(issue(t, key, key, subject)), want: "another secret"},
		"signed by itself with P-256":       {change: with(issue(t, otherKey, otherKey, subject)), want: "another secret"},
		"signed by a node":                  {change: with(issue(t, theirs.PrivateKey.(ed25519.PrivateKey), key, subject)), want: "another secret"},
		"a node's certificate behind":       {change: with(tls.Certificate{Certificate: [][]byte{issue(t, key, key, subject).Certificate[0], theirs.Certificate[0]}, PrivateKey: key}), want: "2 certificates, want 1"},
		"a node's certificate ahead":        {change: with(tls.Certificate{Certificate: [][]byte{theirs.Certificate[0], issue(t, key, key, subject).Certificate[0]}, PrivateKey: key}), want: "2 certificates, want 1"},
		"a node's certificate, its own key": {change: with(tls.Certificate{Certificate: theirs.Certificate, PrivateKey: key}), want: "invalid signature by the"},
		"a changed certificate":             {change: with(forge(t, theirs, key)), want: "another secret"},
		"TLS 1.2":                           {change: func(c *tls.Config) { credulous(c); c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, want: "version"},
		"no protocol":                       {change: func(c *tls.Config) { credulous(c); c.NextProtos = nil }, want: "does not speak peercache/1"},
		"another protocol":                  {change: func(c *tls.Config) { credulous(c); c.NextProtos = []string{"h2"} }, want: "protocol"},
	} {
		as := cmp.Or(c.as, there)
		if c.only != "client" {
			t.Run(name+" as server", func(t *testing.T) {
				clientConfig, serverConfig := configs(t, here, thereURL, as)
				c.change(serverConfig)
				client, server := handshake(t, clientConfig, serverConfig)
				wantRefused(t, client, server, "client", c.want)
			})
		}
		if c.only != "server" {
			t.Run(name+" as client", func(t *testing.T) {
				clientConfig, serverConfig := configs(t, as, hereURL, here)
				c.change(clientConfig)
				client, server := handshake(t, clientConfig, serverConfig)
				wantRefused(t, client, server, "server", c.want)
			})
		}
	}
}

func TestNodesOfTwoSecretsRefuseEachOtherBeforeTheFirstByte(t *testing.T) {
	here := newTestAuth(t, oldSecret, "", "c", hereURL)
	there := newTestAuth(t, newSecret, "", "c", thereURL)
	if id, ok := there.choose(here.ids()); ok {
		t.Errorf("they share the secret %q", id)
	}
	there.trusts[0].id = here.ids()[0] // an accident, or somebody between them
	client, server := meet(t, here, thereURL, there)
	wantRefused(t, client, server, "client", "another secret")
	client, server = meet(t, there, hereURL, here)
	wantRefused(t, client, server, "client", "another secret")
}

func TestNoClockIsConsulted(t *testing.T) {
	here := newTestAuth(t, oldSecret, "", "c", hereURL)
	there := newTestAuth(t, oldSecret, "", "c", thereURL)
	clocks := []time.Time{{}, time.Unix(-1, 0), time.Date(9998, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, a := range clocks {
		for _, b := range clocks {
			clientConfig, serverConfig := configs(t, here, thereURL, there)
			clientConfig.Time = func() time.Time { return a }
			serverConfig.Time = func() time.Time { return b }
			client, server := handshake(t, clientConfig, serverConfig)
			wantMet(t, client, server, hereURL, thereURL)
		}
	}
}

func TestEveryConnectionIsAHandshakeOfItsOwn(t *testing.T) {
	here := newTestAuth(t, oldSecret, "", "c", hereURL)
	there := newTestAuth(t, oldSecret, "", "c", thereURL)
	clientConfig, serverConfig := configs(t, here, thereURL, there)
	clientConfig.SessionTicketsDisabled = false // the server's word must be enough
	clientConfig.ClientSessionCache, clientConfig.ServerName = tls.NewLRUClientSessionCache(1), "there"
	for range 2 {
		client, server := handshake(t, clientConfig, serverConfig)
		wantMet(t, client, server, hereURL, thereURL)
		if client.state.DidResume || server.state.DidResume {
			t.Error("a session was resumed")
		}
	}
}

func TestTicketDoesNotGoRoundTheChecks(t *testing.T) {
	// What if somebody turned tickets on: a session that is resumed sends no
	// certificates, and must be looked at all the same, by either side.
	here := newTestAuth(t, oldSecret, "", "c", hereURL)
	there := newTestAuth(t, oldSecret, "", "c", thereURL)
	cache := tls.NewLRUClientSessionCache(1)
	_, serverConfig := configs(t, here, thereURL, there)
	serverConfig.SessionTicketsDisabled = false
	visit := func(url string) (client, server half) {
		clientConfig, _ := configs(t, here, url, there)
		clientConfig.SessionTicketsDisabled = false
		clientConfig.ClientSessionCache, clientConfig.ServerName = cache, "there"
		return handshake(t, clientConfig, serverConfig)
	}
	visit(thereURL)
	client, server := visit(thereURL)
	wantMet(t, client, server, hereURL, thereURL)
	if !client.state.DidResume {
		t.Fatal("the ticket was not used")
	}
	client, server = visit(hereURL)
	wantRefused(t, client, server, "client", "the node that answers for "+hereURL)
	if !client.state.DidResume {
		t.Error("the ticket was not used where another node should have answered")
	}
	for _, trust := range there.trusts { // which another secret's authority replaces
		trust.authority = newTestAuth(t, newSecret, "", "c", thereURL).trusts[0].authority
	}
	client, server = visit(thereURL)
	wantRefused(t, client, server, "server", "another secret")
}

func TestRotationNeverPartsTheCluster(t *testing.T) {
	stages := [...][2]string{{oldSecret, ""}, {oldSecret, newSecret}, {newSecret, oldSecret}, {newSecret, ""}}
	for i := range stages {
		for j := range stages {
			here := newTestAuth(t, stages[i][0], stages[i][1], "c", hereURL)
			there := newTestAuth(t, stages[j][0], stages[j][1], "c", thereURL)
			t.Run(fmt.Sprintf("stage %d to stage %d", i, j), func(t *testing.T) {
				_, ok := there.choose(here.ids())
				if apart := i+j == 3 && i*j == 0; ok == apart {
					t.Fatalf("they share a secret: %t, want %t", ok, !apart)
				}
				if ok {
					client, server := meet(t, here, thereURL, there)
					wantMet(t, client, server, hereURL, thereURL)
				}
				// A rollout has two stages side by side, no more.
				if i-j > 1 || j-i > 1 {
					return
				}
				sealed, _ := here.gossipKeys()
				primary, others := there.gossipKeys()
				if !bytes.Equal(sealed, primary) && !slices.ContainsFunc(others, func(k []byte) bool { return bytes.Equal(k, sealed) }) {
					t.Error("gossip of the one cannot be read by the other")
				}
			})
		}
	}
}

func TestServerChoosesItsPrimarySecretIfThePeerKnowsIt(t *testing.T) {
	a := newTestAuth(t, newSecret, oldSecret, "c", hereURL)
	b := newTestAuth(t, oldSecret, newSecret, "c", thereURL)
	primary, alternate := a.ids()[0], a.ids()[1]
	if got, want := b.ids(), []string{alternate, primary}; !slices.Equal(got, want) {
		t.Fatalf("with the secrets the other way round the ids are %q, want %q", got, want)
	}
	for _, c := range []struct {
		offered []string
		want    string
	}{
		{a.ids(), primary},
		{b.ids(), primary},
		{[]string{"unknown", alternate}, alternate},
		{[]string{"unknown", strings.ToUpper(primary), primary[:8], ""}, ""},
		{nil, ""},
	} {
		if got, ok := a.choose(c.offered); got != c.want || ok != (c.want != "") {
			t.Errorf("choose(%q) = %q, %t, want %q", c.offered, got, ok, c.want)
		}
	}
}

func TestUnknownSecretHasNoConfiguration(t *testing.T) {
	a := newTestAuth(t, newSecret, "", "c", hereURL)
	b := newTestAuth(t, oldSecret, "", "c", thereURL)
	for _, id := range []string{"", "x", b.ids()[0]} {
		if c, err := a.clientConfig(id, thereURL); c != nil || err == nil {
			t.Errorf("clientConfig(%q) = %v, %v, want an error", id, c, err)
		}
		if c, err := a.serverConfig(id); c != nil || err == nil {
			t.Errorf("serverConfig(%q) = %v, %v, want an error", id, c, err)
		}
	}
}

func TestPeerURLIsOfFinishedHandshakesOnly(t *testing.T) {
	good := tls.ConnectionState{
		HandshakeComplete: true, NegotiatedProtocol: "peercache/1",
		PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: hereURL}}},
	}
	if got, err := peerURL(good); got != hereURL || err != nil {
		t.Errorf("peerURL of a finished handshake = %q, %v, want %q", got, err, hereURL)
	}
	for name, change := range map[string]func(*tls.ConnectionState){
		"unfinished":       func(s *tls.ConnectionState) { s.HandshakeComplete = false },
		"another protocol": func(s *tls.ConnectionState) { s.NegotiatedProtocol = "h2" },
		"no certificate":   func(s *tls.ConnectionState) { s.PeerCertificates = nil },
	} {
		state := good
		change(&state)
		if got, err := peerURL(state); got != "" || err == nil {
			t.Errorf("%s: peerURL = %q, %v, want an error", name, got, err)
		}
	}
}

// BenchmarkHandshake is what a connection to a peer costs both sides together. They
// take turns, so that the time is that of the CPU.
func BenchmarkHandshake(b *testing.B) {
	here := newTestAuth(b, oldSecret, "", "c", hereURL)
	there := newTestAuth(b, oldSecret, "", "c", thereURL)
	b.ReportAllocs()
	for b.Loop() {
		clientConfig, serverConfig := configs(b, here, thereURL, there)
		near, far := net.Pipe()
		server := make(chan error, 1)
		go func() { server <- tls.Server(far, serverConfig).HandshakeContext(b.Context()) }()
		err := tls.Client(near, clientConfig).HandshakeContext(b.Context())
		if err = errors.Join(err, <-server); err != nil {
			b.Fatal(err)
		}
		near.Close()
		far.Close()
	}
}

// BenchmarkSealedThroughput is what encryption leaves of a connection on one machine
// whose cores work for both sides.
func BenchmarkSealedThroughput(b *testing.B) {
	here := newTestAuth(b, oldSecret, "", "c", hereURL)
	there := newTestAuth(b, oldSecret, "", "c", thereURL)
	for _, sealed := range []bool{false, true} {
		b.Run(map[bool]string{false: "TCP", true: "TLS"}[sealed], func(b *testing.B) {
			near, far := loopback(b)
			if sealed {
				clientConfig, serverConfig := configs(b, here, thereURL, there)
				near, far = tls.Client(near, clientConfig), tls.Server(far, serverConfig)
			}
			read := make(chan error, 1)
			go func() {
				_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, far, make([]byte, 64<<10))
				read <- err
			}()
			value := make([]byte, 1<<20)
			b.SetBytes(int64(len(value)))
			for b.Loop() {
				if _, err := near.Write(value); err != nil {
					b.Fatal(err)
				}
			}
			near.Close()
			if err := <-read; err != nil {
				b.Error(err)
			}
		})
	}
}

func newTestAuth(tb testing.TB, secret, alternate, cluster, url string) *auth {
	tb.Helper()
	s, alt := []byte(secret), []byte(alternate)
	a, err := newAuth(s, alt, cluster, url)
	if err != nil {
		tb.Fatal(err)
	}
	clear(s) // they are the caller's, who may wipe them
	clear(alt)
	return a
}

// configs returns how here meets the node it takes for the one at url, and how there
// answers.
func configs(tb testing.TB, here *auth, url string, there *auth) (client, server *tls.Config) {
	tb.Helper()
	id, ok := there.choose(here.ids())
	if !ok {
		tb.Fatal("they share no secret")
	}
	client, err := here.clientConfig(id, url)
	if err != nil {
		tb.Fatal(err)
	}
	server, err = there.serverConfig(id)
	if err != nil {
		tb.Fatal(err)
	}
	return client, server
}

// issue returns a certificate of key's, signed by whoever signs.
func issue(t *testing.T, signs, key crypto.Signer, subject pkix.Name) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{Subject: subject, NotBefore: certificateStart, NotAfter: certificateEnd}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "peercache", Organization: subject.Organization}}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signs)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// forge returns a node's certificate with another key in it, and the node's signature.
func forge(t *testing.T, cert tls.Certificate, key ed25519.PrivateKey) tls.Certificate {
	t.Helper()
	before := cert.PrivateKey.(ed25519.PrivateKey).Public().(ed25519.PublicKey)
	if n := bytes.Count(cert.Certificate[0], before); n != 1 {
		t.Fatalf("the certificate holds its key %d times, want once", n)
	}
	der := bytes.Replace(cert.Certificate[0], before, key.Public().(ed25519.PublicKey), 1)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A half is what one side saw of a connection.
type half struct {
	handshake error
	state     tls.ConnectionState
	got       string // what the other side said
	read      error  // why there was no more, if not because it was all
}

// meet connects here to there, which here takes for the node at url.
func meet(t *testing.T, here *auth, url string, there *auth) (client, server half) {
	t.Helper()
	clientConfig, serverConfig := configs(t, here, url, there)
	return handshake(t, clientConfig, serverConfig)
}

// handshake connects two configurations. Each side says something as soon as it may.
func handshake(t *testing.T, clientConfig, serverConfig *tls.Config) (client, server half) {
	t.Helper()
	near, far := loopback(t)
	var both sync.WaitGroup
	both.Go(func() { client = converse(t.Context(), tls.Client(near, clientConfig), "the client's word") })
	both.Go(func() { server = converse(t.Context(), tls.Server(far, serverConfig), "the server's word") })
	both.Wait()
	return client, server
}

func converse(ctx context.Context, conn *tls.Conn, say string) (h half) {
	defer conn.Close()
	h.handshake = conn.HandshakeContext(ctx)
	h.state = conn.ConnectionState()
	if h.handshake != nil {
		return h
	}
	_, err := io.WriteString(conn, say)
	err = errors.Join(err, conn.CloseWrite())
	got, readErr := io.ReadAll(conn)
	h.got, h.read = string(got), errors.Join(err, readErr)
	return h
}

// loopback returns the ends of a connection, closed at the end of the test.
func loopback(tb testing.TB) (near, far net.Conn) {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	near, err = new(net.Dialer).DialContext(tb.Context(), "tcp", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { near.Close() })
	far, err = listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { far.Close() })
	for _, c := range []net.Conn{near, far} {
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil { // a test that hangs ends with an error
			tb.Fatal(err)
		}
	}
	return near, far
}

func wantMet(t *testing.T, client, server half, clientURL, serverURL string) {
	t.Helper()
	for side, c := range map[string]struct {
		half
		url, say string
	}{"client": {client, serverURL, "the server's word"}, "server": {server, clientURL, "the client's word"}} {
		if c.handshake != nil || c.read != nil || c.got != c.say {
			t.Errorf("the %s: handshake %v, read %q, %v, want %q", side, c.handshake, c.got, c.read, c.say)
		}
		if url, err := peerURL(c.state); url != c.url || err != nil {
			t.Errorf("the %s's peer is %q, %v, want %q", side, url, err, c.url)
		}
		if c.state.Version != tls.VersionTLS13 {
			t.Errorf("the %s speaks %s, want TLS 1.3", side, tls.VersionName(c.state.Version))
		}
	}
}

// wantRefused wants that a side's handshake failed for a reason, and that neither side
// got a word.
func wantRefused(t *testing.T, client, server half, side, why string) {
	t.Helper()
	refuses, refused := client, server
	if side == "server" {
		refuses, refused = server, client
	}
	if refuses.handshake == nil || !strings.Contains(refuses.handshake.Error(), why) {
		t.Errorf("the %s's handshake: %v, want an error that says %q", side, refuses.handshake, why)
	}
	if url, err := peerURL(refuses.state); err == nil {
		t.Errorf("the %s has the peer %q", side, url)
	}
	if refused.handshake == nil && refused.read == nil {
		t.Errorf("the side that the %s refused does not know", side)
	}
	if client.got != "" || server.got != "" {
		t.Errorf("the client got %q, the server %q, want nothing", client.got, server.got)
	}
}
