package lru_test

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// fewKeys are of all the lengths that the store treats differently.
func fewKeys() []string {
	keys := strings.Split(",a,b,c,d,e,f,g,dd,hhhhhhhh,iiiiiiiii", ",")
	for _, n := range []int{16, 17, 24, 25, 33, 49, 65, 97, 128, 129, 256, 257, 300} {
		keys = append(keys, strings.Repeat("k", n))
	}
	return append(keys, strings.Repeat("l", 257), strings.Repeat("m", 1000))
}

// TestCacheIsAMapThatSaysWhoLeaves plays random calls against a map: after each of
// them contents, sums and counters agree, and so does every departure.
func TestCacheIsAMapThatSaysWhoLeaves(t *testing.T) {
	seed := maphash.MakeSeed()
	rapid.Check(t, func(t *rapid.T) {
		choice := map[int]*rapid.Generator[int]{}
		m := machine{
			fatal: t.Fatalf,
			keys:  fewKeys(),
			seed:  seed,
			pick: func(n int) int {
				if choice[n] == nil {
					choice[n] = rapid.IntRange(0, n-1)
				}
				return choice[n].Draw(t, "of "+strconv.Itoa(n))
			},
		}
		m.start(rapid.SampledFrom([]int64{500, 2000, 4000, 16000}).Draw(t, "MaxBytes"), rapid.SampledFrom([]int{1, 2, 8, 64}).Draw(t, "Shards"))
		for range rapid.IntRange(1, 300).Draw(t, "calls") {
			m.step()
			m.check()
		}
	})
}

// FuzzCache is the same with the calls in bytes, of which those behind maxCalls are
// ignored: long inputs take long, and reach nothing that several short ones do not.
func FuzzCache(f *testing.F) {
	const maxCalls = 400
	f.Add([]byte("\x00\x00\x02" + strings.Repeat("\x01\x00\x01\x01\x40\x06", 40)))
	f.Add([]byte("\x03\x03\x02" + strings.Repeat("\x05\x0d\x00\x00\x10\x20\x03\x06\x1e\x80", 30)))
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, maxCalls)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	f.Add(random)
	keys, seed := fewKeys(), maphash.MakeSeed()
	f.Fuzz(func(t *testing.T, calls []byte) {
		calls = calls[:min(len(calls), maxCalls)]
		next := func() int {
			if len(calls) == 0 {
				return 0
			}
			b := calls[0]
			calls = calls[1:]
			return int(b)
		}
		m := machine{
			fatal: t.Fatalf,
			keys:  keys,
			seed:  seed,
			pick: func(n int) int {
				v := next()
				if n > 256 {
					v = v<<8 | next()
				}
				return v % n
			},
		}
		m.start([]int64{500, 2000, 4000, 16000}[m.pick(4)], 1<<m.pick(4))
		for len(calls) > 0 {
			m.step()
			m.check()
		}
	})
}

// TestManyEntriesComeAndGo is the same with enough entries for pages to be made and
// given back by the hundred, in tides of insertion and removal.
func TestManyEntriesComeAndGo(t *testing.T) {
	for _, shards := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			m := machine{fatal: t.Fatalf, pick: r.IntN, seed: maphash.MakeSeed()}
			for i := range 12_000 {
				m.keys = append(m.keys, strings.Repeat("x", r.IntN(1+i%40))+strconv.Itoa(i))
			}
			m.start(3<<20, shards)
			key := func() string { return m.keys[r.IntN(len(m.keys))] }
			for range 4 {
				for range 15_000 {
					v := m.draw()
					v.Size %= 1000
					m.set(key(), v)
				}
				m.check()
				for range 5_000 {
					m.get(key())
					m.update(key(), m.draw())
				}
				m.check()
				if r.IntN(2) == 0 {
					m.removeFunc(1, "")
				} else {
					m.now += 30 // time for all that expires
				}
				few := r.IntN(100)
				for _, k := range m.keys[few:] {
					if r.IntN(100) > 0 {
						m.remove(k)
					}
				}
				m.check()
				for range 4_000 {
					m.set(m.keys[r.IntN(200)], m.draw())
				}
				m.check()
				m.calls = nil
			}
		})
	}
}
