package plot_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peercache/peercache/bench/internal/plot"
)

// An element is one of the picture, with its text.
type element struct {
	name       string
	attributes map[string]string
	text       string
}

func (e element) number(t *testing.T, attribute string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(e.attributes[attribute], 64)
	if err != nil {
		t.Fatalf("%s of %s: %v", attribute, e.name, err)
	}
	return v
}

// draw returns the elements of a picture, after it has proved to be well-formed.
func draw(t *testing.T, f plot.Figure) []element {
	t.Helper()
	var out bytes.Buffer
	if err := f.Write(&out); err != nil {
		t.Fatal(err)
	}
	var all []element
	for d := xml.NewDecoder(&out); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := element{name: token.Name.Local, attributes: map[string]string{}}
			for _, a := range token.Attr {
				e.attributes[a.Name.Local] = a.Value
			}
			all = append(all, e)
		case xml.CharData:
			if len(all) > 0 {
				all[len(all)-1].text += strings.TrimSpace(string(token))
			}
		}
	}
}

// lines returns the lines of series: paths that are neither axes nor marks.
func lines(all []element) []element {
	return slices.DeleteFunc(slices.Clone(all), func(e element) bool {
		return e.name != "path" || e.attributes["stroke-linejoin"] == ""
	})
}

// labels returns the texts with an attribute of that value, in order.
func labels(all []element, attribute, value string) []string {
	var texts []string
	for _, e := range all {
		if e.name == "text" && e.attributes[attribute] == value {
			texts = append(texts, e.text)
		}
	}
	return texts
}

func figure(panels ...plot.Panel) plot.Figure {
	return plot.Figure{Title: "a < b & c", XLabel: "seconds", Series: []string{"one", "two"}, Panels: panels}
}

func TestEverySeriesHasALineInItsColorAndANameInTheLegend(t *testing.T) {
	all := draw(t, figure(
		plot.Panel{YLabel: "hits", Lines: [][]plot.Point{{{0, 1}, {1, 2}}, {{0, 2}, {1, 1}}}},
		plot.Panel{YLabel: "time", Lines: [][]plot.Point{{{0, 1}, {1, 2}}, nil}},
	))
	var colors []string
	for _, line := range lines(all) {
		colors = append(colors, line.attributes["stroke"])
	}
	if len(colors) != 3 || colors[0] == colors[1] || colors[0] != colors[2] {
		t.Errorf("lines have the colors %q, want three, the last as the first", colors)
	}
	for _, text := range []string{"one", "two", "a < b & c", "seconds", "hits", "time"} {
		if !slices.ContainsFunc(all, func(e element) bool { return e.name == "text" && e.text == text }) {
			t.Errorf("%q is not in the picture", text)
		}
	}
}

func TestPointsAreWhereTheAxesSay(t *testing.T) {
	for name, c := range map[string]struct {
		panel plot.Panel
		ticks []string
	}{
		"linear":      {plot.Panel{Lines: [][]plot.Point{{{0, 0}, {50, 25}, {100, 50}}}}, []string{"0", "10", "20", "30", "40", "50"}},
		"share":       {plot.Panel{Lines: [][]plot.Point{{{0, 91.3}, {100, 100}}}}, []string{"90", "92", "94", "96", "98", "100"}},
		"logarithmic": {plot.Panel{Log: true, Lines: [][]plot.Point{{{0, 1}, {50, 10}, {100, 100}}}}, []string{"1", "2", "5", "10", "20", "50", "100"}},
		"small":       {plot.Panel{Log: true, Lines: [][]plot.Point{{{0, 0.03}, {100, 0.2}}}}, []string{"0.02", "0.05", "0.1", "0.2"}},
		"wide":        {plot.Panel{Log: true, Lines: [][]plot.Point{{{0, 0.1}, {100, 2000}}}}, []string{"0.1", "1", "10", "100", "1000"}},
		"constant":    {plot.Panel{Lines: [][]plot.Point{{{0, 100}, {100, 100}}}}, []string{"99", "99.2", "99.4", "99.6", "99.8", "100"}},
		"empty":       {plot.Panel{}, []string{"2", "4", "6", "8", "10"}},
	} {
		all := draw(t, figure(c.panel))
		if d := cmp.Diff(c.ticks, labels(all, "text-anchor", "end")); d != "" {
			t.Errorf("%s: numbers at the axis (-want +got):\n%s", name, d)
		}
		for _, e := range all {
			if e.name != "text" || e.attributes["text-anchor"] != "end" {
				continue
			}
			// What is drawn at this number has this place.
			at := e.number(t, "y") - 4
			for _, pt := range slices.Concat(c.panel.Lines...) {
				if v, _ := strconv.ParseFloat(e.text, 64); v == pt.Y && !strings.Contains(lines(all)[0].attributes["d"], " "+strconv.FormatFloat(at, 'f', -1, 64)) {
					t.Errorf("%s: %v is at %v by the axis and not on the line %s", name, v, at, lines(all)[0].attributes["d"])
				}
			}
		}
	}
}

