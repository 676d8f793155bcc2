package main

import (
	"context"
	"net/http"
)

// A library is one that is compared, used as its users would, with its defaults where
// there is no reason against them.
type library struct {
	name string

	// static libraries do not find out by themselves who their peers are.
	static bool

	// open makes this process a node that has not joined. Its server, which listens at
	// the address of the job before it joins, is not the library's business.
	open func(j job, load loader) (*member, error)
}

// A loader loads a value.
type loader func(ctx context.Context, key string) (string, error)

// libraries is what is compared.
var libraries = []library{
	{name: "peercache", open: openPeercache},
	{name: "groupcache", open: openGroupcache, static: true},
}

func (l library) label() string { return l.name }

// has reports whether the library can do what a scenario is about. groupcache keeps no
// replicas.
func (l library) has(s scenario) bool { return s.replicas == 0 || !l.static }

// A member is this process's place in a cluster. Its functions are safe for concurrent
// use.
type member struct {
	handler http.Handler

	get  func(ctx context.Context, key string) (string, error)
	owns func(key string) bool

	join     func(ctx context.Context) error        // returns when the node is ready
	meet     func(ctx context.Context, n int) error // returns when it knows n nodes, itself among them
	setPeers func(urls []string)                    // tells a static one
	leave    func(ctx context.Context) error        // tells the others, if somebody else does not
}
