//go:build !unix

package main

import (
	"errors"
	"fmt"
	"syscall"
)

// An account stands for nobody: a server of our own is started on Unix only.
type account struct{}

func unprivileged() (account, error) {
	return account{}, fmt.Errorf("say with -dsn where a server runs: %w", errors.ErrUnsupported)
}

func (account) own(string) error { return nil }

func (account) attr() *syscall.SysProcAttr { return nil }
