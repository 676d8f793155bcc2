package peercache

// OwnersOf returns the URLs of the first n owners of key, as a cache's own
// process sees them.
func OwnersOf[V any](c *Cache[V], key string, n int) []string {
	return c.engine.ring().owners(c.engine.hash(key), n)
}
