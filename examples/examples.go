// Package examples holds manifests to try Remora with. The StatefulSet is what `remora dev` runs when it is given none.
package examples

import _ "embed"

// StatefulSet is statefulset.yaml: a PostgreSQL database whose data is on a Remora volume.
//
//go:embed statefulset.yaml
var StatefulSet []byte
