package main

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// A process is the child's end.
type process struct {
	job       job
	sheet     *sheet
	member    *member
	generator *generator

	mu  sync.Mutex // guards out
	out *json.Encoder
}

// work does the job that comes in, until in ends or SIGTERM comes.
func work(in io.Reader, out io.Writer) error {
	// What a terminal sends goes to the parent too, who ends its children in order.
	signal.Ignore(os.Interrupt)
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	requests := json.NewDecoder(in)
	p := &process{out: json.NewEncoder(out)}
	if err := requests.Decode(&p.job); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	server, err := p.start(ctx)
	if err != nil {
		return err
	}
	if err := p.say(message{Answer: &answer{}}); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		p.obey(ctx, receive(requests, cancel))
		close(ended)
	}()
	go p.reports(ctx)
	select {
	case <-ended:
		return nil
	case <-terminate:
	}
	if err := p.leave(ctx, server); err != nil {
		return err
	}
	return p.report()
}

// start starts the node, and returns its server when the node is ready.
func (p *process) start(ctx context.Context) (*http.Server, error) {
	libs, err := named(libraries, p.job.Library)
	if err != nil {
		return nil, err
	}
	p.sheet = newSheet(p.job.Epoch, p.job.Tick)
	o := &origin{job: p.job, sheet: p.sheet}
	if p.member, err = libs[0].open(p.job, o.load); err != nil {
		return nil, err
	}
	p.generator = &generator{
		ranks: zipf(rand.New(rand.NewPCG(p.job.Seed, 0)), p.job.Keys, exponent),
		ask: func(rank uint32, meant time.Time) {
			ctx, cancel := context.WithDeadline(ctx, meant.Add(patience))
			defer cancel()
			p.sheet.got(rank, meant, p.job.get(ctx, p.member, rank))
		},
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", p.job.Address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: p.member.handler, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }() // until it is shut down, or the process ends
	starting, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	return server, p.member.join(starting)
}

// leave is what a service does when it has to go: it leaves the cluster while requests
// still come, and takes down its server when they do not.
func (p *process) leave(ctx context.Context, server *http.Server) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		balanced := time.NewTimer(p.job.Lag)
		defer balanced.Stop()
		<-balanced.C
		p.generator.end()
	})
	err := p.member.leave(ctx)
	wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, lingering)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		// Connections that were opened for a request that another one then took, and
		// on which nothing was sent, may keep it that long.
		_ = server.Close()
	}
	return err
}

// receive returns the commands that come. When there are no more it cancels the one that
// is being obeyed.
func receive(requests *json.Decoder, cancel func()) <-chan command {
	commands := make(chan command)
	go func() {
		defer close(commands)
		defer cancel()
		for {
			var c command
			if requests.Decode(&c) != nil { // the end, or a parent that died in the middle of a word
				return
			}
			commands <- c
		}
	}()
	return commands
}

// obey answers one command after the other.
func (p *process) obey(ctx context.Context, commands <-chan command) {
	for c := range commands {
		var a answer
		if err := p.do(ctx, c, &a); err != nil {
			a.Error = err.Error()
		}
		if p.say(message{Answer: &a}) != nil {
			return // nobody listens
		}
	}
}

func (p *process) do(ctx context.Context, c command, a *answer) error {
	switch {
	case c.Meet > 0:
		return p.member.meet(ctx, c.Meet)
	case c.Peers != nil:
		p.member.setPeers(c.Peers)
	case c.Fill != nil:
		return p.job.fill(ctx, p.member, *c.Fill)
	case c.Rate != nil:
		p.generator.setRate(*c.Rate)
		return p.report()
	case c.Owned:
		for n := range uint32(p.job.Keys) {
			if p.member.owns(newKey(n)) {
				a.Owned = append(a.Owned, n)
			}
		}
	}
	return nil
}

// reports reports now and then, until ctx ends.
func (p *process) reports(ctx context.Context) {
	again := time.NewTicker(reporting)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			if p.report() != nil {
				return // nobody listens
			}
		case <-ctx.Done():
			return
		}
	}
}

// report reports what there is. A report that is being written when another one is asked
// for is written before it.
func (p *process) report() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.sheet.take()
	if len(r.Ticks) == 0 {
		return nil
	}
	return p.out.Encode(message{Report: &r})
}

func (p *process) say(m message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Encode(m)
}
