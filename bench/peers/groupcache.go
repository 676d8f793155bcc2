package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/golang/groupcache"
)

// groupcache over its HTTPPool. The client is no owner: its pool knows nobody but the
// server.

const groupName = "bench"

func serveGroup(ctx context.Context, j job) (*server, error) {
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	pool := groupcache.NewHTTPPoolOpts("http://"+l.Addr().String(), nil)
	load := loadOnce(j)
	groupcache.NewGroup(groupName, cacheBytes, groupcache.GetterFunc(func(_ context.Context, key string, dest groupcache.Sink) error {
		value, err := load(key)
		if err != nil {
			return err
		}
		return dest.SetString(value)
	}))
	return serveMux(l, pool), nil
}

func dialGroup(_ context.Context, j job) (*client, error) {
	pool := groupcache.NewHTTPPoolOpts("http://client", nil)
	transport := newTransport(j)
	pool.Transport = func(context.Context) http.RoundTripper { return transport }
	pool.Set("http://" + j.Server)
	// Without any bytes it keeps no copies of what is hot either.
	g := groupcache.NewGroup(groupName, 0, groupcache.GetterFunc(func(context.Context, string, groupcache.Sink) error {
		return errLoadedHere
	}))
	return &client{get: func(ctx context.Context, key string) (int, error) {
		var v groupcache.ByteView
		err := g.Get(ctx, key, groupcache.ByteViewSink(&v))
		return v.Len(), err
	}}, nil
}

var errLoadedHere = errors.New("loaded by the client: the server did not answer")
