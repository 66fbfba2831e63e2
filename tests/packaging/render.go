// Renders the Helm chart in the directory given with the values on standard input, as `helm template` does: Go's own
// templates, sprig's functions, and those of Helm that the chart uses. Helm itself is in none of the registries that CI
// reaches. Standard output is one stream of YAML documents.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(chart string) error {
	values, err := values(chart)
	if err != nil {
		return err
	}
	meta := map[string]interface{}{}
	if err := read(filepath.Join(chart, "Chart.yaml"), &meta); err != nil {
		return err
	}
	// Helm gives the fields of Chart.yaml with a capital letter.
	fields := map[string]interface{}{"Name": meta["name"], "Version": meta["version"], "AppVersion": meta["appVersion"]}
	release := map[string]interface{}{"Name": "test", "Namespace": "ai", "Service": "Helm"}
	data := map[string]interface{}{"Values": values, "Chart": fields, "Release": release}
	templates, err := parse(filepath.Join(chart, "templates"))
	if err != nil {
		return err
	}
	for _, one := range templates.Templates() {
		if !strings.HasSuffix(one.Name(), ".yaml") {
			continue
		}
		var out bytes.Buffer
		if err := one.Execute(&out, data); err != nil {
			return err
		}
		fmt.Printf("---\n# Source: %s\n%s\n", one.Name(), out.String())
	}
	return nil
}

// The chart's own values with those of standard input over them.
func values(chart string) (map[string]interface{}, error) {
	values, over := map[string]interface{}{}, map[string]interface{}{}
	if err := read(filepath.Join(chart, "values.yaml"), &values); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(text, &over); err != nil {
		return nil, err
	}
	return merge(values, over), nil
}

func read(path string, into *map[string]interface{}) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return yaml.Unmarshal(text, into)
}

func merge(values, over map[string]interface{}) map[string]interface{} {
	for key, value := range over {
		inner, isMap := value.(map[string]interface{})
		under, wasMap := values[key].(map[string]interface{})
		if isMap && wasMap {
			values[key] = merge(under, inner)
		} else {
			values[key] = value
		}
	}
	return values
}

// Parses all files, with what Helm has beyond sprig.
func parse(dir string) (*template.Template, error) {
	root := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out strings.Builder
		err := root.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	functions["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, fmt.Errorf("%s", message)
		}
		return value, nil
	}
	root.Funcs(functions)
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if _, err := root.New(filepath.Base(path)).Parse(string(text)); err != nil {
			return nil, err
		}
	}
	return root, nil
}
