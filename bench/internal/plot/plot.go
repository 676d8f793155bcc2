// Package plot draws how quantities move over time, as SVG: panels one above the
// other that share their time axis, a line for each series, and the events that the
// lines are to be read against. It draws nothing else; what the quantities are is its
// caller's business.
package plot

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// A Figure is a picture.
type Figure struct {
	Title  string
	XLabel string
	Series []string // names, in the order of the lines of each panel
	Panels []Panel  // from top to bottom
	Events []Event
}

// A Panel is a quantity over time.
type Panel struct {
	YLabel string

	// Log has equal distances stand for equal ratios. Numbers that are not positive
	// are then left out.
	Log bool

	// Lines are the points of each series, by x. A series without points has no line
	// here. A point whose Y is not a number ends the line, which goes on behind it.
	Lines [][]Point
}

// A Point is a point of a line.
type Point struct{ X, Y float64 }

// An Event is an instant that a line in the color of its series marks in all panels.
// Its name stands above the first, unless there is no room between its neighbors of
// the same series.
type Event struct {
	Series int // an index of Figure.Series
	X      float64
	Name   string
}

// colors are those of M. Okabe and K. Ito, Color Universal Design (2008), which people
// with any color vision can tell apart, the darkest first.
var colors = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"}

// Sizes are in pixels. The letters are as wide as those of common sans-serif fonts, on
// average and generously.
const (
	width      = 960
	left       = 72 // of the panels: room for the numbers and the label
	right      = width - 24
	panelSize  = 190
	panelGap   = 36
	lineHeight = 16
	letter     = 6.5
)

// Write writes the figure as an SVG document that stands for itself.
func (f Figure) Write(w io.Writer) error {
	d := &drawing{figure: f}
	rows := 0.0 // of names of events
	if len(f.Events) > 0 {
		rows = float64(len(f.Series))
	}
	d.top = 60 + rows*lineHeight
	d.height = d.top + float64(len(f.Panels))*(panelSize+panelGap) + 24
	d.x = f.timeScale()

	fmt.Fprintf(&d.out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %s" width="%d" height="%s" font-family="sans-serif" font-size="12">`+"\n",
		width, number(d.height), width, number(d.height))
	fmt.Fprintf(&d.out, `<rect width="%d" height="%s" fill="#ffffff"/>`+"\n", width, number(d.height))
	d.text(left, 22, `font-size="15" font-weight="bold"`, f.Title)
	d.legend()
	for i, p := range f.Panels {
		d.panel(p, d.top+float64(i)*(panelSize+panelGap))
	}
	d.text((left+right)/2, d.height-10, `text-anchor="middle"`, f.XLabel)
	d.events()
	d.out.WriteString("</svg>\n")
	_, err := io.WriteString(w, d.out.String())
	return err
}

// A drawing is a figure being written.
type drawing struct {
	figure      Figure
	x           scale
	top, height float64 // of the first panel, and of all
	out         strings.Builder
}

// timeScale holds all points and events. It ends where they end: no room is left at the
// sides.
func (f Figure) timeScale() scale {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, p := range f.Panels {
		for _, line := range p.Lines {
			for _, pt := range line {
				lo, hi = min(lo, pt.X), max(hi, pt.X)
			}
		}
	}
	for _, e := range f.Events {
		lo, hi = min(lo, e.X), max(hi, e.X)
	}
	if lo > hi {
		lo, hi = 0, 1
	}
	if lo == hi {
		hi = lo + 1
	}
	return scale{lo: lo, hi: hi, from: left, to: right}
}

// legend names the series, each beside a piece of its line.
func (d *drawing) legend() {
	x := float64(left)
	for i, name := range d.figure.Series {
		fmt.Fprintf(&d.out, `<line x1="%s" y1="40" x2="%s" y2="40" stroke="%s" stroke-width="2.5"/>`+"\n",
			number(x), number(x+24), color(i))
		d.text(x+30, 44, "", name)
		x += 54 + letter*float64(len([]rune(name)))
	}
}

// panel draws axes and lines.
func (d *drawing) panel(p Panel, top float64) {
	bottom := top + panelSize
	y := p.scale(bottom, top)
	for _, v := range y.ticks() {
		at := number(y.at(v))
		fmt.Fprintf(&d.out, `<line x1="%d" y1="%s" x2="%d" y2="%s" stroke="#dddddd"/>`+"\n", left, at, right, at)
		d.text(left-6, y.at(v)+4, `text-anchor="end"`, label(v))
	}
	for _, v := range d.x.ticks() {
		at := number(d.x.at(v))
		fmt.Fprintf(&d.out, `<line x1="%s" y1="%s" x2="%s" y2="%s" stroke="#888888"/>`+"\n", at, number(bottom), at, number(bottom+4))
		d.text(d.x.at(v), bottom+17, `text-anchor="middle"`, label(v))
	}
	fmt.Fprintf(&d.out, `<path d="M%d %sV%sH%d" fill="none" stroke="#888888"/>`+"\n", left, number(top), number(bottom), right)
	middle := top + panelSize/2
	d.text(18, middle, fmt.Sprintf(`text-anchor="middle" transform="rotate(-90 18 %s)"`, number(middle)), p.YLabel)
	for i, line := range p.Lines {
		if path := d.path(line, y); path != "" {
			fmt.Fprintf(&d.out, `<path d="%s" fill="none" stroke="%s" stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round"/>`+"\n", path, color(i))
		}
	}
}

// path is a line as SVG wants it: M begins a piece and L goes on.
func (d *drawing) path(line []Point, y scale) string {
	var path strings.Builder
	begins := "M"
	for _, pt := range line {
		if !y.holds(pt.Y) {
			begins = "M"
			continue
		}
		path.WriteString(begins + number(d.x.at(pt.X)) + " " + number(y.at(pt.Y)))
		begins = "L"
	}
	return path.String()
}

// events draws the marks, and their names in a row for each series.
func (d *drawing) events() {
	free := make(map[int]float64) // where the next name may begin in each row
	for _, e := range d.figure.Events {
		x := d.x.at(e.X)
		fmt.Fprintf(&d.out, `<line x1="%s" y1="%s" x2="%s" y2="%s" stroke="%s" stroke-dasharray="3 3" opacity="0.7"/>`+"\n",
			number(x), number(d.top), number(x), number(d.height-24-panelGap), color(e.Series))
		size := letter * float64(len([]rune(e.Name)))
		if begin := x - size/2; begin >= free[e.Series] {
			row := d.top - 6 - lineHeight*float64(len(d.figure.Series)-1-e.Series)
			d.text(x, row, fmt.Sprintf(`text-anchor="middle" fill="%s" font-size="11"`, color(e.Series)), e.Name)
			free[e.Series] = begin + size + letter
		}
	}
}

// text writes s at a place, with further attributes.
func (d *drawing) text(x, y float64, attributes, s string) {
	if attributes != "" {
		attributes = " " + attributes
	}
	fmt.Fprintf(&d.out, `<text x="%s" y="%s"%s>`, number(x), number(y), attributes)
	_ = xml.EscapeText(&d.out, []byte(s)) // a Builder takes everything
	d.out.WriteString("</text>\n")
}

func color(series int) string { return colors[series%len(colors)] }

// number is a coordinate: a tenth of a pixel is more than eyes see.
func number(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// label is a number at an axis.
func label(v float64) string {
	if v == 0 {
		v = 0 // and not -0, which rounding makes of numbers just below it
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}
