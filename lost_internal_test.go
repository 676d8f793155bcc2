package peercache

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestClusterTriesALostMemberOnceAnInterval(t *testing.T) {
	for _, n := range []int{2, 20, 200} {
		var l lostMembers
		l.add("http://a", "10.0.0.1:7946", 0)
		tries := func(from, to time.Duration) (count int) {
			for at := from; at < to; at += seekOthers {
				for range n {
					count += len(l.draw(int64(at), n, seekOthers))
				}
			}
			return count
		}
		// Chance decides: twice as many or half are seven times its spread away.
		if got := tries(0, lostPatience*lostRetry); got < 30 || got > 120 {
			t.Errorf("%d members try %d times in the first 5 minutes, want about 60", n, got)
		}
		late := 1000 * time.Hour
		if got := tries(late, late+60*lostRetryMax); got < 30 || got > 120 {
			t.Errorf("%d members try %d times in 10 hours of the sixth week, want about 60", n, got)
		}
	}
}

func TestLoneMemberTriesAll(t *testing.T) {
	var l lostMembers
	for i := range 5 {
		l.add(fmt.Sprint("http://", i), fmt.Sprint("10.0.0.", i, ":7946"), 0)
	}
	if got := l.draw(int64(1000*time.Hour), 1, time.Millisecond); len(got) != 5 {
		t.Errorf("draw of a lone member = %v, want all 5", got)
	}
}

func TestLostMembersAreBounded(t *testing.T) {
	var l lostMembers
	for i := range maxLost + 10 {
		l.add(fmt.Sprint("http://", i), fmt.Sprint("10.0.0.1:", i), int64(i))
	}
	if got := len(l.byURL); got != maxLost {
		t.Errorf("%d are remembered, want %d", got, maxLost)
	}
	for i := range maxLost + 10 {
		if _, known := l.byURL[fmt.Sprint("http://", i)]; known != (i >= 10) {
			t.Errorf("number %d is remembered: %t, want the latest %d", i, known, maxLost)
		}
	}
}

func TestLostMemberIsForgotten(t *testing.T) {
	for name, forget := range map[string]func(*lostMembers){
		"its URL is back elsewhere": func(l *lostMembers) { l.found("http://a", "10.0.0.7:7946") },
		"its address is another's":  func(l *lostMembers) { l.found("http://z", "10.0.0.1:7946") },
	} {
		var l lostMembers
		l.add("http://a", "10.0.0.1:7946", 0)
		l.add("http://b", "10.0.0.2:7946", 0)
		forget(&l)
		if got, want := l.draw(0, 1, 0), []string{"10.0.0.2:7946"}; !slices.Equal(got, want) {
			t.Errorf("%s: lost are %v, want %v", name, got, want)
		}
	}
}

func TestOnlyTheDeadAreLost(t *testing.T) {
	r, err := newRoster(sampleMember(), "10.0.0.5:7946")
	if err != nil {
		t.Fatal(err)
	}
	put := func(url, addr string, boot uint64, s state) string {
		t.Helper()
		m := member{url: url, weight: 1, boot: boot, state: s}
		meta, err := m.meta()
		if err == nil {
			err = r.put(m.gossipName(), addr, meta, true)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m.gossipName()
	}
	left := put("http://left", "10.0.0.1:7946", 1, stateLeaving)
	former := put("http://again", "10.0.0.2:7946", 1, stateActive)
	put("http://again", "10.0.0.2:7946", 2, stateJoining)
	formerSelf := put(sampleMember().url, "10.0.0.5:7946", 1, stateActive)
	evicted := put("http://evicted", "10.0.0.4:7946", 1, stateActive)
	put("http://heir", "10.0.0.4:7946", 1, stateActive)
	dead := put("http://dead", "10.0.0.6:7946", 1, stateJoining)
	for _, name := range []string{left, former, formerSelf, evicted} {
		r.drop(name)
		if n := r.lost(); n != 0 {
			t.Errorf("%d are lost after %s was dropped, want none", n, name)
		}
	}
	r.drop(dead)
	if n := r.lost(); n != 1 {
		t.Errorf("%d are lost after a death, want 1", n)
	}
}
