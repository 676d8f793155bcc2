package main

import (
	"errors"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNoFlagsMeanTheDefaults(t *testing.T) {
	var out strings.Builder
	got, err := parseFlags(nil, &out)
	if err != nil || out.Len() > 0 {
		t.Fatalf("parseFlags() = %v, %s", err, out.String())
	}
	want := config{nodes: 5, duration: 48 * time.Second, inFlight: 4, parallel: 1, zipf: 1.1, seed: 1}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{})); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestBadFlagIsExplainedInOneLine(t *testing.T) {
	for args, want := range map[string]string{
		"-nodes 2":      "-nodes is 2, want 3 to 16",
		"-nodes 17":     "-nodes is 17, want 3 to 16",
		"-nodes five":   `invalid value "five" for flag -nodes`,
		"-duration 7s":  "-duration is 7s, want 8s to 1h",
		"-duration 2h":  "-duration is 2h0m0s, want 8s to 1h",
		"-replicas 3":   "-replicas is 3, want 0 to 2",
		"-replicas -1":  "-replicas is -1, want 0 to 2",
		"-duration 24":  `invalid value "24" for flag -duration`,
		"-inflight 0":   "-inflight is 0, want 1 to 64",
		"-inflight 65":  "-inflight is 65, want 1 to 64",
		"-parallel 0":   "-parallel is 0, want 1 to 16",
		"-parallel 17":  "-parallel is 17, want 1 to 16",
		"-zipf 1":       "-zipf is 1, want more than 1, at most 4",
		"-zipf NaN":     "-zipf is NaN, want more than 1, at most 4",
		"-zipf +Inf":    "-zipf is +Inf, want more than 1, at most 4",
		"-seed -1":      `invalid value "-1" for flag -seed`,
		"-nosuch":       "flag provided but not defined: -nosuch",
		"-serve please": `unexpected argument "please"`,
	} {
		var out strings.Builder
		if _, err := parseFlags(strings.Fields(args), &out); !errors.Is(err, errUsage) {
			t.Errorf("parseFlags(%s) = %v, want errUsage", args, err)
		}
		if got := out.String(); !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("parseFlags(%s) wrote %q, want a line that begins with %q", args, got, want)
		}
	}
}

func TestHelpExplainsEveryFlag(t *testing.T) {
	var out strings.Builder
	if _, err := parseFlags([]string{"-h"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("parseFlags(-h) = %v, want flag.ErrHelp", err)
	}
	for _, name := range []string{"nodes", "duration", "replicas", "inflight", "parallel", "zipf", "seed", "goroot", "serve", "v"} {
		if !strings.Contains(out.String(), "\n  -"+name) {
			t.Errorf("-h does not explain -%s:\n%s", name, out.String())
		}
	}
}
