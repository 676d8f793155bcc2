package cachetest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func send(t *testing.T, from, to net.PacketConn, s string) {
	t.Helper()
	if n, err := from.WriteTo([]byte(s), to.LocalAddr()); n != len(s) || err != nil {
		t.Fatalf("WriteTo = %d, %v", n, err)
	}
}

func wantPacket(t *testing.T, at, from net.PacketConn, want string) {
	t.Helper()
	b := make([]byte, 100)
	n, addr, err := at.ReadFrom(b)
	if err != nil || string(b[:n]) != want || addr.String() != from.LocalAddr().String() {
		t.Fatalf("ReadFrom = %q, %v, %v, want %q from %v", b[:n], addr, err, want, from.LocalAddr())
	}
}

func wantNoPacket(t *testing.T, at net.PacketConn) {
	t.Helper()
	_ = at.SetReadDeadline(time.Now())
	if n, addr, err := at.ReadFrom(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("ReadFrom = %d bytes from %v, %v, want a timeout", n, addr, err)
	}
	_ = at.SetReadDeadline(time.Time{})
}

func TestPacketArrivesWhole(t *testing.T) {
	onBothClocks(t, func(t *testing.T) {
		_, hosts := newHosts(t, 2)
		a, b := listenPacket(t, hosts[0]), listenPacket(t, hosts[1])
		data := []byte("one")
		if _, err := a.WriteTo(data, b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		copy(data, "else") // it was copied
		send(t, a, b, "two")
		short := make([]byte, 2)
		if n, _, err := b.ReadFrom(short); err != nil || string(short[:n]) != "on" {
			t.Errorf("ReadFrom = %q, %v, want what fits", short[:n], err)
		}
		wantPacket(t, b, a, "two")
		wantNoPacket(t, b)
	})
}

func TestSendingNeverWaitsAndLosesWhatFindsNoRoom(t *testing.T) {
	_, hosts := newHosts(t, 2)
	a, b := listenPacket(t, hosts[0]), listenPacket(t, hosts[1])
	for i := range maxQueue + 10 {
		send(t, a, b, fmt.Sprint(i))
	}
	for i := range maxQueue {
		wantPacket(t, b, a, fmt.Sprint(i))
	}
	_ = b.SetReadDeadline(time.Now().Add(-time.Second))
	if _, _, err := b.ReadFrom(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ReadFrom: %v, want a timeout: no more than %d packets", err, maxQueue)
	}
	_ = b.Close()
	send(t, a, b, "nobody there")
}

func TestPacketErrors(t *testing.T) {
	_, hosts := newHosts(t, 1)
	s := listenPacket(t, hosts[0])
	if _, err := s.WriteTo(make([]byte, maxPacket+1), s.LocalAddr()); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("WriteTo of too much: %v, want %v", err, syscall.EMSGSIZE)
	}
	if _, err := s.WriteTo(nil, plainAddr{"udp", "nowhere"}); err == nil {
		t.Error("WriteTo(nowhere) succeeded")
	}
	_ = s.SetWriteDeadline(time.Unix(1, 0))
	if _, err := s.WriteTo(nil, s.LocalAddr()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("WriteTo past its deadline: %v, want a timeout", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"Close":            s.Close(),
		"SetDeadline":      s.SetDeadline(time.Time{}),
		"WriteTo":          second(s.WriteTo(nil, s.LocalAddr())),
		"ReadFrom":         third(s.ReadFrom(nil)),
		"SetWriteDeadline": s.SetWriteDeadline(time.Time{}),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s of a closed socket: %v, want %v", what, err, net.ErrClosed)
		}
	}
}

func second[T any](_ T, err error) error      { return err }
func third[T, U any](_ T, _ U, e error) error { return e }

func TestCloseWakesReadFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hosts := newHosts(t, 1)
		s := listenPacket(t, hosts[0])
		ended := inBackground(func() {
			if _, _, err := s.ReadFrom(nil); !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadFrom: %v, want %v", err, net.ErrClosed)
			}
		})
		synctest.Wait()
		_ = s.Close()
		ended()
	})
}

func TestPacketsOfASlowHostDoNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hosts := newHosts(t, 3)
		slow, fast, to := listenPacket(t, hosts[0]), listenPacket(t, hosts[1]), listenPacket(t, hosts[2])
		n.delay(hosts[0], time.Second)
		start := time.Now()
		send(t, slow, to, "slow 1")
		send(t, slow, to, "slow 2")
		send(t, fast, to, "fast")
		wantPacket(t, to, fast, "fast")
		if got := time.Since(start); got != 0 {
			t.Errorf("the fast one arrived after %v, want at once", got)
		}
		wantPacket(t, to, slow, "slow 1")
		wantPacket(t, to, slow, "slow 2")
		if got := time.Since(start); got != time.Second {
			t.Errorf("the slow ones arrived after %v, want 1s", got)
		}
	})
}
