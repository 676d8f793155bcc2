package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// One GET for each value, with what the standard library has: what a cache over HTTP
// costs before it does anything.

// serveMux answers requests with a handler.
func serveMux(l net.Listener, h http.Handler) *server {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.Serve(l) }() // until the process ends
	return &server{address: l.Addr().String(), pid: os.Getpid()}
}

// newTransport keeps a connection for each caller; the default keeps two.
func newTransport(j job) *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: j.Callers, DisableCompression: true}
}

func serveHTTP(ctx context.Context, j job) (*server, error) {
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	value := []byte(j.newValue()) // of a string, small pieces would be copied and written
	return serveMux(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(value)))
		_, _ = w.Write(value) // the client tells of what breaks
	})), nil
}

func dialHTTP(_ context.Context, j job) (*client, error) {
	transport := newTransport(j)
	return &client{get: func(ctx context.Context, key string) (int, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+j.Server+"/"+key, http.NoBody)
		if err != nil {
			return 0, err
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("the server answers %s", resp.Status)
		}
		value := make([]byte, resp.ContentLength)
		return io.ReadFull(resp.Body, value)
	}}, nil
}
