package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"time"
)

// A server that is somebody else's program: redis-server, memcached. The child that
// starts it waits for it, and ends it when its own parent ends.

// daemonMissing says why a program cannot be started.
func daemonMissing(program, install string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%s is not in PATH (on Debian: apt-get install %s)", program, install)
	}
	return nil
}

// serveDaemon starts a program on a free port of loopback, with the arguments that a
// port needs, and returns when it listens. It ends by stop.
func serveDaemon(ctx context.Context, program string, arguments func(port string) []string) (*server, error) {
	// A port that was free a moment ago: such programs do not tell which one they
	// have picked. If somebody takes it meanwhile, the program ends and says so.
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var said bytes.Buffer
	command := exec.CommandContext(ctx, program, arguments(port)...)
	command.Stdout, command.Stderr = &said, &said
	if err := command.Start(); err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // killed, or it has said why
		close(ended)
	}()
	stop := func() {
		cancel()
		<-ended
	}
	if !listens(ctx, address, ended) {
		stop()
		return nil, fmt.Errorf("%s does not listen at %s: %s", program, address, bytes.TrimSpace(said.Bytes()))
	}
	return &server{address: address, pid: command.Process.Pid, stop: stop}, nil
}

// listens waits until somebody accepts connections, unless that has ended; it reports
// whether somebody does.
func listens(ctx context.Context, address string, ended <-chan struct{}) bool {
	ctx, cancel := context.WithTimeout(ctx, starting/2)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		if conn, err := new(net.Dialer).DialContext(ctx, "tcp4", address); err == nil {
			_ = conn.Close()
			return true
		}
		select {
		case <-again.C:
		case <-ended:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
