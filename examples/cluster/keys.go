package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/peercache/peercache"
)

// packages lists the import paths below goroot that may be documented packages
// of the standard library, sorted. Directories without Go files are among them.
func packages(goroot string) ([]string, error) {
	src := filepath.Join(goroot, "src")
	var paths []string
	err := filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == src || !d.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(src, name)
		if err != nil {
			return err
		}
		path := filepath.ToSlash(rel)
		if !public(path) {
			return fs.SkipDir
		}
		paths = append(paths, path)
		return nil
	})
	return paths, err
}

// allKeys lists every package of the standard library below goroot and every
// symbol that one exports, sorted: what a node can answer. It also returns how
// many packages there are.
func allKeys(ctx context.Context, goroot string) (keys []string, pkgs int, err error) {
	paths, err := packages(goroot)
	if err != nil {
		return nil, 0, err
	}
	var mu sync.Mutex // guards keys and pkgs
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, path := range paths {
		group.Go(func() error {
			p, err := library{goroot}.parse(ctx, path)
			if errors.Is(err, peercache.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			pkgs++
			keys = append(keys, p.keys()...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, 0, err
	}
	if len(keys) == 0 {
		return nil, 0, fmt.Errorf("no package below %s", filepath.Join(goroot, "src"))
	}
	slices.Sort(keys)
	return keys, pkgs, nil
}

// keys lists the page's package and what it exports.
func (p *page) keys() []string {
	names := []string{p.ImportPath}
	add := func(name string) { names = append(names, p.ImportPath+"."+name) }
	for f := range p.funcs() {
		add(f.Name)
	}
	for v := range p.values() {
		for _, name := range v.Names {
			if name != "_" {
				add(name)
			}
		}
	}
	for _, t := range p.Types {
		add(t.Name)
		for _, m := range t.Methods {
			add(t.Name + "." + m.Name)
		}
	}
	return names
}
