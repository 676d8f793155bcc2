package main

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/peercache/peercache/bench/internal/plot"
)

// What happens over time, as lines of JSON and as a picture.

// A moment is a line of a series, a tick of it or an event. Seconds are counted from when
// the event of the scenario begins; a tick is named by its first.
type moment struct {
	Library string  `json:"library"`
	Second  float64 `json:"second"`
	Event   string  `json:"event,omitempty"`
	*counts
}

// counts are those of a tick.
type counts struct {
	Gets     int      `json:"gets"`
	Failed   int      `json:"failed"`
	Slow     int      `json:"slow"` // longer than 100 ms
	Loads    int      `json:"loads"`
	Repeated int      `json:"repeated"`
	HitRatio *float64 `json:"hit_ratio"` // null without Gets, as are the times
	P50      *float64 `json:"p50_ms"`
	P99      *float64 `json:"p99_ms"`
}

// moments returns the series of a run, and its events after it.
func (r *result) moments() []moment {
	var all []moment
	for i, t := range r.ticks {
		s := summarize([]tick{t}, r.width)
		c := &counts{Gets: s.gets, Failed: s.failed, Slow: s.slow, Loads: s.loads, Repeated: s.repeated}
		if s.gets > 0 {
			c.HitRatio = new(s.lowest)
			c.P50, c.P99 = new(float64(s.p50.Microseconds())/1e3), new(float64(s.p99.Microseconds())/1e3)
		}
		all = append(all, moment{Library: r.library, Second: r.second(float64(i - r.event)), counts: c})
	}
	for _, e := range r.events {
		all = append(all, moment{Library: r.library, Second: r.second(e.tick), Event: e.name})
	}
	return all
}

// second turns ticks into seconds, in microseconds' steps.
func (r *result) second(ticks float64) float64 {
	return math.Round(ticks*r.width.Seconds()*1e6) / 1e6
}

// draw writes the series and the picture of a scenario.
func (p *plan) draw(s scenario, results []result) (err error) {
	series, err := os.Create(filepath.Join(p.directory, s.name+".jsonl"))
	if err != nil {
		return err
	}
	picture, err := os.Create(filepath.Join(p.directory, s.name+".svg"))
	if err != nil {
		return errors.Join(err, series.Close())
	}
	return errors.Join(writeSeries(series, results), figure(s.heading(p.replicas), results).Write(picture), series.Close(), picture.Close())
}

// writeSeries writes a line for each moment.
func writeSeries(w io.Writer, results []result) error {
	lines := json.NewEncoder(w)
	for _, r := range results {
		for _, m := range r.moments() {
			if err := lines.Encode(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// figure is a picture of all libraries.
func figure(title string, results []result) plot.Figure {
	hits := plot.Panel{YLabel: "hit ratio, %", Lines: make([][]plot.Point, len(results))}
	times := plot.Panel{YLabel: "p99, ms", Log: true, Lines: make([][]plot.Point, len(results))}
	f := plot.Figure{Title: title, XLabel: "seconds; −n: node n is told to leave, +n: it is ready"}
	for i, r := range results {
		f.Series = append(f.Series, r.library)
		for _, m := range r.moments() {
			if m.counts == nil {
				f.Events = append(f.Events, plot.Event{Series: i, X: m.Second, Name: m.Event})
				continue
			}
			// The middle of the tick: a line that falls from the tick before an event to the
			// one after it crosses the event.
			x := m.Second + r.width.Seconds()/2
			hits.Lines[i] = append(hits.Lines[i], plot.Point{X: x, Y: 100 * orNaN(m.HitRatio)})
			times.Lines[i] = append(times.Lines[i], plot.Point{X: x, Y: orNaN(m.P99)})
		}
	}
	f.Panels = []plot.Panel{hits, times}
	return f
}

func orNaN(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}
