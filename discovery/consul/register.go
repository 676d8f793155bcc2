package consul

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/peercache/peercache"
)

// Telling Consul that this node is there. What others read out of it is in instances.go.

const (
	// requestTimeout bounds what an agent answers from its memory, in less than a
	// millisecond where all is well.
	requestTimeout = 3 * time.Second

	// forgetAfter is when Consul deregisters an instance that went critical: a process
	// that was killed. A minute is the least it takes; nobody asks for the instance after
	// its TTL anyway.
	forgetAfter = time.Minute
)

// unsafeInID is what an instance's ID must not have because it stands in paths.
var unsafeInID = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// A registration is this node as an instance of the service. For one goroutine at a time.
type registration struct {
	node    *peercache.Node
	agent   *api.Agent
	service *api.AgentServiceRegistration
	every   time.Duration // between two confirmations
	forgot  func()        // called when the agent turns out not to know the instance any more
	outage  outage

	attempted bool // the agent may know of the instance
	confirmed bool // it did when it last spoke of it
}

func newRegistration(node *peercache.Node, client *api.Client, o Options, forgot func()) (*registration, error) {
	self := node.Self()
	u, err := url.Parse(self.URL)
	if err != nil {
		return nil, fmt.Errorf("peercache: consul: %w", err)
	}
	port := map[string]int{"http": 80, "https": 443}[u.Scheme]
	if p := u.Port(); p != "" {
		if port, err = strconv.Atoi(p); err != nil {
			return nil, fmt.Errorf("peercache: consul: port of %s: %w", self.URL, err)
		}
	}
	id := instanceID(o.Service, self.URL)
	return &registration{
		node:  node,
		agent: client.Agent(),
		service: &api.AgentServiceRegistration{
			ID:      id,
			Name:    o.Service,
			Address: u.Hostname(),
			Port:    port,
			Meta:    metaOf(self),
			Check: &api.AgentServiceCheck{
				CheckID:                        "service:" + id,
				Name:                           "process confirms itself",
				TTL:                            o.TTL.String(),
				Status:                         api.HealthPassing,
				DeregisterCriticalServiceAfter: forgetAfter.String(),
			},
		},
		every:  o.TTL / 3,
		forgot: forgot,
		outage: outage{logger: o.Logger, what: "cannot register", longest: o.TTL / 3},
	}, nil
}

// instanceID names the node of a URL among all instances on its agent. It can be read,
// and the hash tells URLs apart that read alike without their punctuation.
//
// A process that starts anew at the same URL has the same ID, and so takes the old one's
// place. Should the old one end later and deregister the new one, the agent does not know
// the next confirmation, and the new one registers again.
func instanceID(service, rawURL string) string {
	hash := fnv.New32a()
	hash.Write([]byte(rawURL))
	return fmt.Sprintf("%s-%s-%08x", service, unsafeInID.ReplaceAllString(rawURL, "-"), hash.Sum32())
}

// keep registers the instance and confirms it until ctx ends or the node leaves.
func (r *registration) keep(ctx context.Context) error {
	for ctx.Err() == nil {
		if len(r.node.Peers()) == 0 { // peers would go on asking it
			return errLeft
		}
		wait := r.every
		// A confirmation that is under way when ctx ends is waited for. Cut off, it might
		// reach the agent after the deregistration, and leave an instance without a process.
		if err := r.confirm(context.WithoutCancel(ctx)); err != nil {
			wait = r.outage.failed(err)
		} else {
			r.outage.over()
		}
		sleep(ctx, wait)
	}
	return nil
}

// confirm tells the agent that the process is there.
func (r *registration) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if r.confirmed {
		err := r.agent.UpdateTTLOpts(r.service.Check.CheckID, "", api.HealthPassing, new(api.QueryOptions).WithContext(ctx))
		if err == nil {
			return nil
		}
		// Whatever an agent answers that does not take the confirmation, registering is
		// the remedy if there is one: it has restarted without its state, or somebody has
		// deregistered the instance. Releases differ in the answer, 404 or 500.
		if _, answered := errors.AsType[api.StatusError](err); !answered {
			return err
		}
		defer r.forgot()
	}
	r.attempted = true
	err := r.agent.ServiceRegisterOpts(r.service, api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx))
	r.confirmed = err == nil
	return err
}

// deregister takes the instance out of the catalog, so that its peers turn to others at
// once and not when the check goes critical, which is what is left if it fails.
func (r *registration) deregister(ctx context.Context) {
	if !r.attempted {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := r.agent.ServiceDeregisterOpts(r.service.ID, new(api.QueryOptions).WithContext(ctx))
	if answer, ok := errors.AsType[api.StatusError](err); ok && answer.Code == http.StatusNotFound {
		return // the agent has forgotten it already
	}
	if err != nil {
		r.outage.logger.Warn("peercache: consul: cannot deregister; the check will go critical", "err", err)
	}
}
