package webhook

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the diff before you commit it")

// TestGolden injects testdata/CASE/in.yaml in every mode. The result is MODE.yaml, or the problems: errors.txt, which are those
// of all modes, or MODE.errors.txt. A golden file that no case makes fails.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/in.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, cases)
	for _, in := range cases {
		dir := filepath.Dir(in)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			data, err := os.ReadFile(in)
			require.NoError(t, err)
			check(t, dir, goldens(t, data))
		})
	}
}

func modes() []Mode { return []Mode{Node, Privileged, Dev} }

// goldens returns the files that a case has to have.
func goldens(t *testing.T, in []byte) map[string]string {
	files, problems := map[string]string{}, map[Mode]string{}
	for _, m := range modes() {
		o := Options{Mode: m}
		out, err := Inject([]File{{"in.yaml", in}}, o)
		if err != nil {
			var list Errors
			require.True(t, errors.As(err, &list))
			require.Empty(t, out)
			problems[m] = list.Error() + "\n"
			continue
		}
		text := string(out.Files[0].Data)
		files[string(m)+".yaml"] = text
		again, err := Inject(out.Files, o)
		require.NoError(t, err)
		require.Equal(t, text, string(again.Files[0].Data), "the second injection changed something")
		require.Equal(t, out.Workloads, again.Workloads)
	}
	if problems[Privileged] == problems[Dev] && problems[Node] == problems[Dev] && problems[Dev] != "" {
		files["errors.txt"] = problems[Dev]
		return files
	}
	for m, text := range problems {
		files[string(m)+".errors.txt"] = text
	}
	return files
}

func check(t *testing.T, dir string, want map[string]string) {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		if _, ok := want[e.Name()]; ok || e.Name() == "in.yaml" {
			continue
		}
		if *update {
			require.NoError(t, os.Remove(filepath.Join(dir, e.Name())))
			continue
		}
		require.Fail(t, "stale golden", "%s/%s: no longer made; run with -update", dir, e.Name())
	}
	for name, text := range want {
		path := filepath.Join(dir, name)
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
			continue
		}
		golden, err := os.ReadFile(path)
		require.NoError(t, err, "run with -update to make it")
		require.Equal(t, string(golden), text)
	}
}

// TestModesAreOneAnother says that a manifest injected in one mode and then in the other is as if the first had not been.
func TestModesAreOneAnother(t *testing.T) {
	for _, name := range []string{"statefulset", "deployment", "job", "volumeclass", "kinds", "list", "inline", "merge", "undo"} {
		data, err := os.ReadFile(filepath.Join("testdata", name, "in.yaml"))
		require.NoError(t, err)
		in := []File{{"in.yaml", data}}
		for _, pair := range [][2]Mode{{Dev, Privileged}, {Privileged, Dev}, {Node, Dev}, {Dev, Node}, {Node, Privileged}, {Privileged, Node}} {
			direct, err := Inject(in, Options{Mode: pair[1]})
			require.NoError(t, err)
			first, err := Inject(in, Options{Mode: pair[0]})
			require.NoError(t, err)
			second, err := Inject(first.Files, Options{Mode: pair[1]})
			require.NoError(t, err)
			require.Equal(t, string(direct.Files[0].Data), string(second.Files[0].Data), "%s: %s after %s", name, pair[1], pair[0])
		}
	}
}
