package lru_test

import (
	"math"
	"slices"
	"strconv"
	"testing"

	"github.com/peercache/peercache/lru"
)

func TestBodyOfAllMayChangeTheCache(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	const n = 3000 // of some pages, so that the walk is not done before the first is shown
	fill(t, c, n)
	seen := 0
	for k := range c.All(0) {
		c.Remove(k)
		c.Set("new "+k, 0, 0, major(0, 1)) // may be met when its page's turn comes
		seen++
		if seen > 10*n {
			t.Fatal("All does not end")
		}
		c.Remove("new " + k)
	}
	if seen != n || c.Len() != 0 {
		t.Errorf("met %d entries and left %d, want %d and 0", seen, c.Len(), n)
	}
	fill(t, c, n)
	for range c.All(0) {
		seen++
		break
	}
	if seen != n+1 {
		t.Errorf("met %d entries after break, want 1", seen-n)
	}
}

func TestAllMayBeRangedOverAgain(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	all := c.All(0)
	for n := range 3 {
		got := 0
		for range all {
			got++
		}
		if got != n {
			t.Errorf("met %d entries, want the %d that are there", got, n)
		}
		c.Set(strconv.Itoa(n), 0, n, major(0, never))
	}
}

// TestWhatStaysIsMetOnce: those that are there all the time are, whatever comes and
// goes around them meanwhile.
func TestWhatStaysIsMetOnce(t *testing.T) {
	const stay, n = 1000, 10_000
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 30, Shards: 2})
	for i := range n {
		key := "go " + strconv.Itoa(i)
		if i%(n/stay) == 0 {
			key = "stay " + strconv.Itoa(i)
		}
		c.Set(key, 0, i, major(0, never))
	}
	churn := func(i int) {
		c.Remove("go " + strconv.Itoa(i*7%n))
		c.Set("come "+strconv.Itoa(i), 0, i, major(0, never))
		c.Update("stay "+strconv.Itoa(i*(n/stay)%n), 0, func(v int, t lru.Terms) (int, lru.Terms) {
			t.Size = int64(i % 100)
			return v, t
		})
	}
	for name, walk := range map[string]func(meet func(key string)){
		"All": func(meet func(string)) {
			for k := range c.All(0) {
				meet(k)
			}
		},
		"RemoveFunc": func(meet func(string)) {
			c.RemoveFunc(func(k string, _ int) bool { meet(k); return false })
		},
	} {
		met, i := map[string]int{}, 0
		walk(func(key string) {
			met[key]++
			if i++; i < 5*n {
				churn(i)
			}
		})
		for i := range stay {
			key := "stay " + strconv.Itoa(i*(n/stay))
			if met[key] != 1 {
				t.Fatalf("%s: %q is met %d times, want once", name, key, met[key])
			}
		}
	}
	audit(t, c)
}

// TestRemoveFuncLeavesWhatWasReplaced: f has judged a value that is there no more.
func TestRemoveFuncLeavesWhatWasReplaced(t *testing.T) {
	for name, test := range map[string]struct {
		change func(c *lru.Cache[int])
		left   bool
	}{
		"nothing": {func(*lru.Cache[int]) {}, false},
		"Get":     {func(c *lru.Cache[int]) { c.Get("k", 0) }, false},
		"Set":     {func(c *lru.Cache[int]) { c.Set("k", 0, 2, major(0, never)) }, true},
		"Update": {func(c *lru.Cache[int]) {
			c.Update("k", 0, func(_ int, t lru.Terms) (int, lru.Terms) { return 2, t })
		}, true},
		"Remove": {func(c *lru.Cache[int]) { c.Remove("k") }, false},
		"Remove and Set": {func(c *lru.Cache[int]) {
			c.Remove("k")
			c.Set("k", 0, 2, major(0, never))
		}, true},
		"Clear and Set": {func(c *lru.Cache[int]) {
			c.Clear()
			c.Set("k", 0, 2, major(0, never))
		}, true},
		"another in its place": {func(c *lru.Cache[int]) {
			c.Remove("k")
			c.Set("l", 0, 2, major(0, never))
			c.Set("k", 0, 2, major(0, never))
		}, true},
		"Clear": {func(c *lru.Cache[int]) { c.Clear() }, false},
		"the store shrinks": {func(c *lru.Cache[int]) {
			for i := range 4000 {
				c.Remove(strconv.Itoa(i))
			}
			c.Remove("k")
		}, false},
	} {
		c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20, Shards: 1})
		if name == "the store shrinks" {
			fill(t, c, 4000)
		}
		c.Set("k", 0, 1, major(0, never))
		done := false
		got := c.RemoveFunc(func(k string, _ int) bool {
			if k == "k" && !done {
				done = true
				test.change(c)
				return true
			}
			return false
		})
		_, left := c.Peek("k", 0)
		removed := 0
		if name == "nothing" || name == "Get" {
			removed = 1
		}
		if left != test.left || got != removed {
			t.Errorf("%s meanwhile: %d removed, k is left = %t, want %d, %t", name, got, left, removed, test.left)
		}
		audit(t, c)
	}
}