func TestAGapBreaksTheLine(t *testing.T) {
	for name, log := range map[string]bool{"linear": false, "logarithmic": true} {
		line := []plot.Point{{0, 1}, {1, 2}, {2, math.NaN()}, {3, 3}, {4, 4}}
		if log {
			line[2].Y = 0 // has no logarithm
		}
		path := lines(draw(t, figure(plot.Panel{Log: log, Lines: [][]plot.Point{line}})))[0].attributes["d"]
		if m, l := strings.Count(path, "M"), strings.Count(path, "L"); m != 2 || l != 2 || strings.Contains(path, "NaN") {
			t.Errorf("%s: path %q, want two pieces of two points", name, path)
		}
	}
}

func TestEventsAreMarkedInTheColorOfTheirSeries(t *testing.T) {
	f := figure(plot.Panel{Lines: [][]plot.Point{{{-10, 1}, {90, 2}}}})
	f.Events = []plot.Event{{Series: 0, X: 0, Name: "kill"}, {Series: 1, X: 40, Name: "join"}, {Series: 1, X: 41, Name: "crowded"}}
	all := draw(t, f)
	var marks []element
	for _, e := range all {
		if e.name == "line" && e.attributes["stroke-dasharray"] != "" {
			marks = append(marks, e)
		}
	}
	if len(marks) != 3 || marks[0].attributes["stroke"] == marks[1].attributes["stroke"] {
		t.Fatalf("marks: %v, want three in two colors", marks)
	}
	path := lines(all)[0].attributes["d"] // from one end of the axis to the other
	begin, _ := strconv.ParseFloat(strings.Fields(path[1:])[0], 64)
	end, _ := strconv.ParseFloat(strings.Fields(path[strings.Index(path, "L")+1:])[0], 64)
	if got, want := marks[0].number(t, "x1"), begin+(end-begin)/10; math.Abs(got-want) > 0.1 {
		t.Errorf("the first mark is at %v, want %v, a tenth of the way from -10 to 90", got, want)
	}
	if d := cmp.Diff([]string{"kill", "join"}, labels(all, "font-size", "11")); d != "" {
		t.Errorf("names of events, of which one has no room (-want +got):\n%s", d)
	}
}

func TestAllIsWithinThePicture(t *testing.T) {
	f := figure(
		plot.Panel{Lines: [][]plot.Point{{{-3, 17}, {900, 99.99}}}},
		plot.Panel{Log: true, Lines: [][]plot.Point{{{-3, 0.013}, {900, 777}}}},
	)
	f.Events = []plot.Event{{Series: 1, X: 900, Name: "end"}}
	all := draw(t, f)
	w, h := all[0].number(t, "width"), all[0].number(t, "height")
	for _, e := range all[1:] {
		for attribute, most := range map[string]float64{"x": w, "x1": w, "x2": w, "y": h, "y1": h, "y2": h} {
			if _, ok := e.attributes[attribute]; !ok {
				continue
			}
			if v := e.number(t, attribute); v < 0 || v > most {
				t.Errorf("%s of %s %q is %v, want 0 to %v", attribute, e.name, e.text, v, most)
			}
		}
	}
}

func TestAFigureWithoutDataIsAPicture(t *testing.T) {
	if all := draw(t, plot.Figure{}); all[0].name != "svg" {
		t.Errorf("the first element is %s, want svg", all[0].name)
	}
}

func TestWhatCannotBeWrittenIsAnError(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	if err := figure().Write(w); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Write = %v, want %v", err, io.ErrClosedPipe)
	}
}
