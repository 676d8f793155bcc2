package cachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		// memberlist's last goroutines end by timers of a few seconds; each
		// Find waits for about one.
		var err error
		for range 30 {
			if err = goleak.Find(); err == nil {
				break
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// onBothClocks runs a test in real time and in a bubble.
func onBothClocks(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Run("real", f)
	t.Run("bubble", func(t *testing.T) { synctest.Test(t, f) })
}

func newHosts(t *testing.T, count int) (*network, []*host) {
	t.Helper()
	n := newNetwork()
	t.Cleanup(n.close)
	hosts := make([]*host, count)
	for i := range hosts {
		hosts[i] = n.host(netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}))
	}
	return n, hosts
}

func listen(t *testing.T, h *host) net.Listener {
	t.Helper()
	l, err := h.listen("tcp", h.ip.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func listenPacket(t *testing.T, h *host) net.PacketConn {
	t.Helper()
	s, err := h.listenPacket("udp", h.ip.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dial(t *testing.T, h *host, l net.Listener) net.Conn {
	t.Helper()
	c, err := h.dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect returns both ends of a connection from a to b.
func connect(t *testing.T, a, b *host) (net.Conn, net.Conn) {
	t.Helper()
	l := listen(t, b)
	near := dial(t, a, l)
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := io.WriteString(c, s); n != len(s) || err != nil {
		t.Errorf("Write of %d bytes = %d, %v", len(s), n, err)
	}
}

func wantRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v, want %q", b[:n], err, want)
	}
}

func wantReadError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, want) {
		t.Errorf("Read = %d, %v, want 0, %v", n, err, want)
	}
}

func wantWriteError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	_, err := c.Write([]byte("x"))
	if !errors.Is(err, want) {
		t.Errorf("Write: %v, want %v", err, want)
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Errorf("Write: %T, want *net.OpError", err)
	}
}

// wantNothing says that nothing arrives within a minute of a bubble's time.
func wantNothing(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	wantReadError(t, c, os.ErrDeadlineExceeded)
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}

// inBackground runs f and returns a function that waits for its end.
func inBackground(f func()) (wait func()) {
	var group sync.WaitGroup
	group.Go(f)
	return group.Wait
}

func TestPeerReadsWhatWasWrittenBeforeClose(t *testing.T) {
	onBothClocks(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		write(t, a, "hello")
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		wantRead(t, b, "hello")
		wantReadError(t, b, io.EOF)
		wantWriteError(t, b, syscall.EPIPE)
		wantReadError(t, a, net.ErrClosed)
		wantWriteError(t, a, net.ErrClosed)
		if err := a.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v, want %v", err, net.ErrClosed)
		}
	})
}

func TestCloseWriteLeavesTheOtherDirectionOpen(t *testing.T) {
	_, hosts := newHosts(t, 2)
	a, b := connect(t, hosts[0], hosts[1])
	write(t, a, "question")
	if err := a.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantWriteError(t, a, syscall.EPIPE)
	question, err := io.ReadAll(b)
	if err != nil || string(question) != "question" {
		t.Fatalf("read %q, %v", question, err)
	}
	write(t, b, "answer")
	wantRead(t, a, "answer")
}

func TestConnectionForgottenWhenBothEndsClosed(t *testing.T) {
	n, hosts := newHosts(t, 2)
	a, b := connect(t, hosts[0], hosts[1])
	_ = a.Close()
	_ = b.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.streams) != 0 {
		t.Errorf("%d streams kept, want 0", len(n.streams))
	}
}

