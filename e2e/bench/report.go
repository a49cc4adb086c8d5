package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// Report is the JSON of a run.
type Report struct {
	Started  time.Time           `json:"started"`
	Took     float64             `json:"seconds"`
	Command  []string            `json:"command"`
	Host     Host                `json:"host"`
	Rounds   int                 `json:"rounds"`
	Seconds  float64             `json:"secondsPerMeasurement"`
	Cache    string              `json:"pageCache"`
	Sides    [2]string           `json:"sides"`
	Memory   map[string]float64  `json:"sidecarMemory"` // idle_mib: RSS before any load; after_mib: after all of it; without the binary's pages: anonymous
	Rows     []Result            `json:"rows"`          // of the table
	Requests []RequestRow        `json:"requestsPerOperation"`
	Samples  map[string][]sample `json:"samples"` // by "workload side", in order of rounds, with what the table does not show
	Failures []string            `json:"failures"`

	workloads []workload
}

// Result is one row: medians over rounds, and the ratio of the medians. Values are null where a side has none.
type Result struct {
	Workload string      `json:"workload"`
	Metric   string      `json:"metric"`
	Title    string      `json:"title"`
	Unit     string      `json:"unit"`
	Medians  [2]*float64 `json:"medians"` // plain, remora
	Ratio    *float64    `json:"ratio"`   // remora / plain
	Floor    *float64    `json:"floor"`   // median of -floor
	Low      *float64    `json:"lowestRatio"`
	High     *float64    `json:"highestRatio"` // of single rounds
	Goal     float64     `json:"goal"`         // least ratio; 0: none
	Most     float64     `json:"most"`         // largest value of the volume; 0: none
}

func (r *Report) add(workload, side string, got sample) {
	r.Samples[workload+" "+side] = append(r.Samples[workload+" "+side], got)
}

// finish turns samples into rows.
func (r *Report) finish() {
	r.Took = time.Since(r.Started).Seconds()
	for _, w := range r.workloads {
		plain, remora := r.Samples[w.name+" "+r.Sides[0]], r.Samples[w.name+" "+r.Sides[1]]
		for _, row := range w.rows {
			result := Result{Workload: w.name, Metric: row.metric, Title: row.title, Unit: row.unit, Goal: row.goal, Most: row.most}
			result.Medians[1] = median(values(remora, row.metric))
			if !row.own {
				result.Medians[0] = median(values(plain, row.metric))
				result.compare(values(plain, row.metric), values(remora, row.metric))
			}
			result.Floor = median(values(r.Samples[w.name+" floor"], row.metric))
			if result.Medians[0] != nil || result.Medians[1] != nil {
				r.Rows = append(r.Rows, result)
			}
		}
	}
}

// compare fills in the ratio of medians, and the range of the ratios of single rounds.
func (r *Result) compare(plain, remora []float64) {
	if r.Medians[0] == nil || r.Medians[1] == nil || *r.Medians[0] == 0 {
		return
	}
	ratio := *r.Medians[1] / *r.Medians[0]
	r.Ratio = &ratio
	var ratios []float64
	for i := range min(len(plain), len(remora)) {
		if plain[i] > 0 {
			ratios = append(ratios, remora[i]/plain[i])
		}
	}
	low, high := slices.Min(ratios), slices.Max(ratios)
	r.Low, r.High = &low, &high
}

func values(samples []sample, metric string) []float64 {
	var values []float64
	for _, s := range samples {
		if v, ok := s[metric]; ok {
			values = append(values, v)
		}
	}
	return values
}

// median is nil for no values.
func median(values []float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(values))
	m := (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	return &m
}

func (r *Report) write(cfg Config) error {
	if err := r.table(cfg.Out); err != nil || cfg.JSON == "" {
		return err
	}
	out, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(cfg.JSON), 0o755); err != nil {
		return err
	}
	return os.WriteFile(cfg.JSON, append(out, '\n'), 0o644)
}

// table is Markdown that also reads well on a terminal.
func (r *Report) table(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	columns := 9
	if slices.ContainsFunc(r.Rows, func(row Result) bool { return row.Floor != nil }) {
		columns = 11
	}
	line := func(cells ...string) {
		for _, cell := range cells[:columns] {
			_, _ = fmt.Fprintf(t, "| %s\t", cell) // an error of out comes back from Flush
		}
		_, _ = fmt.Fprintln(t, "|")
	}
	line("", "what", "unit", r.Sides[0], r.Sides[1], "ratio", "rounds", "goal", "met", "floor", "its ratio")
	line(slices.Repeat([]string{"---"}, 11)...)
	for _, row := range r.Rows {
		spread := ""
		if row.Low != nil && r.Rounds > 1 {
			spread = fmt.Sprintf("%.2f-%.2f", *row.Low, *row.High)
		}
		goal, met := row.verdict()
		line(row.Workload, row.Title, row.Unit, number(row.Medians[0]), number(row.Medians[1]), ratio(row.Ratio), spread, goal, met,
			number(row.Floor), ratio(row.floorRatio()))
	}
	for _, when := range []string{"idle", "after"} {
		if v, ok := r.Memory[when+"_mib"]; ok {
			row := Result{Medians: [2]*float64{nil, &v}, Most: map[string]float64{"idle": 40}[when]}
			title := map[string]string{"idle": "memory of an idle sidecar (RSS)", "after": "  the same after all of the above"}[when]
			goal, met := row.verdict()
			line("memory", title, "MiB", "", number(&v), "", "", goal, met, "", "")
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := r.requestTable(out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%s\n%d rounds, medians; %.0f s per timed measurement, %.0f s in all; %s\n",
		r.Host, r.Rounds, r.Seconds, r.Took, r.Cache)
	return err
}

// floorRatio is floor / plain: the ratio that no FUSE daemon of this kind can pass.
func (r *Result) floorRatio() *float64 {
	if r.Floor == nil || r.Medians[0] == nil || *r.Medians[0] == 0 {
		return nil
	}
	q := *r.Floor / *r.Medians[0]
	return &q
}

// verdict is the goal of a row, and whether it was met.
func (r *Result) verdict() (goal, met string) {
	ok := false
	switch {
	case r.Goal > 0:
		goal, ok = fmt.Sprintf(">= %.2f", r.Goal), r.Ratio != nil && *r.Ratio >= r.Goal
	case r.Most > 0:
		goal, ok = "<= "+strconv.FormatFloat(r.Most, 'f', -1, 64), r.Medians[1] != nil && *r.Medians[1] <= r.Most
	default:
		return "", ""
	}
	if ok {
		return goal, "yes"
	}
	return goal, "no"
}

// requestTable is the second table: what one operation of an application asks of the sidecar.
func (r *Report) requestTable(out io.Writer) error {
	if len(r.Requests) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	_, _ = fmt.Fprint(t, "\n| operation of an application\t| requests\t| which\t|\n| ---\t| ---\t| ---\t|\n") // errors come back from Flush
	for _, row := range r.Requests {
		_, _ = fmt.Fprintf(t, "| %s\t| %.2f\t| %s\t|\n", row.Operation, row.Requests, row.which())
	}
	return t.Flush()
}

func number(v *float64) string {
	switch {
	case v == nil:
		return ""
	case *v >= 100:
		return strconv.FormatFloat(*v, 'f', 0, 64)
	}
	return strconv.FormatFloat(*v, 'f', 1, 64)
}

func ratio(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'f', 2, 64)
}
