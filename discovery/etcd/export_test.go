package etcd

import (
	"context"
	"time"

	"github.com/peercache/peercache"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// FollowListing is Follow with another time between two lists.
func FollowListing(ctx context.Context, node *peercache.Node, client *clientv3.Client, opts *Options, every time.Duration) error {
	f, err := newFollower(node, client, opts)
	if err != nil {
		return err
	}
	f.relist = every
	return f.run(ctx)
}
