package cachetest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// serve runs an http.Server at b and returns a client at a.
func serve(t *testing.T, a, b *host, server *http.Server) (client *http.Client, url string) {
	t.Helper()
	l := listen(t, b)
	ended := inBackground(func() { _ = server.Serve(l) })
	transport := &http.Transport{DialContext: a.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		ended()
	})
	return &http.Client{Transport: transport}, "http://" + l.Addr().String()
}

func post(t *testing.T, client *http.Client, url string, body []byte) (answer []byte, reused bool) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, reused
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(body)
}

func TestHTTPKeepsConnectionsAndCarriesBigBodies(t *testing.T) {
	onBothClocks(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		client, url := serve(t, hosts[0], hosts[1], &http.Server{Handler: http.HandlerFunc(echo)})
		for i := range 5 {
			body := bytes.Repeat([]byte{byte(i)}, 1<<20)
			answer, reused := post(t, client, url, body)
			if !bytes.Equal(answer, body) {
				t.Errorf("answer %d has %d bytes, want the %d that were sent", i, len(answer), len(body))
			}
			if reused != (i > 0) {
				t.Errorf("request %d: connection reused is %v", i, reused)
			}
		}
	})
}

func TestHTTPRequestEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		left := make(chan struct{})
		client, url := serve(t, hosts[0], hosts[1], &http.Server{
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				<-r.Context().Done() // the server sees the client go
				close(left)
			}),
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Do: %v, want context.DeadlineExceeded", err)
		}
		if got := time.Since(start); got != time.Second {
			t.Errorf("returned after %v, want 1s", got)
		}
		<-left
	})
}

func TestHTTPServerTimeoutsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		l := listen(t, hosts[1])
		server := &http.Server{Handler: http.HandlerFunc(echo), ReadHeaderTimeout: time.Second}
		ended := inBackground(func() { _ = server.Serve(l) })
		c := dial(t, hosts[0], l)
		start := time.Now()
		write(t, c, "POST / HT")
		got, err := io.ReadAll(c)
		if err != nil || time.Since(start) < time.Second || time.Since(start) > 2*time.Second {
			t.Errorf("read %q, %v after %v, want the server to close after 1s", got, err, time.Since(start))
		}
		_ = c.Close()
		_ = server.Close()
		ended()
	})
}

func TestHTTPUpgradeLeavesAStream(t *testing.T) {
	onBothClocks(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		client, url := serve(t, hosts[0], hosts[1], &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				c, buf, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				_, _ = io.Copy(c, buf)
			}),
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "echo")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		stream, ok := resp.Body.(io.ReadWriter)
		if !ok {
			t.Fatalf("answer %s has a body of %T, want one to write to", resp.Status, resp.Body)
		}
		for range 3 {
			if _, err := io.WriteString(stream, "ping"); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 4)
			if _, err := io.ReadFull(stream, got); err != nil || string(got) != "ping" {
				t.Fatalf("read %q, %v, want ping", got, err)
			}
		}
	})
}

func TestTLSRunsInside(t *testing.T) {
	onBothClocks(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		near, far := connect(t, hosts[0], hosts[1])
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1),
			DNSNames:     []string{"peer"},
			NotBefore:    time.Now().Add(-time.Hour),
			NotAfter:     time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(leaf)
		server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		client := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "peer"})
		ended := inBackground(func() {
			_, _ = io.Copy(server, server)
			_ = server.Close()
		})
		want := strings.Repeat("secret ", 100_000)
		sent := inBackground(func() {
			write(t, client, want)
			_ = client.CloseWrite()
		})
		got, err := io.ReadAll(client)
		if err != nil || string(got) != want {
			t.Errorf("read %d bytes, %v, want the %d that were sent", len(got), err, len(want))
		}
		sent()
		ended()
		_ = client.Close()
	})
}
