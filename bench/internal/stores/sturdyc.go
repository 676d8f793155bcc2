package stores

import "github.com/viccon/sturdyc"

type sturdycStore struct {
	prompt

	client *sturdyc.Client[string]
}

// newSturdyc turns off the scan for expired entries in the background, which
// could not be stopped again. Ten percent is the eviction that its documentation
// uses throughout.
func newSturdyc(c Config) (Store, error) {
	const evictionPercentage = 10
	shards := 64
	if c.Serial {
		shards = 1
	}
	return sturdycStore{client: sturdyc.New[string](c.spare(), shards, ttl, evictionPercentage,
		sturdyc.WithNoContinuousEvictions())}, nil
}

func (s sturdycStore) Get(key string) (int, bool) {
	v, ok := s.client.Get(key)
	return len(v), ok
}

func (s sturdycStore) Set(key, value string) { s.client.Set(key, value) }
