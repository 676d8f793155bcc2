package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/peercache/peercache"
)

// F18, a process with few file descriptors: nodes come and go in it, and then it runs out of
// them. It is a child, since the limit is for a whole process.

const (
	// maxDescriptors is a tenth of what systems allow by default.
	maxDescriptors = 128

	childVisits = "PEERCACHE_TEST_VISITS" // how many joins and leaves
)

func TestNodesThatComeAndGoLeaveNothingBehind(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("this system does not tell which descriptors are open")
	}
	t.Parallel()
	n := 8
	if *long {
		n = 200
	}
	out, err := newChild(t, "descriptors", childVisits+"="+strconv.Itoa(n)).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// runShortOfDescriptors is what the child does.
func runShortOfDescriptors() {
	if err := comeAndGo(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func comeAndGo() error {
	n, err := strconv.Atoi(os.Getenv(childVisits))
	if err != nil {
		return err
	}
	limit := syscall.Rlimit{Cur: maxDescriptors, Max: maxDescriptors}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	slow := func(ctx context.Context, key string) (string, time.Duration, error) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
		return valueOf(ctx, key)
	}
	ctx := context.Background()
	stay, err := startReal(ctx, anywhere, peercache.NodeOptions{}, slow)
	if err == nil {
		err = stay.Join(ctx)
	}
	if err != nil {
		return err
	}
	if err := visits(ctx, stay, 8); err != nil { // so that what is made once is there
		return err
	}
	goroutines, descriptors := settled()
	start := time.Now()
	if err := visits(ctx, stay, n); err != nil {
		return err
	}
	g, d := settled()
	fmt.Printf("%d joins and leaves in %v: goroutines %d, then %d; descriptors %d, then %d\n",
		n, time.Since(start).Round(time.Millisecond), goroutines, g, descriptors, d)
	if g > goroutines || d > descriptors {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stdout, 1)
		return errors.New("more than there were before")
	}
	return runOut(ctx, stay, slow)
}

// visits has n nodes join stay, load through each other, and leave; a few at a time.
func visits(ctx context.Context, stay *realNode, n int) error {
	var mu sync.Mutex // guards errs
	var errs []error
	var wg sync.WaitGroup
	room := make(chan struct{}, 8)
	for i := range n {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			if err := visit(ctx, stay, i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("visit %d: %w", i, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func visit(ctx context.Context, stay *realNode, i int) error {
	guest, err := startReal(ctx, anywhere, peercache.NodeOptions{}, valueOf)
	if err != nil {
		return err
	}
	defer guest.server.Close()
	if err := guest.Join(ctx, stay.GossipAddr()); err != nil {
		return err
	}
	for k := range 3 {
		for _, n := range []*realNode{stay, guest} {
			if _, err := n.cache.Get(ctx, fmt.Sprint("key-", i, "-", k)); err != nil {
				return err
			}
		}
	}
	brief, cancel := context.WithTimeout(ctx, 400*time.Millisecond) // enough to say it, not to linger
	defer cancel()
	_ = guest.Leave(brief)
	return nil
}

// settled counts goroutines and descriptors when they have not become fewer for some
// seconds: a goodbye of gossip that is cut short outlives a node by five.
func settled() (goroutines, descriptors int) {
	goroutines, descriptors = 1<<30, 1<<30
	for last := time.Now(); time.Since(last) < 6*time.Second; <-time.After(50 * time.Millisecond) {
		open, err := os.ReadDir("/proc/self/fd")
		if g, d := runtime.NumGoroutine(), len(open); err == nil && (g < goroutines || d < descriptors) {
			goroutines, descriptors, last = min(g, goroutines), min(d, descriptors), time.Now()
		}
	}
	return goroutines, descriptors
}

// runOut takes all descriptors that are left and asks for values.
func runOut(ctx context.Context, stay *realNode, slow peercache.Loader[string]) error {
	peer, err := startReal(ctx, anywhere, peercache.NodeOptions{}, slow)
	if err == nil {
		err = peer.Join(ctx, stay.GossipAddr())
	}
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); len(stay.Peers()) != 2; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("peers are %v, want two", stay.Peers())
		}
	}
	var taken []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			break
		}
		if err != nil {
			return err
		}
		taken = append(taken, f)
	}
	if err := getAll(ctx, stay, "without"); err != nil {
		return err
	}
	s := stay.cache.Stats()
	fmt.Printf("without a descriptor left: 1,000 Gets succeed, %d fetches fail, %d loads here\n", s.PeerErrors, s.Loads)
	if s.PeerErrors == 0 {
		return errors.New("no fetch failed: the test shows nothing")
	}
	for _, f := range taken {
		f.Close()
	}
	return getAll(ctx, stay, "with")
}

// getAll gets 1,000 keys, 50 at a time.
func getAll(ctx context.Context, n *realNode, prefix string) error {
	var wg sync.WaitGroup
	errs := make([]error, 50)
	for g := range errs {
		wg.Go(func() {
			for i := range 20 {
				key := fmt.Sprint(prefix, "-", g, "-", i)
				if v, err := n.cache.Get(ctx, key); err != nil || !strings.HasSuffix(v, key) {
					errs[g] = fmt.Errorf("Get = %q, %w", v, err)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
