package peercache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/peercache/peercache/internal/wire"
)

var (
	// ErrNotFound is what a loader returns, alone or wrapped, for a key that
	// has no value. It crosses the wire: errors.Is finds it on every node.
	ErrNotFound = errors.New("peercache: not found")

	// ErrOverloaded is returned where Options.MaxLoads is reached and the queue
	// behind it is full or slow; a loader may return it too. It crosses the
	// wire, and no other node is asked in its stead: the origin would get the
	// same load from elsewhere.
	ErrOverloaded = errors.New("peercache: overloaded")

	// ErrPartial is in every error of Set, Remove and Clear that reached only
	// some peers in time; errors.As to [*PartialError] names the others.
	ErrPartial = errors.New("peercache: some peers did not confirm")

	// ErrClosed is returned by a cache after Close.
	ErrClosed = errors.New("peercache: cache closed")
)

// A PeerError is a load that failed on another node: the loader ran there and
// returned Err, or was turned away by the limit on loads, or did not end in time;
// no other node was asked. [Cache.GetMany] uses it for every key that failed.
type PeerError struct {
	Peer string // URL of the node; in GetMany this node's own for a local failure, "" without a node
	Key  string
	Err  error
}

func (e *PeerError) Error() string {
	if e.Peer == "" {
		return fmt.Sprintf("peercache: key %s: %v", quote(e.Key), e.Err)
	}
	return fmt.Sprintf("peercache: key %s at %s: %v", quote(e.Key), e.Peer, e.Err)
}

// Unwrap returns Err.
func (e *PeerError) Unwrap() error { return e.Err }

// A PartialError names the peers that did not confirm a Set, Remove or Clear in time. They
// are told again and again, for ten minutes, until they confirm or leave. Until then such
// a peer may go on serving what it had before, and give it to others that ask: a copy for
// at most HotTTL, an entry that it owns, or keeps as one of the next owners in line, to the
// end of its life. The process that called reads the keys from none of them.
type PartialError struct {
	Peers map[string]error // by URL, never empty, no error nil
}

func (e *PartialError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "peercache: %d peers did not confirm", len(e.Peers))
	for i, url := range slices.Sorted(maps.Keys(e.Peers)) {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep + url + ": " + e.Peers[url].Error())
	}
	return b.String()
}

// Unwrap returns ErrPartial and the errors of all peers.
func (e *PartialError) Unwrap() []error {
	errs := []error{ErrPartial}
	for _, url := range slices.Sorted(maps.Keys(e.Peers)) {
		errs = append(errs, e.Peers[url])
	}
	return errs
}

// A PanicError is a loader that panicked or called runtime.Goexit. Everyone who
// waited for the load gets it, and the process lives on.
type PanicError struct {
	Value any    // what was passed to panic; its text if the loader ran on a peer
	Stack []byte // of the loader; nil if it ran on a peer, whose log has it
}

func (e *PanicError) Error() string { return fmt.Sprintf("peercache: loader panicked: %v", e.Value) }

// Unwrap returns Value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// errGoexit is the Value of the PanicError of a loader that ended its goroutine.
var errGoexit = errors.New("runtime.Goexit called")

// A remoteError is a loader's error after its travel: the text it had at home,
// and the sentinel that its status stands for.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

// statusOf tells how err, with which a load ended, travels to a peer.
func statusOf(err error) (wire.Status, string) {
	text := fmt.Sprint(err) // a nil pointer in an error panics when it is asked itself
	if panicked, ok := errors.AsType[*PanicError](err); ok {
		return wire.Status_PANICKED, fmt.Sprint(panicked.Value) // whatever was passed to panic
	}
	switch {
	case err == ErrClosed: //nolint:errorlint // itself: what a loader returns is never it, see keepFor
		return wire.Status_CLOSED, text
	case errors.Is(err, ErrNotFound):
		return wire.Status_NOT_FOUND, text
	case errors.Is(err, ErrOverloaded):
		return wire.Status_OVERLOADED, text
	case errors.Is(err, context.DeadlineExceeded):
		return wire.Status_TIMED_OUT, text
	default:
		return wire.Status_LOAD_FAILED, text
	}
}

// errorOf undoes statusOf. final says that the key's owner has spoken: the
// error is the caller's and no other node is asked. The rest are reasons why
// this peer is of no use.
func errorOf(status wire.Status, text string) (final bool, err error) {
	switch status {
	case wire.Status_NOT_FOUND:
		return true, &remoteError{text, ErrNotFound}
	case wire.Status_OVERLOADED, wire.Status_BUSY:
		return true, &remoteError{text, ErrOverloaded}
	case wire.Status_LOAD_FAILED:
		return true, errors.New(text)
	case wire.Status_PANICKED:
		return true, &PanicError{Value: text}
	case wire.Status_TIMED_OUT:
		return true, &remoteError{text, context.DeadlineExceeded}
	default:
		if text != "" {
			text = ": " + text
		}
		return false, fmt.Errorf("peercache: peer answers %v%s", status, text)
	}
}

// quote is how keys appear in texts: escaped, and no longer than helps.
func quote(key string) string {
	const most = 128
	if len(key) <= most {
		return fmt.Sprintf("%q", key)
	}
	return fmt.Sprintf("%q…", key[:most])
}

// clip makes a text fit for the wire: valid UTF-8, and within its limit.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), wire.MaxText)], "?") // no longer than what it replaces
}

// checkKey says what is wrong with a key, whichever way it came in.
func checkKey(key string) error {
	if key == "" {
		return errors.New("peercache: the key is empty: keys have 1 to 1024 bytes")
	}
	if len(key) > wire.MaxKey {
		return fmt.Errorf("peercache: the key has %d bytes: keys have 1 to %d bytes", len(key), wire.MaxKey)
	}
	return nil
}

// checkValue says what is wrong with an encoded value of this size.
func checkValue(size int) error {
	if size > wire.MaxValue {
		return fmt.Errorf("peercache: the value has %d bytes: the limit is %d", size, wire.MaxValue)
	}
	return nil
}
