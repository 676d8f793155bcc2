// Package wire is what peers say to each other: the messages (wire.proto and
// the code generated from it), how they are framed, and the limits that hold
// for them. It opens no connection and knows nothing of caches.
package wire

import "unsafe"

//go:generate protoc --go_out=. --go_opt=paths=source_relative wire.proto

// Protocol is the version of all that is in this package. Peers of another
// version are answered with [Status_WRONG_VERSION].
const Protocol = 1

// ContentType is that of every body that holds frames.
const ContentType = "application/x-peercache"

// The limits. They are checked where data enters: in the calls of the user as
// in the frames of a peer.
const (
	MaxKey   = 1 << 10  // bytes of a key
	MaxValue = 16 << 20 // bytes of a value: one must fit a frame twice over
	MaxKeys  = 1 << 10  // keys of one request; longer calls are split
	MaxFrame = 32 << 20 // bytes of a frame
	MaxText  = 1 << 10  // bytes of an error's text
	MaxTrace = 256      // bytes of tracing metadata
)

// Bytes returns s as bytes, without a copy, for a message that will only be
// encoded.
func Bytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// String returns a field of a message that was decoded as a string, without a
// copy. The decoder made it for this message and nobody writes to it.
func String(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
