# Everything that is done with this repository more than once. `make help` lists
# it; .ci/run does the whole of it on a machine that has nothing but Go.

# The tools, each by its version. A new version here is built at its next use.
GOLANGCI_LINT := v2.15.0
PROTOC_GEN_GO := v1.36.12
PROTOC        := 3.21.12

# What may be said on the command line: make bench BENCH=Get COUNT=10.
BENCH    := .
COUNT    := 1
FUZZTIME :=
PKG      := ./...

# Modules of their own, so that nobody who uses the library downloads what they need.
MODULES := bench discovery/consul discovery/etcd examples/postgres

# Where the access traces for bench-store are; without, it replays artificial ones only.
TRACES :=

# Where bench-deploys writes its pictures and series; without, it prints tables only.
SVG :=

# The directories bear the versions, so that two branches may differ in them.
lint_dir := $(CURDIR)/.bin/golangci-lint-$(GOLANGCI_LINT)
gen_dir  := $(CURDIR)/.bin/protoc-gen-go-$(PROTOC_GEN_GO)

.PHONY: all test race lint fmt modules bench bench-store bench-peers bench-deploys fuzz cover gen protoc clean help

all: lint test ## lint and test: the default

test: ## run the tests
	go test $(PKG)

# Timers of one bubble share one context of the race detector, which two processors at a
# time destroy (go.dev/issue/78156), so packages with bubbles have one; it finds as much
# with one. One package at a time: tests of real processes need a processor now and then.
race: ## run the tests in random order under the race detector
	$(call race,$(PKG))

race = packages=$$(go list -f '{{.ImportPath}} {{.TestImports}} {{.XTestImports}}' $(1)) || exit 1; \
	echo "$$packages" | while read -r package imports; do \
		case "$$imports" in *testing/synctest*) cpu=1 ;; *) cpu=2 ;; esac; \
		go test -race -shuffle=on -cpu $$cpu "$$package" </dev/null || exit 1; \
	done

lint: $(lint_dir)/golangci-lint ## look for mistakes and for what .golangci.yml forbids
	$< run $(PKG)
	@for dir in $(MODULES); do echo "$$dir: lint"; (cd $$dir && $< run -c $(CURDIR)/.golangci.yml ./...) || exit 1; done

fmt: $(lint_dir)/golangci-lint ## format the sources the way lint wants them
	$< fmt *.go cachetest consistenthash examples internal lru
	@for dir in $(MODULES); do (cd $$dir && $< fmt -c $(CURDIR)/.golangci.yml ./...) || exit 1; done

modules: ## vet and test the modules beside the root, under the race detector
	@for dir in $(MODULES); do echo "$$dir:"; (cd $$dir && go mod tidy -diff && go vet ./... && $(call race,./...)) || exit 1; done

bench: ## run the benchmarks that match BENCH, COUNT times
	go test -run='^$$' -bench='$(BENCH)' -benchmem -count=$(COUNT) $(PKG)

bench-store: ## compare the store with other libraries: hit ratios (TRACES=dir), speed, memory
	cd bench && go run ./hitratio -synthetic $(if $(TRACES),-traces $(abspath $(TRACES)))
	cd bench && go run ./store

bench-peers: ## compare a fetch from a peer with Redis, memcached and others; apt-get install redis-server memcached
	cd bench && go run ./peers

bench-deploys: ## measure what restarts, deaths and newcomers do to a shared cache (SVG=dir for pictures)
	cd bench && go run ./deploys $(if $(SVG),-svg $(abspath $(SVG)))

# Times by default, not a time: Go before 1.27 may fail a target because its time is up
# (go.dev/issue/75804). FuzzTable looks at every slot of three tables each time.
# Inputs are hardly made smaller then: that takes up to a minute for each new one.
fuzz: ## run every fuzz target 50,000 times, or for FUZZTIME
	@grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|/[^/]*:func | |' | { n=0; while read -r dir name; do \
		n=$$((n+1)); echo "$$dir $$name"; \
		case $$name in FuzzTable) times=500x ;; *) times=50000x ;; esac; \
		budget=$(if $(FUZZTIME),-fuzztime=$(FUZZTIME),"-fuzztime=$$times -fuzzminimizetime=10x"); \
		(cd "$$dir" && go test -run='^$$' -fuzz="^$$name\$$" $$budget .) || exit 1; \
	done; test $$n -gt 0; }

cover: ## say how much of the code the tests reach; go tool cover -html=cover.out shows what they do not
	go test -coverpkg=./... -coverprofile=cover.out $(PKG) && go tool cover -func=cover.out | tail -n 1

gen: protoc $(gen_dir)/protoc-gen-go ## generate internal/wire from wire.proto again
	PATH="$(gen_dir):$$PATH" go generate ./internal/wire

protoc: # another version would write another header into what it generates
	@protoc --version | grep -qx 'libprotoc $(PROTOC)' || { echo 'make gen needs protoc $(PROTOC), on Debian and Ubuntu: apt-get install protobuf-compiler' >&2; exit 1; }

clean: ## remove the tools, and what tests and profiles left behind
	rm -rf .bin cover.out *.test *.out

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | expand -t 15

$(lint_dir)/golangci-lint:
	GOBIN=$(lint_dir) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)

$(gen_dir)/protoc-gen-go:
	GOBIN=$(gen_dir) go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO)
