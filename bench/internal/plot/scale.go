package plot

import "math"

// A scale maps numbers to pixels.
type scale struct {
	lo, hi   float64 // numbers
	from, to float64 // where they are
	log      bool
}

// scale returns the one that holds all points of the panel, from round number to round
// number.
func (p Panel) scale(from, to float64) scale {
	s := scale{from: from, to: to, log: p.Log, lo: math.Inf(1), hi: math.Inf(-1)}
	for _, line := range p.Lines {
		for _, pt := range line {
			if s.holds(pt.Y) {
				s.lo, s.hi = min(s.lo, pt.Y), max(s.hi, pt.Y)
			}
		}
	}
	switch {
	case s.lo > s.hi: // no points: any axis is as good
		s.lo, s.hi = 1, 10
	case s.log:
		s.lo, s.hi = roundRatio(s.lo, false), roundRatio(s.hi, true)
		if s.lo == s.hi {
			s.hi = roundRatio(s.hi*1.5, true)
		}
	default:
		if s.lo == s.hi {
			s.lo-- // and not the upper end: a share that is always whole ends at 100 %
		}
		step := s.step()
		s.lo, s.hi = math.Floor(s.lo/step)*step, math.Ceil(s.hi/step)*step
	}
	return s
}

// holds reports whether v has a place at all.
func (s scale) holds(v float64) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && (!s.log || v > 0)
}

func (s scale) at(v float64) float64 {
	lo, hi := s.lo, s.hi
	if s.log {
		v, lo, hi = math.Log(v), math.Log(lo), math.Log(hi)
	}
	return s.from + (v-lo)/(hi-lo)*(s.to-s.from)
}

// ticks returns the numbers that are written at the axis.
func (s scale) ticks() []float64 {
	var all []float64
	if s.log {
		digits := []float64{1, 2, 5}
		if s.hi/s.lo > 1e3 { // more would not be read
			digits = digits[:1]
		}
		for decade := math.Floor(math.Log10(s.lo)); decade <= math.Log10(s.hi); decade++ {
			for _, digit := range digits {
				if v := tenTo(digit, decade); v >= s.lo && v <= s.hi {
					all = append(all, v)
				}
			}
		}
		return all
	}
	step := s.step()
	// Each is a multiple of the step: a sum of steps would drift from round numbers.
	for i := math.Ceil(s.lo/step - 1e-9); i*step <= s.hi+step*1e-9; i++ {
		all = append(all, round(i*step, step))
	}
	return all
}

// intervals is about how many an axis is divided into: its numbers stand apart, and
// one is near every point.
const intervals = 6

// step is the distance of the ticks: 1, 2 or 5 and zeros.
func (s scale) step() float64 {
	return roundRatio((s.hi-s.lo)/intervals*0.75, true)
}

// roundRatio returns the nearest number of one digit, 1, 2 or 5, and zeros that is not
// less than v, or not more.
func roundRatio(v float64, up bool) float64 {
	const slack = 1e-9 // what has been computed may be off by that, relative to itself
	decade := math.Floor(math.Log10(v))
	best := tenTo(1, decade)
	for _, digit := range []float64{1, 2, 5, 10} {
		candidate := tenTo(digit, decade)
		if up && candidate >= v*(1-slack) {
			return candidate
		}
		if candidate <= v*(1+slack) {
			best = candidate
		}
	}
	return best
}

// tenTo is digit times ten to the power of decade. Ten to a negative power is no exact
// number, one divided by its inverse is rounded once.
func tenTo(digit, decade float64) float64 {
	if decade < 0 {
		return digit / math.Pow(10, -decade)
	}
	return digit * math.Pow(10, decade)
}

// round takes off what a multiple of a step is beside a number of as many digits.
func round(v, step float64) float64 {
	digits := math.Pow(10, max(0, -math.Floor(math.Log10(step))))
	return math.Round(v*digits) / digits
}
