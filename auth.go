package peercache

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// What follows from a secret: the key of gossip, and an authority for certificates
// that every node which knows the secret has, so that each signs its own and nobody
// has to hand any out. This file opens no connection: gossip takes the keys, and the
// streams between peers the configurations of TLS.
//
// Why certificates, where encrypting with a key made from the secret would be shorter:
// the name in a certificate ties the connection to one node, and the keys of TLS are gone
// when the connection is. Traffic between peers that somebody recorded stays closed to
// whoever learns the secret later; gossip does not. crypto/tls takes no keys that were
// agreed on beforehand, which would do as well.

const (
	// minSecret keeps out what is certainly a password. 16 random bytes are as hard
	// to guess as AES-128 is to break.
	minSecret = 16

	gossipKeySize = 32 // AES-256

	// secretIDSize makes two secrets with one id an accident that does not happen.
	secretIDSize = 16
)

// authALPN is what both sides must name in the handshake: a TLS connection of another
// purpose that happens to end here is refused before it is used.
var authALPN = "peercache/" + strconv.Itoa(metaProtocol)

// The life of a certificate is all of time, the end as RFC 5280 writes "none". Nobody
// looks at it: a clock that is wrong must not split a cluster, and what a date would
// end, a new secret ends better.
var (
	certificateStart = time.Unix(0, 0)
	certificateEnd   = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)
)

// An auth is what a node proves itself with to its peers, and knows them by. It keeps
// neither the secrets nor the private keys of the authorities. It does not change, so
// that all methods are safe for concurrent use. A nil *auth means that there is no
// secret; its methods must not be called.
type auth struct {
	trusts []*trust // by secret; first the primary one
}

// A trust is what a node has of one secret.
type trust struct {
	id          string // says which secret, and nothing about it
	cluster     string
	gossip      []byte
	authority   ed25519.PublicKey
	certificate tls.Certificate // of this node
}

// newAuth returns what follows from secret, and from alternate if it is not empty, for
// the node at url, in its normalized spelling, of a cluster. It keeps neither slice.
// Without any secret it returns nil. It fails if one is shorter than 16 bytes, and for an
// alternate alone; one that is the same as the secret is none.
func newAuth(secret, alternate []byte, cluster, url string) (*auth, error) {
	if len(secret) == 0 && len(alternate) == 0 {
		return nil, nil
	}
	if len(secret) == 0 {
		return nil, errors.New("peercache: NodeOptions.AlternateSecret without Secret: it is what is accepted besides")
	}
	if bytes.Equal(secret, alternate) {
		alternate = nil
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("peercache: key of the node: %w", err)
	}
	a := new(auth)
	for _, of := range []struct {
		option string
		secret []byte
	}{{"Secret", secret}, {"AlternateSecret", alternate}} {
		if len(of.secret) == 0 {
			continue
		}
		if n := len(of.secret); n < minSecret {
			return nil, fmt.Errorf("peercache: NodeOptions.%s has %d bytes, at least %d are needed: "+
				"take random ones, such as 'openssl rand -hex 32' prints", of.option, n, minSecret)
		}
		t, err := newTrust(of.secret, cluster, url, key)
		if err != nil {
			return nil, fmt.Errorf("peercache: NodeOptions.%s: %w", of.option, err)
		}
		a.trusts = append(a.trusts, t)
	}
	return a, nil
}

func newTrust(secret []byte, cluster, url string, key ed25519.PrivateKey) (*trust, error) {
	d, err := derive(secret, cluster, metaProtocol)
	if err != nil {
		return nil, err
	}
	authority := d.authority.Public().(ed25519.PublicKey)
	t := &trust{id: d.id, cluster: cluster, gossip: d.gossip, authority: authority}
	t.certificate, err = mint(d.authority, cluster, url, key)
	return t, err
}

// ids returns the ids of the secrets this node knows, the primary one first: what it
// offers to a peer that it connects to.
func (a *auth) ids() []string {
	ids := make([]string, len(a.trusts))
	for i, t := range a.trusts {
		ids[i] = t.id
	}
	return ids
}

// choose returns which of the secrets that a peer offers is used: this node's primary
// one if the peer knows it, else the alternate. It reports false if they share none.
//
// Offer and choice travel before anything is encrypted. To change them on the way gains
// nothing: each side makes the other prove that it knows the secret which it takes for
// chosen, and accepts every secret that it would choose or offer.
func (a *auth) choose(offered []string) (id string, ok bool) {
	for _, t := range a.trusts {
		if slices.Contains(offered, t.id) {
			return t.id, true
		}
	}
	return "", false
}

// gossipKeys returns the key that gossip is encrypted with, and those it may be
// encrypted with besides. They must not be changed.
//
// Gossip offers no choice: a node encrypts with its primary key for all. Hence the
// three steps of a rotation; {new, old} right after {old} could not be read by those
// that are still to follow.
func (a *auth) gossipKeys() (primary []byte, others [][]byte) {
	for _, t := range a.trusts[1:] {
		others = append(others, t.gossip)
	}
	return a.trusts[0].gossip, others
}

// serverConfig returns how to answer a peer under the secret that choose picked. The
// handshake fails if the peer does not know that secret or is of another cluster. Which
// node it is, peerURL tells afterwards. It is an error if this node does not know the
// secret.
func (a *auth) serverConfig(secretID string) (*tls.Config, error) {
	t, err := a.trust(secretID)
	if err != nil {
		return nil, err
	}
	c := t.config(func(string) error { return nil })
	c.ClientAuth = tls.RequireAnyClientCert // any as far as TLS is concerned: verify looks at it
	return c, nil
}

