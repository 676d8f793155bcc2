package peercache_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// This file checks the rules of arch_test.go. It only parses, which takes
// milliseconds. Types would see through interfaces and methods, and would need
// every dependency compiled.

// A source is a parsed Go file, or a go.mod, of which only the place matters.
type source struct {
	path string // from the root, with slashes
	set  *token.FileSet
	file *ast.File // nil for go.mod
}

func readSources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.ContainsAny(d.Name()[:1], "._") || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go" && d.Name() != "go.mod":
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		all = append(all, parse(t, filepath.ToSlash(name), string(text)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func parse(t *testing.T, name, text string) source {
	t.Helper()
	s := source{path: name, set: token.NewFileSet()}
	if path.Ext(name) == ".go" {
		var err error
		if s.file, err = parser.ParseFile(s.set, name, text, parser.SkipObjectResolution); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func isTest(file string) bool { return strings.HasSuffix(file, "_test.go") }

func isPeers(file string) bool {
	return file == "peers.go" || strings.HasPrefix(file, "peers_") && isTest(file)
}

func (s source) dir() string { return path.Dir(s.path) }

// at begins a finding: where it is.
func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d: ", s.path, s.set.Position(n.Pos()).Line)
}

// imports yields what a file imports; a go.mod imports nothing.
func (s source) imports() []*ast.ImportSpec {
	if s.file == nil {
		return nil
	}
	return s.file.Imports
}

func importPath(spec *ast.ImportSpec) string {
	p, _ := strconv.Unquote(spec.Path.Value) // the parser has looked at it
	return p
}

// ourDir says in which of our directories an imported package is.
func ourDir(p string) (dir string, ok bool) {
	if p == ours {
		return ".", true
	}
	return strings.CutPrefix(p, ours+"/")
}

func checkOurImports(all []source) (findings []string) {
	for _, s := range all {
		allowed, ok := mayImport[s.dir()]
		if !ok {
			allowed = []string{".", "cachetest"}
		}
		if isTest(s.path) {
			allowed = slices.Concat(allowed, []string{s.dir()})
			if s.dir() == "." {
				allowed = append(allowed, "cachetest")
			}
		}
		for _, spec := range s.imports() {
			if dir, ok := ourDir(importPath(spec)); ok && !slices.Contains(allowed, dir) {
				findings = append(findings, s.at(spec)+"imports "+dir+" of ours, which "+s.dir()+" must not")
			}
		}
	}
	return findings
}

func checkDependencies(all []source) (findings []string) {
	var modules []string // directories that are modules of their own, each with a slash at its end
	for _, s := range all {
		if s.file == nil && s.dir() != "." {
			modules = append(modules, s.dir()+"/")
		}
	}
	for _, s := range all {
		if slices.ContainsFunc(modules, func(m string) bool { return strings.HasPrefix(s.path, m) }) {
			continue
		}
		for _, spec := range s.imports() {
			p := importPath(spec)
			first, _, _ := strings.Cut(p, "/")
			if _, own := ourDir(p); own || !strings.Contains(first, ".") {
				continue
			}
			known := false
			for module, d := range dependencies {
				if p != module && !strings.HasPrefix(p, module+"/") {
					continue
				}
				known = true
				if d.only != nil && !d.only(s.path) {
					findings = append(findings, s.at(spec)+"imports "+p+", which it must not: "+d.why)
				}
			}
			if !known {
				findings = append(findings, s.at(spec)+"imports "+p+", which has no row in dependencies")
			}
		}
	}
	return findings
}

// checkRequirements compares the direct requirements in the text of a go.mod
// with the table.
func checkRequirements(text string) (findings []string) {
	var direct []string
	inBlock := false
	for line := range strings.Lines(text) {
		code, comment, _ := strings.Cut(line, "//")
		words := strings.Fields(code)
		switch {
		case len(words) == 0:
			continue
		case words[0] == ")":
			inBlock = false
			continue
		case words[0] == "require" && words[1] == "(":
			inBlock = true
			continue
		case words[0] == "require":
			words = words[1:]
		case !inBlock:
			continue
		}
		if strings.TrimSpace(comment) != "indirect" {
			direct = append(direct, words[0])
		}
	}
	for _, module := range direct {
		if _, ok := dependencies[module]; !ok {
			findings = append(findings, "go.mod requires "+module+", which has no row in dependencies")
		}
	}
	for module := range dependencies {
		if !slices.Contains(direct, module) {
			findings = append(findings, "dependencies has a row for "+module+", which go.mod does not require")
		}
	}
	slices.Sort(findings)
	return findings
}

func checkWithoutNet(all []source) (findings []string) {
	for _, s := range all {
		if !slices.Contains(withoutNet, s.path) {
			continue
		}
		for _, spec := range s.imports() {
			if p := importPath(spec); p == "net" || strings.HasPrefix(p, "net/") {
				findings = append(findings, s.at(spec)+"imports "+p)
			}
		}
	}
	return findings
}

func checkSleep(all []source) (findings []string) {
	for _, s := range all {
		bubbles := slices.ContainsFunc(s.imports(), func(spec *ast.ImportSpec) bool { return importPath(spec) == "testing/synctest" })
		if s.file == nil || !isTest(s.path) || bubbles {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && s.name(sel) == "time.Sleep" {
				findings = append(findings, s.at(sel)+"time.Sleep in a test file without bubbles")
			}
			return true
		})
	}
	return findings
}

// name returns what an identifier or a selector names, with its package's
// import path: "time.Sleep". It is "" for all else, fields and methods too.
func (s source) name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return path.Join(ours, s.dir()) + "." + e.Name
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		for _, spec := range s.imports() {
			p := importPath(spec)
			local := path.Base(p)
			if strings.TrimLeft(local, "v0123456789") == "" { // math/rand/v2 is rand
				local = path.Base(path.Dir(p))
			}
			if spec.Name != nil {
				local = spec.Name.Name
			}
			if ok && x.Name == local {
				return p + "." + e.Sel.Name
			}
		}
	}
	return ""
}

