package stores

import "github.com/dgraph-io/ristretto/v2"

type ristrettoStore struct {
	config Config
	cache  *ristretto.Cache[string, string]
}

func newRistretto(c Config) (Store, error) {
	cache, err := ristretto.NewCache(&ristretto.Config[string, string]{
		NumCounters:        10 * int64(c.objects()), // what its documentation advises
		MaxCost:            max(int64(c.Entries), c.Bytes),
		BufferItems:        64,       // likewise
		IgnoreInternalCost: !c.Whole, // or an entry would cost 57 where it is meant to cost 1
	})
	if err != nil {
		return nil, err
	}
	return &ristrettoStore{c, cache}, nil
}

func (s *ristrettoStore) Get(key string) (int, bool) {
	v, ok := s.cache.Get(key)
	return len(v), ok
}

func (s *ristrettoStore) Set(key, value string) {
	s.cache.Set(key, value, s.config.weight(key, value))
}

func (s *ristrettoStore) Flush() { s.cache.Wait() }
func (s *ristrettoStore) Close() { s.cache.Close() }