func TestRemoveFuncSeesTheExpired(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20})
	for i := range 100 {
		c.Set(strconv.Itoa(i), 0, i, lru.Terms{Expires: int64(i), Minor: i%3 == 0})
	}
	held := c.Len() // all but number 0, which had expired, and what the sweep finds
	if held != 99 {
		t.Fatalf("Len() = %d, want 99", held)
	}
	for range c.All(math.MaxInt64 - 1) {
		t.Error("All has an entry that has expired")
	}
	if got := c.RemoveFunc(func(_ string, v int) bool { return v%2 == 0 }); got != 49 {
		t.Errorf("RemoveFunc = %d, want 49", got)
	}
	if st := c.Stats(); st.Removals != 49 || st.Expirations != 0 {
		t.Errorf("Stats() = %+v, want 49 removals", st)
	}
}

func TestHottestBeginsWithTheHottest(t *testing.T) {
	for _, shards := range []int{1, 8} {
		c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 20, MinorBytes: 1 << 19, Shards: shards})
		for i := range 400 { // number i is used i modulo 4 times; each tenth is minor
			key := strconv.Itoa(i)
			c.Set(key, 0, i, lru.Terms{Size: int64(i), Expires: 100 + int64(i), Minor: i%10 == 9})
			for range i % 4 {
				c.Get(key, 0)
			}
		}
		for _, n := range []int{-1, 0, 1, 50, 90, 91, 200, 360, 361, 400, 1000} {
			list := c.Hottest(n, 0)
			if want := min(max(n, 0), 400); len(list) != want {
				t.Fatalf("Hottest(%d) has %d entries, want %d", n, len(list), want)
			}
			heat := func(e lru.Entry[int]) int {
				if e.Terms.Minor {
					return e.Value%4 - 10
				}
				return e.Value % 4
			}
			if !slices.IsSortedFunc(list, func(a, b lru.Entry[int]) int { return heat(b) - heat(a) }) {
				t.Errorf("Hottest(%d) is not in the order of use: %v", n, list)
			}
			// The coldest of the list are as hot as they can be.
			var heats []int
			for i := range 400 {
				heats = append(heats, heat(lru.Entry[int]{Value: i, Terms: lru.Terms{Minor: i%10 == 9}}))
			}
			slices.Sort(heats)
			slices.Reverse(heats)
			for i, e := range list {
				want := lru.Entry[int]{strconv.Itoa(e.Value), e.Value, lru.Terms{Size: int64(e.Value), Expires: 100 + int64(e.Value), Minor: e.Value%10 == 9}}
				if heat(e) != heats[i] || e != want {
					t.Fatalf("Hottest(%d): number %d is %+v, used %d times, want %+v, used %d times", n, i, e, heat(e), want, heats[i])
				}
			}
		}
		if got := len(c.Hottest(1000, 300)); got != 199 {
			t.Errorf("%d entries are the hottest at 300, want the 199 that are fresh", got)
		}
	}
}

// TestHottestKnowsWhatWasHotBefore: the sketch tells those apart that have used up
// what their own counters hold.
func TestHottestKnowsWhatWasHotBefore(t *testing.T) {
	c := newRoom()
	for i := range 40 * room {
		ask(c, i%50)
		ask(c, 1000+i)
	}
	hot := 0
	for _, e := range c.Hottest(100, 0) {
		if e.Value < 50 {
			hot++
		}
	}
	if hot < 49 {
		t.Errorf("%d of the 50 that are asked for all the time are among the hottest 100", hot)
	}
}

// TestWalksDoNotStopWriters: no lock is held while a body runs, so that a writer
// on another goroutine is served in the midst of a walk.
func TestWalksDoNotStopWriters(t *testing.T) {
	c := lru.New[int](lru.Options[int]{MaxBytes: 1 << 30, Shards: 1})
	fill(t, c, 5000)
	met, written := 0, make(chan bool)
	write := func() {
		if met++; met%1000 == 0 {
			go func() { written <- c.Set("new", 0, 1, major(0, never)) }()
			if !<-written {
				t.Error("Set = false, want true")
			}
		}
	}
	for range c.All(0) {
		write()
	}
	c.RemoveFunc(func(string, int) bool {
		write()
		return false
	})
	if met < 10_000 {
		t.Errorf("met %d entries in two walks, want 10000", met)
	}
	audit(t, c)
}
