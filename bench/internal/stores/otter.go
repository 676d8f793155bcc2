package stores

import "github.com/maypok86/otter/v2"

type otterStore struct{ cache *otter.Cache[string, string] }

func newOtter(c Config) (Store, error) { return makeOtter(c, nil) }

func newOtterTTL(c Config) (Store, error) {
	return makeOtter(c, otter.ExpiryWriting[string, string](ttl))
}

func makeOtter(c Config, expiry otter.ExpiryCalculator[string, string]) (Store, error) {
	opts := &otter.Options[string, string]{ExpiryCalculator: expiry}
	if c.Entries > 0 {
		opts.MaximumSize = c.Entries
	} else {
		opts.MaximumWeight = uint64(c.Bytes)
		opts.Weigher = func(key, value string) uint32 { return uint32(c.weight(key, value)) }
	}
	if c.Serial {
		opts.Executor = func(f func()) { f() }
	}
	cache, err := otter.New(opts)
	if err != nil {
		return nil, err
	}
	return otterStore{cache}, nil
}

func (s otterStore) Get(key string) (int, bool) {
	v, ok := s.cache.GetIfPresent(key)
	return len(v), ok
}

func (s otterStore) Set(key, value string) { s.cache.Set(key, value) }
func (s otterStore) Flush()                { s.cache.CleanUp() }
func (s otterStore) Close()                { s.cache.StopAllGoroutines() }
