package cachetest

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// apart puts every host in a group of its own.
func apart(h *host) int { return int(h.ip.As4()[3]) }

func TestKillResetsConnectionsOnBothEnds(t *testing.T) {
	onBothClocks(t, func(t *testing.T) {
		n, hosts := newHosts(t, 3)
		a, b := connect(t, hosts[0], hosts[1])
		c, d := connect(t, hosts[1], hosts[0])
		others, other := connect(t, hosts[0], hosts[2])
		reading := inBackground(func() { wantReadError(t, a, syscall.ECONNRESET) })
		n.kill(hosts[1])
		reading()
		for _, end := range []net.Conn{a, b, c, d} {
			wantReadError(t, end, syscall.ECONNRESET)
			wantWriteError(t, end, syscall.ECONNRESET)
			if err := end.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			wantReadError(t, end, net.ErrClosed)
		}
		write(t, others, "still here")
		wantRead(t, other, "still here")
	})
}

func TestPeerOfTheKilledReadsWhatHadArrived(t *testing.T) {
	n, hosts := newHosts(t, 2)
	a, b := connect(t, hosts[0], hosts[1])
	write(t, b, "last words")
	n.kill(hosts[1])
	wantRead(t, a, "last words")
	wantReadError(t, a, syscall.ECONNRESET)
}

func TestKilledHostIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		dead, alive := listen(t, hosts[0]), listen(t, hosts[1])
		deadSocket, aliveSocket := listenPacket(t, hosts[0]), listenPacket(t, hosts[1])
		dial(t, hosts[1], dead) // in the backlog
		send(t, aliveSocket, deadSocket, "before")
		n.kill(hosts[0])
		if _, err := hosts[1].dial(t.Context(), "tcp", dead.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial of it: %v, want %v", err, syscall.ECONNREFUSED)
		}
		if _, err := hosts[0].dial(t.Context(), "tcp", alive.Addr().String()); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("dial by it: %v, want %v", err, syscall.ENETUNREACH)
		}
		if _, err := deadSocket.WriteTo([]byte("x"), aliveSocket.LocalAddr()); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("WriteTo by it: %v, want %v", err, syscall.ENETUNREACH)
		}
		send(t, aliveSocket, deadSocket, "after")
		wantNoPacket(t, deadSocket)
		wantNoPacket(t, aliveSocket)
		ended := inBackground(func() {
			if _, err := dead.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept: %v, want to wait for Close", err)
			}
		})
		n.restore() // for ever
		n.pause(hosts[0], true)
		if _, err := hosts[1].dial(t.Context(), "tcp", dead.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial of it: %v, want %v", err, syscall.ECONNREFUSED)
		}
		synctest.Wait()
		_ = dead.Close()
		ended()
	})
}

func TestKillIsSeenAfterTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		a, _ := connect(t, hosts[0], hosts[1])
		n.delay(hosts[1], time.Second)
		start := time.Now()
		n.kill(hosts[1])
		wantReadError(t, a, syscall.ECONNRESET)
		if got := time.Since(start); got != time.Second {
			t.Errorf("reset after %v, want 1s", got)
		}
	})
}

func TestPartitionHoldsBytesUntilHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 3)
		a, b := connect(t, hosts[0], hosts[1])
		c, d := connect(t, hosts[0], hosts[0])
		write(t, a, "arrived, ")
		n.delay(hosts[0], time.Second)
		write(t, a, "under way, ")
		n.partition(apart)
		write(t, a, "during")
		_ = a.Close()
		wantRead(t, b, "arrived, ")
		wantNothing(t, b)
		write(t, b, "into the void") // it does not know
		write(t, c, "itself")
		wantRead(t, d, "itself")
		start := time.Now()
		n.partition(func(*host) int { return 0 })
		wantRead(t, b, "under way, during")
		wantReadError(t, b, io.EOF)
		if got := time.Since(start); got != time.Second {
			t.Errorf("arrived %v after Heal, want the delay, 1s", got)
		}
	})
}

func TestPartitionHoldsDialsUntilHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 3)
		l := listen(t, hosts[1])
		n.delay(hosts[1], time.Second)
		connected := false
		ended := inBackground(func() {
			_, err := hosts[0].dial(t.Context(), "tcp", l.Addr().String())
			connected = err == nil
		})
		synctest.Wait() // its first packet is under way
		n.partition(apart)
		time.Sleep(time.Minute)
		if connected {
			t.Error("connected across a partition")
		}
		start := time.Now()
		n.partition(func(*host) int { return 0 })
		ended()
		if got := time.Since(start); !connected || got != 2*time.Second {
			t.Errorf("connected: %v, %v after Heal, want a round trip, 2s", connected, got)
		}
	})
}

func TestPartitionDropsPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		a, b := listenPacket(t, hosts[0]), listenPacket(t, hosts[1])
		send(t, a, b, "arrived")
		n.delay(hosts[0], time.Second)
		send(t, a, b, "under way")
		n.partition(apart)
		send(t, a, b, "during")
		n.restore()
		send(t, a, b, "after")
		time.Sleep(time.Minute)
		wantPacket(t, b, a, "arrived")
		wantPacket(t, b, a, "after")
		wantNoPacket(t, b)
	})
}

func TestPartitionHidesAKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		a, _ := connect(t, hosts[0], hosts[1])
		n.partition(apart)
		n.kill(hosts[1])
		wantNothing(t, a)
		n.partition(func(*host) int { return 0 })
		wantReadError(t, a, syscall.ECONNRESET)
	})
}

func TestPausedHostReadsNothingUntilResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		s, to := listenPacket(t, hosts[0]), listenPacket(t, hosts[1])
		l := listen(t, hosts[1])
		write(t, a, "before, ")
		send(t, s, to, "before")
		n.pause(hosts[1], true)
		write(t, a, "during")
		send(t, s, to, "during")
		dial(t, hosts[0], l) // succeeds
		_ = a.Close()
		wantNothing(t, b)
		wantNoPacket(t, to)
		accepted := false
		ended := inBackground(func() {
			if _, err := l.Accept(); err != nil {
				t.Error(err)
			}
			accepted = true
		})
		time.Sleep(time.Minute)
		if accepted {
			t.Error("accepted while paused")
		}
		n.pause(hosts[1], false)
		ended()
		wantRead(t, b, "before, during")
		wantReadError(t, b, io.EOF)
		wantPacket(t, to, s, "before")
		wantPacket(t, to, s, "during")
	})
}

func TestPausedHostSendsNothingUntilResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		s, from := listenPacket(t, hosts[0]), listenPacket(t, hosts[1])
		l := listen(t, hosts[0])
		n.delay(hosts[1], time.Second)
		write(t, b, "before")
		n.pause(hosts[1], true)
		write(t, b, " during")
		send(t, from, s, "during")
		_ = b.Close()
		wantRead(t, a, "before") // had left it
		wantNothing(t, a)
		write(t, a, "to whom?") // nobody knows that the other end was closed
		wantNoPacket(t, s)
		connected := false
		ended := inBackground(func() {
			_, err := hosts[1].dial(t.Context(), "tcp", l.Addr().String())
			connected = err == nil
		})
		time.Sleep(time.Minute)
		if connected {
			t.Error("dialled while paused")
		}
		start := time.Now()
		n.pause(hosts[1], false)
		wantRead(t, a, " during")
		wantReadError(t, a, io.EOF)
		wantPacket(t, s, from, "during")
		if got := time.Since(start); got != time.Second {
			t.Errorf("arrived %v after Resume, want the delay, 1s", got)
		}
		ended()
		if !connected {
			t.Error("not connected after Resume")
		}
	})
}

func TestPausedHostFillsWindowsAndQueuesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		a, _ := connect(t, hosts[0], hosts[1])
		s, to := listenPacket(t, hosts[0]), listenPacket(t, hosts[1])
		n.pause(hosts[1], true)
		_ = a.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := a.Write(make([]byte, 2*window)); n != window || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v, want %d and a timeout", n, err, window)
		}
		for range 2 * maxQueue {
			send(t, s, to, "x")
			send(t, to, s, "y")
		}
		n.pause(hosts[1], false)
		for range maxQueue {
			wantPacket(t, s, to, "y")
			wantPacket(t, to, s, "x")
		}
		wantNoPacket(t, s)
		wantNoPacket(t, to)
	})
}

func TestKillOfThePausedLosesWhatItHadNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		s, from := listenPacket(t, hosts[0]), listenPacket(t, hosts[1])
		write(t, b, "before")
		n.pause(hosts[1], true)
		write(t, b, "during")
		send(t, from, s, "during")
		n.kill(hosts[1])
		wantRead(t, a, "before")
		wantReadError(t, a, syscall.ECONNRESET)
		wantNoPacket(t, s)
	})
}

func TestClosedNetworkLeavesNothingWaiting(t *testing.T) {
	onBothClocks(t, func(t *testing.T) {
		n, hosts := newHosts(t, 2)
		a, b := connect(t, hosts[0], hosts[1])
		l, s := listen(t, hosts[0]), listenPacket(t, hosts[0])
		n.partition(apart)
		closed := func(what string, err error) {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v, want %v", what, err, net.ErrClosed)
			}
		}
		waits := []func(){
			inBackground(func() { wantReadError(t, a, net.ErrClosed) }),
			inBackground(func() { closed("Write", second(b.Write(make([]byte, window+1)))) }),
			inBackground(func() { closed("Accept", second(l.Accept())) }),
			inBackground(func() { closed("ReadFrom", third(s.ReadFrom(nil))) }),
			inBackground(func() { closed("dial", second(hosts[1].dial(t.Context(), "tcp", l.Addr().String()))) }),
		}
		n.close()
		for _, wait := range waits {
			wait()
		}
		closed("listen", second(hosts[0].listen("tcp", "127.0.0.1:0")))
		closed("listenPacket", second(hosts[0].listenPacket("udp", "127.0.0.1:0")))
	})
}