// A declaration is what a name of ours stands for: a type, or the function whose
// results these are.
type declaration struct {
	in  source
	typ ast.Expr
}

// A levelCheck follows the names of our types and functions, by import path.
type levelCheck struct {
	exempt   []string
	declared map[string]declaration
	followed map[string]bool // names on the way: types refer to themselves
}

// checkPackageLevel looks for variables that belong to a bubble; exempt are
// names as in bytePools.
func checkPackageLevel(all []source, exempt []string) (findings []string) {
	c := levelCheck{exempt, map[string]declaration{}, map[string]bool{}}
	for _, s := range all {
		if s.file == nil || isTest(s.path) {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Type.Results != nil {
					c.declared[s.name(d.Name)] = declaration{s, &ast.StructType{Fields: d.Type.Results}}
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if spec, ok := spec.(*ast.TypeSpec); ok {
						c.declared[s.name(spec.Name)] = declaration{s, spec.Type}
					}
				}
			}
		}
	}
	for _, s := range all {
		if s.file == nil || isTest(s.path) {
			continue
		}
		for _, d := range s.file.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				findings = append(findings, c.check(s, spec.(*ast.ValueSpec))...)
			}
		}
	}
	return findings
}

// check looks at one line of a var declaration.
func (c levelCheck) check(s source, spec *ast.ValueSpec) (findings []string) {
	var names []string
	for _, n := range spec.Names {
		names = append(names, n.Name)
	}
	if len(names) == 1 && (names[0] == "_" || slices.Contains(c.exempt, s.dir()+"/"+names[0])) {
		return nil
	}
	report := func(name string, e ast.Expr) bool {
		what := c.holds(s, e)
		if what != "" {
			findings = append(findings, s.at(spec)+name+" holds "+what)
		}
		return what != ""
	}
	if spec.Type != nil && report(strings.Join(names, ", "), spec.Type) {
		return findings
	}
	for i, v := range spec.Values {
		name := names[i]
		if len(spec.Values) < len(names) { // one call for all
			name = strings.Join(names, ", ")
		}
		report(name, v)
	}
	return findings
}

// holds says what of a bubble a value of type e holds, or the value of the
// expression e; "" is nothing. What hides in an interface, or comes from a
// method or another module's function, it does not see.
func (c levelCheck) holds(s source, e ast.Expr) string {
	switch e := e.(type) {
	case *ast.ChanType:
		return "a channel"
	case *ast.StarExpr:
		return c.holds(s, e.X)
	case *ast.ParenExpr:
		return c.holds(s, e.X)
	case *ast.UnaryExpr:
		return c.holds(s, e.X)
	case *ast.ArrayType:
		return c.holds(s, e.Elt)
	case *ast.MapType:
		return c.any(s, e.Key, e.Value)
	case *ast.KeyValueExpr:
		return c.holds(s, e.Value)
	case *ast.IndexExpr:
		return c.any(s, e.X, e.Index)
	case *ast.IndexListExpr:
		return c.any(s, append(e.Indices, e.X)...)
	case *ast.CompositeLit:
		return c.any(s, append([]ast.Expr{e.Type}, e.Elts...)...)
	case *ast.StructType:
		for _, f := range e.Fields.List {
			if what := c.holds(s, f.Type); what != "" {
				return what
			}
		}
	case *ast.CallExpr:
		return c.returns(s, e)
	case *ast.Ident, *ast.SelectorExpr:
		name := s.name(e)
		if slices.Contains(ofBubbles, name) {
			return "a " + name
		}
		if d, ok := c.declared[name]; ok && !c.followed[name] {
			c.followed[name] = true
			defer delete(c.followed, name)
			return c.holds(d.in, d.typ)
		}
	}
	return ""
}

func (c levelCheck) any(s source, all ...ast.Expr) string {
	for _, e := range all {
		if what := c.holds(s, e); what != "" {
			return what
		}
	}
	return ""
}

// returns is holds for what a call returns.
func (c levelCheck) returns(s source, call *ast.CallExpr) string {
	if f, ok := call.Fun.(*ast.FuncLit); ok {
		if f.Type.Results == nil {
			return ""
		}
		return c.holds(s, &ast.StructType{Fields: f.Type.Results})
	}
	if f, ok := call.Fun.(*ast.Ident); ok && (f.Name == "make" || f.Name == "new") {
		return c.holds(s, call.Args[0])
	}
	name := s.name(call.Fun)
	if strings.HasPrefix(name, "context.") && name != "context.Cause" || slices.Contains(makeThose, name) {
		return "what " + name + " returns"
	}
	return c.holds(s, call.Fun) // a conversion, or the results of a function of ours
}