func TestAddressesAreThoseOfTheHosts(t *testing.T) {
	_, hosts := newHosts(t, 2)
	a, b := connect(t, hosts[0], hosts[1])
	if a.LocalAddr().String() != b.RemoteAddr().String() || a.RemoteAddr().String() != b.LocalAddr().String() {
		t.Errorf("ends are %v-%v and %v-%v", a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
	}
	if ip := a.LocalAddr().(*net.TCPAddr).IP.String(); ip != "127.0.0.1" {
		t.Errorf("dialled from %s, want 127.0.0.1", ip)
	}
}

func TestDeadlineInThePastWakesWhatWaits(t *testing.T) {
	longAgo := time.Unix(1, 0) // what net/http sets
	for name, wait := range map[string]func(c net.Conn) error{
		"read": func(c net.Conn) error {
			_, err := c.Read(make([]byte, 1))
			return err
		},
		"write": func(c net.Conn) error {
			_, err := c.Write(make([]byte, window+1))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, hosts := newHosts(t, 2)
				a, _ := connect(t, hosts[0], hosts[1])
				ended := inBackground(func() {
					err := wait(a)
					var timeout net.Error
					if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
						t.Errorf("%s: %v, want a timeout", name, err)
					}
				})
				synctest.Wait()
				_ = a.SetDeadline(longAgo)
				ended()
			})
		})
	}
}

func TestDeadlineEndsAWaitInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		start := time.Now()
		_ = a.SetReadDeadline(start.Add(time.Second))
		wantReadError(t, a, os.ErrDeadlineExceeded)
		if got := time.Since(start); got != time.Second {
			t.Errorf("waited %v, want 1s", got)
		}
		_ = a.SetReadDeadline(time.Time{})
		write(t, b, "later")
		wantRead(t, a, "later")
	})
}

func TestCloseWakesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		c, d := connect(t, hosts[0], hosts[1])
		write := func(c net.Conn, want error) {
			if _, err := c.Write(make([]byte, window+1)); !errors.Is(err, want) {
				t.Errorf("Write: %v, want %v", err, want)
			}
		}
		waits := []func(){
			inBackground(func() { wantReadError(t, a, net.ErrClosed) }),
			inBackground(func() { wantReadError(t, b, io.EOF) }),
			inBackground(func() { write(c, net.ErrClosed) }),
			inBackground(func() { write(d, syscall.EPIPE) }),
		}
		synctest.Wait()
		_ = a.Close()
		_ = c.Close()
		for _, wait := range waits {
			wait()
		}
	})
}

func TestWriterWaitsWhileTheWindowIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		sent := bytes.Repeat([]byte("0123456789"), window/5)
		written := false
		ended := inBackground(func() {
			if n, err := a.Write(sent); n != len(sent) || err != nil {
				t.Errorf("Write = %d, %v, want %d", n, err, len(sent))
			}
			written = true
			_ = a.Close()
		})
		synctest.Wait()
		if written {
			t.Errorf("wrote %d bytes that nobody read", len(sent))
		}
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("read %d bytes, %v, want the %d that were written", len(got), err, len(sent))
		}
		ended()
	})
}

func TestWritesAtTheSameTimeAreNotMixed(t *testing.T) {
	onBothClocks(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		const writers, size = 4, window + 1000 // each has to wait within
		var group sync.WaitGroup
		for i := range writers {
			group.Go(func() { write(t, a, strings.Repeat(string(rune('a'+i)), size)) })
		}
		for range writers {
			got := make([]byte, size)
			if _, err := io.ReadFull(b, got); err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(got, got[:1]); n != size {
				t.Errorf("%d of %d bytes are those of one writer", n, size)
			}
		}
		group.Wait()
	})
}

func TestDelaysOfBothEndsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 3)
		n.delay(hosts[0], 10*time.Millisecond)
		n.delay(hosts[1], 5*time.Millisecond)
		start := time.Now()
		took := func(what string, want time.Duration) {
			t.Helper()
			if got := time.Since(start); got != want {
				t.Errorf("%s after %v, want %v", what, got, want)
			}
			start = time.Now()
		}
		a, b := connect(t, hosts[0], hosts[1])
		took("connected", 30*time.Millisecond)
		write(t, a, "there")
		wantRead(t, b, "there")
		took("read", 15*time.Millisecond)
		write(t, b, "back")
		_ = b.Close()
		wantRead(t, a, "back")
		wantReadError(t, a, io.EOF)
		took("read", 15*time.Millisecond)
		if _, err := hosts[0].dial(t.Context(), "tcp", "127.0.0.3:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial: %v, want %v", err, syscall.ECONNREFUSED)
		}
		took("refused", 20*time.Millisecond)
	})
}

func TestShorterDelayOvertakesNothingOnAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		n.delay(hosts[0], time.Second)
		start := time.Now()
		write(t, a, "first ")
		n.delay(hosts[0], 0)
		write(t, a, "second")
		wantRead(t, b, "first second")
		if got := time.Since(start); got != time.Second {
			t.Errorf("arrived after %v, want 1s", got)
		}
	})
}

func TestDialFailsWhereNobodyListens(t *testing.T) {
	_, hosts := newHosts(t, 2)
	l := listen(t, hosts[1])
	addr := l.Addr().String()
	_ = l.Close()
	for _, addr := range []string{addr, "127.0.0.2:1", "127.9.9.9:80", "[::1]:80"} {
		if _, err := hosts[0].dial(t.Context(), "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial %s: %v, want %v", addr, err, syscall.ECONNREFUSED)
		}
	}
	if _, err := hosts[0].dial(t.Context(), "tcp", "example.com:80"); err == nil {
		t.Error("dialled a name")
	}
	if _, err := hosts[0].dial(t.Context(), "unix", "127.0.0.2:1"); err == nil {
		t.Error("dialled a unix socket")
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		l := listen(t, hosts[1])
		for name, fault := range map[string]func(){
			"slow":        func() { n.delay(hosts[0], time.Hour) },
			"partitioned": func() { n.partition(func(h *host) int { return int(h.ip.As4()[3]) }) },
			"paused self": func() { n.pause(hosts[0], true) },
			"paused peer": func() { n.pause(hosts[1], true); _ = l.Close() },
		} {
			fault()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := hosts[0].dial(ctx, "tcp", l.Addr().String())
			cancel()
			var timeout net.Error
			if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("%s: dial: %v, want a timeout", name, err)
			}
			n.restore()
		}
	})
}

func TestListenerTakesOnlyAddressesOfItsHost(t *testing.T) {
	_, hosts := newHosts(t, 2)
	l, err := hosts[0].listen("tcp", "0.0.0.0:7946")
	if err != nil || l.Addr().String() != "127.0.0.1:7946" {
		t.Fatalf("listening at %v, %v, want 127.0.0.1:7946", l, err)
	}
	if _, err := hosts[0].listen("tcp", "127.0.0.1:7946"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listen: %v, want %v", err, syscall.EADDRINUSE)
	}
	if _, err := hosts[0].listenPacket("udp", "127.0.0.1:7946"); err != nil {
		t.Errorf("the same port of UDP: %v", err)
	}
	if _, err := hosts[0].listen("tcp", "127.0.0.2:7946"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("listen at another host: %v, want %v", err, syscall.EADDRNOTAVAIL)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := hosts[0].listen("tcp", "127.0.0.1:7946"); err != nil {
		t.Errorf("listen after Close: %v", err)
	}
}

func TestFreePortsDiffer(t *testing.T) {
	_, hosts := newHosts(t, 1)
	seen := map[string]bool{}
	for range 100 {
		addr := listen(t, hosts[0]).Addr().String()
		if seen[addr] {
			t.Fatalf("%s was picked twice", addr)
		}
		seen[addr] = true
	}
}

func TestListenerCloseResetsWhatWasNotAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		l := listen(t, hosts[1])
		a := dial(t, hosts[0], l)
		accepting := listen(t, hosts[1])
		ended := inBackground(func() {
			if _, err := accepting.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept: %v, want %v", err, net.ErrClosed)
			}
		})
		synctest.Wait()
		_ = l.Close()
		_ = accepting.Close()
		ended()
		wantReadError(t, a, syscall.ECONNRESET)
	})
}

func TestDialWaitsForRoomInTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		l := listen(t, hosts[1])
		for range maxBacklog {
			dial(t, hosts[0], l)
		}
		connected := false
		ended := inBackground(func() {
			_, err := hosts[0].dial(t.Context(), "tcp", l.Addr().String())
			connected = err == nil
		})
		synctest.Wait()
		if connected {
			t.Errorf("%d connections wait for Accept, want at most %d", maxBacklog+1, maxBacklog)
		}
		if _, err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		ended()
		if !connected {
			t.Error("not connected though there is room")
		}
	})
}
