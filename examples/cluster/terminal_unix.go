//go:build linux || darwin || freebsd

package main

import (
	"os"
	"syscall"
	"unsafe"
)

// terminalSize returns the size of the terminal that f is, and false if f is
// none.
func terminalSize(f *os.File) (width, height int, ok bool) {
	var size struct{ rows, cols, xPixels, yPixels uint16 }
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, 0, false
	}
	if size.cols == 0 || size.rows == 0 {
		return 80, 24, true // a terminal that does not know, such as a serial line
	}
	return int(size.cols), int(size.rows), true
}
