package peercache

import (
	"io"
	"net"
	"sync"

	"github.com/peercache/peercache/internal/wire"
)

// What goes out on a stream. Frames are queued under a mutex, and whoever takes it upon
// himself to write writes all that is queued by then, until nothing is. There is no
// timer: where one writer is busy, what others queue meanwhile makes the next write.

// copiedValue is the size up to which a value is copied into the queue. Larger ones are
// only referred to, at the price of a longer list for the system to gather.
const copiedValue = 8 << 10

// A queue is what waits to be written.
type queue struct {
	buf    []byte  // frames, without the values that are referred to
	values []value // in order
	size   int     // bytes of both
}

// A value is bytes that belong behind the first at bytes of buf.
type value struct {
	at    int
	bytes []byte
}

// answer queues the answer to a key.
func (q *queue) answer(id uint64, index int, a answer) {
	before := len(q.buf)
	q.buf = appendAnswer(q.buf, id, index, a)
	if len(a.value) > copiedValue {
		q.values = append(q.values, value{len(q.buf), wire.Bytes(a.value)})
		q.size += len(a.value)
	} else {
		q.buf = append(q.buf, a.value...)
	}
	q.size += len(q.buf) - before
}

// append queues a frame.
func (q *queue) append(frame []byte) {
	q.buf = append(q.buf, frame...)
	q.size += len(frame)
}

func (q *queue) empty() bool { return q.size == 0 }

// writeTo writes all there is.
func (q *queue) writeTo(w io.Writer) error {
	if len(q.values) == 0 {
		_, err := w.Write(q.buf)
		return err
	}
	pieces := make(net.Buffers, 0, 2*len(q.values)+1)
	from := 0
	for _, v := range q.values {
		pieces = append(pieces, q.buf[from:v.at], v.bytes)
		from = v.at
	}
	if from < len(q.buf) {
		pieces = append(pieces, q.buf[from:])
	}
	_, err := pieces.WriteTo(w)
	return err
}

// reset makes a queue empty and keeps its memory, unless that was for an exception.
func (q *queue) reset() {
	clear(q.values)
	q.buf, q.values, q.size = q.buf[:0], q.values[:0], 0
	if cap(q.buf) > 2*inboxMost {
		q.buf = nil
	}
}

// A writer is one direction of a stream.
type writer struct {
	w io.Writer

	mu      sync.Mutex // guards the fields below, and those of the stream that say so
	out     queue
	spare   queue
	writing bool // somebody will write what is queued
	broken  error
}

// writeQueuedLocked writes what is queued, without the mutex, and returns with it. The
// caller has set writing, and goes on until nothing is queued or has somebody else do so.
func (w *writer) writeQueuedLocked() {
	w.out, w.spare = w.spare, w.out
	batch := w.spare
	w.mu.Unlock()
	err := batch.writeTo(w.w)
	batch.reset()
	w.mu.Lock()
	w.spare = batch
	if err != nil && w.broken == nil {
		w.broken = err
	}
}
