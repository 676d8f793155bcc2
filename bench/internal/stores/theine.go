package stores

import "github.com/Yiling-J/theine-go"

type theineStore struct {
	config Config
	cache  *theine.Cache[string, string]
}

func newTheine(c Config) (Store, error) {
	cache, err := theine.NewBuilder[string, string](max(int64(c.Entries), c.Bytes)).Build()
	if err != nil {
		return nil, err
	}
	return &theineStore{c, cache}, nil
}

func (s *theineStore) Get(key string) (int, bool) {
	v, ok := s.cache.Get(key)
	return len(v), ok
}

func (s *theineStore) Set(key, value string) { s.cache.Set(key, value, s.config.weight(key, value)) }
func (s *theineStore) Flush()                { s.cache.Wait() }
func (s *theineStore) Close()                { s.cache.Close() }
