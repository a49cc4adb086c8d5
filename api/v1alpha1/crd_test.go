package v1alpha1_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// TestDefinitionHasAllFields: what the definition does not list the API server takes away from a VolumeClass without a word to most clients.
func TestDefinitionHasAllFields(t *testing.T) {
	text, err := os.ReadFile("../../manifests/base/crd-volumeclasses.yaml")
	require.NoError(t, err)
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema schema }
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &crd))
	require.Len(t, crd.Spec.Versions, 1)
	require.Equal(t, "v1alpha1", crd.Spec.Versions[0].Name)
	have := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].fields("spec")
	want := fieldsOf(reflect.TypeFor[v1alpha1.VolumeClassSpec](), "spec")
	slices.Sort(have)
	slices.Sort(want)
	require.Equal(t, want, have)
}

type schema struct{ Properties map[string]schema }

func (s schema) fields(path string) []string {
	all := []string{path}
	for name, below := range s.Properties {
		all = append(all, below.fields(path+"."+name)...)
	}
	return all
}

// fieldsOf are the paths of a type's fields; of the quantities of resources, cpu and memory are the keys that there are.
func fieldsOf(t reflect.Type, path string) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	all := []string{path}
	switch t.Kind() {
	case reflect.Struct:
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			all = append(all, fieldsOf(f.Type, path+"."+name)...)
		}
	case reflect.Map:
		all = append(all, path+".cpu", path+".memory")
	}
	return all
}
