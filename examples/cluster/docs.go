package main

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/peercache/peercache"
)

// A symbol is what a key names: a package, something that it exports, or a
// method of a type that it exports.
type symbol struct {
	path   string // import path, such as net/http
	name   string // "" for the package itself
	method string // "" unless name is a type and the key goes on
}

// parseKey splits net/http.Client.Do at the dots behind the last slash. It
// rejects what cannot be a package of the standard library, so that a key from
// outside reads no file elsewhere.
func parseKey(key string) (symbol, bool) {
	if len(key) > maxKeyLen || !fs.ValidPath(key) {
		return symbol{}, false
	}
	slash := strings.LastIndexByte(key, '/') + 1
	last, rest, dotted := strings.Cut(key[slash:], ".")
	name, method, twice := strings.Cut(rest, ".")
	sym := symbol{path: key[:slash] + last, name: name, method: method}
	switch {
	case !public(sym.path):
		return symbol{}, false
	case dotted && !token.IsIdentifier(name):
		return symbol{}, false
	case twice && !token.IsIdentifier(method):
		return symbol{}, false
	}
	return sym, true
}

// maxKeyLen is well above the longest key there is (about 70 bytes) and well
// below what the cache takes.
const maxKeyLen = 256

// public reports whether an import path may be that of a documented package of
// the standard library.
func public(path string) bool {
	for i, elem := range strings.Split(path, "/") {
		switch {
		case elem == "" || elem[0] == '.' || elem[0] == '_':
			return false
		case elem == "internal" || elem == "vendor" || elem == "testdata":
			return false
		case i == 0 && elem == "cmd":
			return false
		case strings.ContainsFunc(elem, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
		}):
			return false
		}
	}
	return true
}

// A library renders the documentation of the packages below one GOROOT. It
// parses a package anew each time: that is the slow work that the cluster
// shares.
type library struct {
	goroot string
}

// text is what a key stands for. It returns peercache.ErrNotFound for a package
// or symbol that does not exist.
func (l library) text(ctx context.Context, key string) (string, error) {
	sym, ok := parseKey(key)
	if !ok {
		return "", peercache.ErrNotFound
	}
	p, err := l.parse(ctx, sym.path)
	if err != nil {
		return "", err
	}
	write := p.find(sym)
	if write == nil {
		return "", peercache.ErrNotFound
	}
	var b strings.Builder
	fmt.Fprintf(&b, "package %s // import %q\n\n", p.Name, p.ImportPath)
	write(&b)
	return b.String(), nil
}

// A page is a parsed package with what is needed to print it.
type page struct {
	*doc.Package
	fset *token.FileSet
}

// parse reads the files of a package that this operating system and
// architecture would build.
func (l library) parse(ctx context.Context, path string) (*page, error) {
	env := build.Default
	env.GOROOT = l.goroot
	env.CgoEnabled = false // the documented half of net and os/user, on every machine
	dir := filepath.Join(l.goroot, "src", filepath.FromSlash(path))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, peercache.ErrNotFound
	}
	pkg, err := env.ImportDir(dir, 0)
	if _, noGo := errors.AsType[*build.NoGoError](err); noGo {
		return nil, peercache.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", path, err)
	}

	p := &page{fset: token.NewFileSet()}
	var files []*ast.File
	for _, name := range pkg.GoFiles {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(p.fset, filepath.Join(dir, name), nil, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", path, err)
		}
		files = append(files, f)
	}
	var mode doc.Mode
	if path == "builtin" {
		mode = doc.AllDecls // its names are lower case, and predeclared
	}
	if p.Package, err = doc.NewFromFiles(p.fset, files, path, mode); err != nil {
		return nil, fmt.Errorf("package %s: %w", path, err)
	}
	return p, nil
}

// find returns what writes the text of sym, or nil if there is no such thing.
func (p *page) find(sym symbol) func(*strings.Builder) {
	if sym.name == "" {
		return p.writeIndex
	}
	for _, t := range p.Types {
		if t.Name == sym.name && sym.method == "" {
			return func(b *strings.Builder) { p.writeType(b, t) }
		}
		if t.Name != sym.name {
			continue
		}
		for _, m := range t.Methods {
			if m.Name == sym.method {
				return func(b *strings.Builder) { p.writeDecl(b, m.Decl, m.Doc) }
			}
		}
	}
	if sym.method != "" {
		return nil
	}
	for f := range p.funcs() {
		if f.Name == sym.name {
			return func(b *strings.Builder) { p.writeDecl(b, f.Decl, f.Doc) }
		}
	}
	for v := range p.values() {
		if slices.Contains(v.Names, sym.name) {
			return func(b *strings.Builder) { p.writeDecl(b, v.Decl, v.Doc) }
		}
	}
	return nil
}