// clientConfig returns how to meet the peer at url, in its normalized spelling, under
// the secret that the peer chose. The handshake fails if what answers does not know that
// secret, is of another cluster, or is another node. It is an error if this node does
// not know the secret.
//
// In TLS 1.3 a client is done before the server has looked at its certificate. That it
// was refused, it learns from its first read; what it wrote before that, the server has
// thrown away.
func (a *auth) clientConfig(secretID, url string) (*tls.Config, error) {
	t, err := a.trust(secretID)
	if err != nil {
		return nil, err
	}
	return t.config(func(got string) error {
		if got != url {
			return fmt.Errorf("peercache: the node that answers for %s is %.512q", url, got)
		}
		return nil
	}), nil
}

func (a *auth) trust(id string) (*trust, error) {
	for _, t := range a.trusts {
		if t.id == id {
			return t, nil
		}
	}
	return nil, fmt.Errorf("peercache: unknown secret with the id %.64q", id)
}

// config returns what both sides have in common. check has the last word, about the URL
// of the other side.
func (t *trust) config(check func(url string) error) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{t.certificate},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{authALPN},

		// What TLS verifies itself takes a clock, a host name, and for want of roots
		// the system's. VerifyConnection does all of it instead; the proof that the
		// other side has the key to its certificate is never skipped.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			url, err := t.verify(state)
			if err != nil {
				return err
			}
			return check(url)
		},

		// Connections last. A ticket would save little, and is one more way in.
		SessionTicketsDisabled: true,

		// Values are large, and nobody waits for the first kilobyte of one.
		DynamicRecordSizingDisabled: true,
	}
}

// verify returns the URL of the node at the other side of a connection, or why that is
// no node of this cluster. It runs inside the handshake, before the other side has
// proved to have the key to its certificate.
func (t *trust) verify(state tls.ConnectionState) (url string, err error) {
	switch {
	case state.NegotiatedProtocol != authALPN:
		return "", fmt.Errorf("peercache: the peer does not speak %s", authALPN) // TLS lets a client pass that names nothing
	case len(state.PeerCertificates) != 1:
		return "", fmt.Errorf("peercache: the peer sent %d certificates, want 1", len(state.PeerCertificates))
	}
	// The authority's own signature, not a chain: a certificate signed with a node's key
	// is nobody's, whatever it says about itself.
	c := state.PeerCertificates[0]
	switch {
	case !ed25519.Verify(t.authority, c.RawTBSCertificate, c.Signature):
		return "", errors.New("peercache: the peer's certificate comes from another secret, protocol or cluster")
	case !slices.Equal(c.Subject.Organization, []string{t.cluster}):
		return "", fmt.Errorf("peercache: the peer is of the cluster %.64q, this node of %q", c.Subject.Organization, t.cluster)
	case c.Subject.CommonName == "":
		return "", errors.New("peercache: the peer's certificate names no node")
	}
	return c.Subject.CommonName, nil
}

// peerURL returns the URL of the node at the other side of a connection that was made
// with a configuration of this file. It fails before the handshake has finished, and
// for connections of another kind.
func peerURL(state tls.ConnectionState) (string, error) {
	if !state.HandshakeComplete || state.NegotiatedProtocol != authALPN || len(state.PeerCertificates) != 1 {
		return "", errors.New("peercache: not a finished handshake of peers")
	}
	return state.PeerCertificates[0].Subject.CommonName, nil
}

// derived is what a secret stands for in one cluster, under one version of the
// protocol.
type derived struct {
	id        string
	gossip    []byte
	authority ed25519.PrivateKey
}

// derive computes it by HKDF with SHA-256 (RFC 5869). Each part comes from an info of
// its own, so that none tells anything about another or about the secret. That makes
// the id fit for the public as long as the secret is random: whoever guesses a secret can
// check the guess against an id, as fast as SHA-256 is. A function made to be slow would
// turn a weak password into one that is a little less weak, and delay every start.
func derive(secret []byte, cluster string, protocol int) (derived, error) {
	salt := "peercache/" + strconv.Itoa(protocol)
	prk, err := hkdf.Extract(sha256.New, secret, []byte(salt))
	if err != nil {
		return derived{}, err
	}
	var parts [3][]byte
	for i, part := range []struct {
		name string
		size int
	}{{"id", secretIDSize}, {"gossip", gossipKeySize}, {"authority", ed25519.SeedSize}} {
		if parts[i], err = hkdf.Expand(sha256.New, prk, part.name+" of "+cluster, part.size); err != nil {
			return derived{}, err
		}
	}
	return derived{hex.EncodeToString(parts[0]), parts[1], ed25519.NewKeyFromSeed(parts[2])}, nil
}

// mint returns a certificate of the node at url. URL and cluster are in its subject,
// where they may be any text. As an alternative name the URL would have to please
// crypto/x509, which refuses some that net/http can reach.
//
// The node's key is Ed25519 as the authority's is: measured on amd64, a handshake with
// P-256 takes as long and allocates more.
func mint(authority ed25519.PrivateKey, cluster, url string, key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{ // without a serial number, x509 draws one
		Subject:   pkix.Name{CommonName: url, Organization: []string{cluster}},
		NotBefore: certificateStart,
		NotAfter:  certificateEnd,
		KeyUsage:  x509.KeyUsageDigitalSignature,
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "peercache", Organization: []string{cluster}}}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), authority)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der) // the peers will: a name they could not read shows here
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}
