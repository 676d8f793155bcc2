package cachetest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	convergeTimeout = time.Minute

	// pollInterval is how often Converge looks: short beside what gossip
	// needs for anything.
	pollInterval = 20 * time.Millisecond
)

// Kill ends the i-th node as kill -9 ends a process, seen from outside:
// connections are reset, dials refused, packets lost. The node itself and its
// caches run on, cut off from everybody for good; its dials fail at once. To
// kill a node twice does nothing.
func (c *Cluster) Kill(i int) {
	c.tb.Helper()
	c.net.kill(c.member(i).host)
}

// Pause stops the i-th node as SIGSTOP stops a process, seen from outside:
// dials to it succeed, what is sent to it waits in buffers, and nothing is read
// or sent by it. The node itself runs on and hears nobody. Its own dials wait.
func (c *Cluster) Pause(i int) {
	c.tb.Helper()
	c.net.pause(c.member(i).host, true)
}

// Resume ends what Pause began: the node gets what waited for it, and what it
// wrote meanwhile is sent.
func (c *Cluster) Resume(i int) {
	c.tb.Helper()
	c.net.pause(c.member(i).host, false)
}

// Partition cuts the network between groups of nodes, given by index. Nodes
// that no group names form one more group. Between groups there is silence:
// packets are lost, dials wait, and what was written to a connection is
// delivered only after Heal. A second Partition replaces the first.
func (c *Cluster) Partition(groups ...[]int) {
	c.tb.Helper()
	groupOf := map[*host]int{}
	for i, group := range groups {
		for _, index := range group {
			h := c.member(index).host
			if was, named := groupOf[h]; named && was != i+1 {
				c.tb.Fatalf("cachetest: node %d is in two groups of the partition", index)
			}
			groupOf[h] = i + 1
		}
	}
	c.net.partition(func(h *host) int { return groupOf[h] })
}

// Heal ends Partition.
func (c *Cluster) Heal() {
	c.net.partition(func(*host) int { return 0 })
}

// Delay makes everything that the i-th node sends or receives take d longer,
// each way, from now on; 0, as at the start, is no delay at all. The delays of
// two nodes add up between them. What a node sends to itself is not delayed.
func (c *Cluster) Delay(i int, d time.Duration) {
	c.tb.Helper()
	if d < 0 {
		c.tb.Fatalf("cachetest: a delay of %v", d)
	}
	c.net.delay(c.member(i).host, d)
}

// Converge waits until the nodes that can reach each other agree: each is
// active, and sees exactly itself and the others as its peers. Nodes that were
// killed, have left or are paused must have gone from every view; each group
// of a partition must agree in itself. After a minute it fails the test and
// says who sees whom.
func (c *Cluster) Converge() {
	c.tb.Helper()
	for deadline := time.Now().Add(convergeTimeout); ; {
		views := c.views()
		if !slices.ContainsFunc(views, view.differs) {
			return
		}
		if !time.Now().Before(deadline) {
			c.tb.Fatalf("cachetest: no agreement after %v:\n%s", convergeTimeout, c.describe(views))
		}
		time.Sleep(pollInterval)
	}
}

// A view is what one node sees, and what it should see.
type view struct {
	index      int
	ready      bool
	sees, want []string // URLs, sorted
}

func (v view) differs() bool { return !v.ready || !slices.Equal(v.sees, v.want) }

// views are those of all nodes that Converge is about.
func (c *Cluster) views() []view {
	var views []view
	var groups []int // of the views
	urls := map[int][]string{}
	for i, m := range c.all() {
		killed, paused, group := m.host.state()
		peers := m.node.Peers()
		if killed || paused || len(peers) == 0 { // without peers: it has left
			continue
		}
		v := view{index: i}
		for _, p := range peers {
			v.sees = append(v.sees, p.URL)
		}
		select {
		case <-m.node.Ready():
			v.ready = true
		default:
		}
		views = append(views, v)
		groups = append(groups, group)
		urls[group] = append(urls[group], m.node.Self().URL)
	}
	for _, group := range urls {
		slices.Sort(group)
	}
	for i := range views {
		views[i].want = urls[groups[i]]
	}
	return views
}

// describe says who sees whom, by index.
func (c *Cluster) describe(views []view) string {
	indexes := map[string]int{}
	for i, m := range c.all() {
		indexes[m.node.Self().URL] = i
	}
	name := func(urls []string) string {
		names := make([]string, len(urls))
		for i, url := range urls {
			names[i] = url // somebody who is not of this cluster
			if index, ok := indexes[url]; ok {
				names[i] = strconv.Itoa(index)
			}
		}
		return "[" + strings.Join(names, " ") + "]"
	}
	var text strings.Builder
	for _, v := range views {
		fmt.Fprintf(&text, "node %d sees %s", v.index, name(v.sees))
		if !slices.Equal(v.sees, v.want) {
			fmt.Fprintf(&text, ", want %s", name(v.want))
		}
		if !v.ready {
			text.WriteString(", is not active")
		}
		text.WriteByte('\n')
	}
	return text.String()
}
