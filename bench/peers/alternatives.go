package main

import (
	"context"
	"strings"
)

// An alternative is one way of fetching a value from another process. Each is used
// as its users would: by its plain Get, with its defaults where there is no reason
// against them.
type alternative struct {
	name string

	// sealed alternatives encrypt what they send. They are compared in rows that ask
	// for it.
	sealed bool

	// serve starts what holds the values, in a process of its own or in this one,
	// which does nothing else.
	serve func(ctx context.Context, j job) (*server, error)

	// dial connects to it, in a process that does nothing else. It gives up when ctx
	// ends, and what it returns lives until the process ends.
	dial func(ctx context.Context, j job) (*client, error)

	// missing says why this machine cannot run the alternative. Nil: every machine can.
	missing func() error
}

func (a alternative) label() string { return a.name }

func (a alternative) available() error {
	if a.missing == nil {
		return nil
	}
	return a.missing()
}

// alternatives is what is compared.
var alternatives = []alternative{
	{name: echo, serve: serveEcho, dial: dialEcho},
	{name: echoTLS, sealed: true, serve: serveEchoTLS, dial: dialEchoTLS},
	{name: ours, serve: serveStream, dial: dialStream},
	{name: oursHTTP, serve: servePlain, dial: dialStream},
	{name: oursTLS, sealed: true, serve: serveSealed, dial: dialSealed},
	{name: rueidisName, serve: serveRedis, dial: dialRueidis, missing: redisMissing},
	{name: goRedis, serve: serveRedis, dial: dialGoRedis, missing: redisMissing},
	{name: memcached, serve: serveMemcached, dial: dialMemcached, missing: memcachedMissing},
	{name: group, serve: serveGroup, dial: dialGroup},
	{name: netHTTP, serve: serveHTTP, dial: dialHTTP},
}

// Names of the alternatives.
const (
	echo        = "tcp-echo"       // frames over one connection and nothing else: echo.go
	echoTLS     = "tcp-echo-tls"   // the same within TLS 1.3
	ours        = "peercache"      // Cache[ByteView].Get: peercache.go
	oursHTTP    = "peercache-http" // the same where something on the way refuses upgrades
	oursTLS     = "peercache-tls"  // the same with a secret
	rueidisName = "rueidis"        // redis-server through rueidis: redis.go
	goRedis     = "go-redis"       // redis-server through go-redis
	memcached   = "memcached"      // memcached through gomemcache: memcached.go
	group       = "groupcache"     // groupcache.go
	netHTTP     = "net/http"       // one GET for each value: nethttp.go
	base        = rueidisName      // what ratios are to
)

// A server is what holds the values.
type server struct {
	address string
	pid     int    // of the process that does the work
	stop    func() // ends it; nil if it ends with this process
}

// A client is what asks for values. Its functions are safe for concurrent use.
type client struct {
	// get returns the length of a key's value.
	get func(ctx context.Context, key string) (int, error)

	// put stores a value. Nil: the server has what it is asked for.
	put func(ctx context.Context, key, value string) error

	// owns reports whether the server, and not the client, owns a key. Nil: always.
	owns func(key string) bool
}

// newValue returns a value of a row.
func (j job) newValue() string { return strings.Repeat("v", j.Size) }
