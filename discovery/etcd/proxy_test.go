package etcd_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// A proxy stands between a client and etcd and can be cut: connections are reset and
// new ones are refused. It can also be frozen: connections stay, and nothing comes
// through.
type proxy struct {
	endpoint string
	wg       sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	target string
	open   *sync.Cond // signalled when frozen ends
	frozen bool
	isCut  bool
	conns  map[net.Conn]bool
}

func newProxy(t *testing.T, endpoint string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // an address of this machine is bound at once
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{
		endpoint: "http://" + l.Addr().String(),
		target:   strings.TrimPrefix(endpoint, "http://"),
		conns:    make(map[net.Conn]bool),
	}
	p.open = sync.NewCond(&p.mu)
	p.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			p.serve(in)
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.thaw()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) serve(in net.Conn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	out, err := net.Dial("tcp", target) //nolint:noctx // on this machine that succeeds or fails at once
	if err != nil || !p.keep(in, out) {
		in.Close()
		if out != nil {
			out.Close()
		}
		return
	}
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		p.wg.Go(func() {
			_, _ = io.Copy(gate{p, pair[0]}, pair[1]) // it ends when either is closed
			in.Close()
			out.Close()
		})
	}
}

// keep notes what cut has to close; it reports false while the proxy is cut.
func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
	}
	return !p.isCut
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = true
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

// mend lets clients through again, to this endpoint.
func (p *proxy) mend(endpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = strings.TrimPrefix(endpoint, "http://")
	p.isCut = false
}

func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = true
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = false
	p.open.Broadcast()
}

// A gate is a connection that writes only while the proxy is not frozen.
type gate struct {
	*proxy
	to net.Conn
}

func (g gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	for g.frozen {
		g.open.Wait()
	}
	g.mu.Unlock()
	return g.to.Write(b)
}