// funcs yields the package's functions, those that make a type included.
func (p *page) funcs() iter.Seq[*doc.Func] {
	return func(yield func(*doc.Func) bool) {
		for _, f := range p.Funcs {
			if !yield(f) {
				return
			}
		}
		for _, t := range p.Types {
			for _, f := range t.Funcs {
				if !yield(f) {
					return
				}
			}
		}
	}
}

// values yields the groups of constants and variables, those of a type
// included.
func (p *page) values() iter.Seq[*doc.Value] {
	return func(yield func(*doc.Value) bool) {
		groups := [][]*doc.Value{p.Consts, p.Vars}
		for _, t := range p.Types {
			groups = append(groups, t.Consts, t.Vars)
		}
		for _, group := range groups {
			for _, v := range group {
				if !yield(v) {
					return
				}
			}
		}
	}
}

// writeIndex writes the package's text and one line for each thing it exports.
func (p *page) writeIndex(b *strings.Builder) {
	b.Write(p.Text(p.Doc))
	b.WriteByte('\n')
	for _, v := range p.Consts {
		writeNames(b, "const", v)
	}
	for _, v := range p.Vars {
		writeNames(b, "var", v)
	}
	for _, f := range p.Funcs {
		fmt.Fprintln(b, p.signature(f))
	}
	for _, t := range p.Types {
		fmt.Fprintf(b, "type %s\n", t.Name)
		for _, v := range t.Consts {
			writeNames(b, "    const", v)
		}
		for _, v := range t.Vars {
			writeNames(b, "    var", v)
		}
		for _, f := range slices.Concat(t.Funcs, t.Methods) {
			fmt.Fprintf(b, "    %s\n", p.signature(f))
		}
	}
}

// writeType writes a type's declaration and text, and what belongs to it.
func (p *page) writeType(b *strings.Builder, t *doc.Type) {
	p.writeDecl(b, t.Decl, t.Doc)
	for _, v := range slices.Concat(t.Consts, t.Vars) {
		b.WriteByte('\n')
		p.writeDecl(b, v.Decl, v.Doc)
	}
	if len(t.Funcs)+len(t.Methods) > 0 {
		b.WriteByte('\n')
	}
	for _, f := range slices.Concat(t.Funcs, t.Methods) {
		fmt.Fprintln(b, p.signature(f))
	}
}

// writeDecl writes a declaration as its author laid it out, with its text
// indented below.
func (p *page) writeDecl(b *strings.Builder, decl ast.Decl, text string) {
	p.print(b, decl)
	b.WriteByte('\n')
	pr := p.Printer()
	pr.TextPrefix = "    "
	pr.TextCodePrefix = "        "
	b.Write(pr.Text(p.Parser().Parse(text)))
}

// signature is a function in one line.
func (p *page) signature(f *doc.Func) string {
	var b strings.Builder
	p.print(&b, f.Decl)
	return strings.Join(strings.Fields(b.String()), " ")
}

func (p *page) print(b *strings.Builder, decl ast.Decl) {
	// go/doc keeps the comments in the declarations although it hands them out
	// on their own; printed again they would stand there twice.
	switch d := decl.(type) {
	case *ast.FuncDecl:
		d.Doc, d.Body = nil, nil
	case *ast.GenDecl:
		d.Doc = nil
	}
	layout := printer.Config{Mode: printer.UseSpaces | printer.TabIndent, Tabwidth: 8}
	if err := layout.Fprint(b, p.fset, decl); err != nil {
		// A strings.Builder takes everything, and the parser made the tree.
		fmt.Fprintf(b, "(unprintable: %v)", err)
	}
}

// writeNames writes one line for a group of constants or variables.
func writeNames(b *strings.Builder, keyword string, v *doc.Value) {
	const most = 4 // arbitrary: one line stays a line
	names := v.Names
	if len(names) > most {
		names = append(slices.Clone(names[:most]), fmt.Sprintf("and %d more", len(v.Names)-most))
	}
	fmt.Fprintf(b, "%s %s\n", keyword, strings.Join(names, ", "))
}
