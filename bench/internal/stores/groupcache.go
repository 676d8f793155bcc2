package stores

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"

	"github.com/golang/groupcache"
	"github.com/golang/groupcache/lru"
)

// A groupStore is a group without peers. Groups are never freed: groupcache has
// a global registry of them.
type groupStore struct {
	prompt

	group *groupcache.Group
	sink  func(g *groupcache.Group, key string) (int, error)
}

var groups atomic.Int64

func newGroupView(c Config) (Store, error) {
	return newGroup(c, func(g *groupcache.Group, key string) (int, error) {
		var v groupcache.ByteView
		err := g.Get(context.Background(), key, groupcache.ByteViewSink(&v))
		return v.Len(), err
	})
}

func newGroupBytes(c Config) (Store, error) {
	return newGroup(c, func(g *groupcache.Group, key string) (int, error) {
		var v []byte
		err := g.Get(context.Background(), key, groupcache.AllocatingByteSliceSink(&v))
		return len(v), err
	})
}

func newGroup(c Config, sink func(*groupcache.Group, string) (int, error)) (Store, error) {
	if c.Load == nil {
		return nil, errors.New("groupcache needs Config.Load")
	}
	name := "bench" + strconv.FormatInt(groups.Add(1), 10)
	getter := func(_ context.Context, key string, dest groupcache.Sink) error {
		return dest.SetString(c.Load(key))
	}
	return &groupStore{group: groupcache.NewGroup(name, c.payload(0), groupcache.GetterFunc(getter)), sink: sink}, nil
}

func (s *groupStore) Get(key string) (int, bool) {
	n, err := s.sink(s.group, key)
	return n, err == nil
}

func (s *groupStore) Set(key, _ string) { s.Get(key) }

// A groupLRU is groupcache's list, used as its Group uses it: bytes are counted
// by the caller, who removes the oldest until the rest fits.
type groupLRU struct {
	prompt

	config Config
	list   *lru.Cache
	held   int64
}

func newGroupLRU(c Config) (Store, error) {
	s := &groupLRU{config: c, list: lru.New(c.Entries)}
	s.list.OnEvicted = func(key lru.Key, value any) {
		s.held -= c.weight(key.(string), value.(string))
	}
	return s, nil
}

func (s *groupLRU) Get(key string) (int, bool) {
	v, ok := s.list.Get(key)
	if !ok {
		return 0, false
	}
	return len(v.(string)), true
}

func (s *groupLRU) Set(key, value string) {
	s.list.Remove(key)
	weight := s.config.weight(key, value)
	if s.config.Bytes > 0 && weight > s.config.Bytes {
		return
	}
	s.held += weight
	s.list.Add(key, value)
	for s.config.Bytes > 0 && s.held > s.config.Bytes {
		s.list.RemoveOldest()
	}
}
