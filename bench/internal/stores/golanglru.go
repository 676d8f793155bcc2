package stores

import (
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/arc/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// golang-lru counts entries. Where bytes are to be counted, its list is used as
// those do who need that: under a lock of their own, with the oldest removed until
// the rest fits.

func newClassic(c Config) (Store, error) {
	if c.Bytes > 0 {
		list, err := simplelru.NewLRU[string, string](math.MaxInt, nil)
		if err != nil {
			return nil, err
		}
		return &weighedLRU{config: c, list: list}, nil
	}
	cache, err := lru.New[string, string](c.Entries)
	if err != nil {
		return nil, err
	}
	return adding{cache: cache}, nil
}

func newTwoQueue(c Config) (Store, error) {
	cache, err := lru.New2Q[string, string](c.Entries)
	if err != nil {
		return nil, err
	}
	return adding{cache: voidAdder{cache}}, nil
}

func newARC(c Config) (Store, error) {
	cache, err := arc.NewARC[string, string](c.Entries)
	if err != nil {
		return nil, err
	}
	return adding{cache: voidAdder{cache}}, nil
}

// adding is what the three caches have in common.
type adding struct {
	prompt

	cache interface {
		Get(key string) (string, bool)
		Add(key, value string) bool
	}
}

func (s adding) Get(key string) (int, bool) {
	v, ok := s.cache.Get(key)
	return len(v), ok
}

func (s adding) Set(key, value string) { s.cache.Add(key, value) }

// A voidAdder is a cache that does not say whether it has evicted something.
type voidAdder struct {
	cache interface {
		Get(key string) (string, bool)
		Add(key, value string)
	}
}

func (a voidAdder) Get(key string) (string, bool) { return a.cache.Get(key) }

func (a voidAdder) Add(key, value string) bool {
	a.cache.Add(key, value)
	return false
}

type weighedLRU struct {
	prompt

	config Config

	mu   sync.Mutex // guards the fields below
	list *simplelru.LRU[string, string]
	held int64
}

func (s *weighedLRU) Get(key string) (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.list.Get(key)
	return len(v), ok
}

func (s *weighedLRU) Set(key, value string) {
	weight := s.config.weight(key, value)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.list.Peek(key); ok {
		s.held -= s.config.weight(key, old)
		s.list.Remove(key)
	}
	if weight > s.config.Bytes {
		return
	}
	s.list.Add(key, value)
	for s.held += weight; s.held > s.config.Bytes; {
		k, v, _ := s.list.RemoveOldest()
		s.held -= s.config.weight(k, v)
	}
}

func (s *weighedLRU) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}
