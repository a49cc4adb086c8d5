package v1alpha1

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
)

// TestVolumeObjectCarriesEveryField fails when Volume gets a field that Kubernetes would lose.
func TestVolumeObjectCarriesEveryField(t *testing.T) {
	var v Volume
	fill(t, reflect.ValueOf(&v).Elem())
	var o VolumeObject
	o.Name, o.Namespace, o.UID = v.Name, v.Namespace, types.UID(v.UID)
	o.Set(v)
	require.Equal(t, v, o.Volume())
}

// fill gives every field a value of its own.
func fill(t *testing.T, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString(v.Type().Field(i).Name)
		case reflect.Int64, reflect.Int:
			f.SetInt(int64(i + 1))
		case reflect.Uint64, reflect.Uint32:
			f.SetUint(uint64(i + 1))
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			if f.Type().Elem().Kind() == reflect.Struct {
				fill(t, f.Index(0))
			} else {
				f.Index(0).SetString(v.Type().Field(i).Name)
			}
		case reflect.Struct:
			fill(t, f)
		default:
			t.Fatalf("field %s is of kind %v: teach fill about it", v.Type().Field(i).Name, f.Kind())
		}
	}
}
