package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func example(t *testing.T, reverse bool) Image {
	program := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(program, []byte("a program"), 0o700))
	require.NoError(t, os.Chtimes(program, time.Now(), time.Now().Add(-time.Duration(os.Getpid())*time.Second)))
	files := []File{
		{Path: "/remora", Mode: 0o755, From: program},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "/bin/sh", Mode: fs.ModeSymlink | 0o777, Link: "busybox"},
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0::/:\n")},
	}
	if reverse {
		files[0], files[3] = files[3], files[0]
	}
	one := Platform{Architecture: "amd64", Files: files, Entrypoint: []string{"/remora"}, User: "65534:65534"}
	two := one
	two.Architecture = "arm64"
	return Image{Name: "example.test/remora:1", Platforms: []Platform{one, two}}
}

// TestReproducible: neither order, nor times, nor modes of the machine's files show.
func TestReproducible(t *testing.T) {
	var a, b bytes.Buffer
	require.NoError(t, Write(&a, example(t, false)))
	require.NoError(t, Write(&b, example(t, true)))
	require.Equal(t, sha256.Sum256(a.Bytes()), sha256.Sum256(b.Bytes()))
}

// TestLayout: every descriptor from index.json down names a blob of its size and sum, and the layer has what was put in.
func TestLayout(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, Write(&out, example(t, false)))
	files := untar(t, out.Bytes())
	require.JSONEq(t, `{"imageLayoutVersion":"1.0.0"}`, string(files["oci-layout"]))
	blob := func(d descriptor) []byte {
		data, ok := files["blobs/sha256/"+d.Digest[len("sha256:"):]]
		require.True(t, ok, d.Digest)
		require.Len(t, data, d.Size)
		require.Equal(t, d.Digest, fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
		return data
	}
	var top, index, manifest list
	require.NoError(t, json.Unmarshal(files["index.json"], &top))
	require.Len(t, top.Manifests, 1)
	require.Equal(t, "example.test/remora:1", top.Manifests[0].Annotations["io.containerd.image.name"])
	require.NoError(t, json.Unmarshal(blob(top.Manifests[0]), &index))
	require.Len(t, index.Manifests, 2)
	require.Equal(t, &platform{Architecture: "arm64", OS: "linux"}, index.Manifests[1].Platform)
	require.NoError(t, json.Unmarshal(blob(index.Manifests[1]), &manifest))
	require.Contains(t, string(blob(*manifest.Config)), `"architecture":"arm64"`)
	layer := untar(t, blob(manifest.Layers[0]))
	require.Equal(t, "a program", string(layer["remora"]))
	require.Contains(t, layer, "etc/")
	require.Equal(t, "busybox", string(layer["bin/sh"]))
}

func TestCanonical(t *testing.T) {
	for name, want := range map[string]string{
		"remora:dev":                  "docker.io/library/remora:dev",
		"remora-storage/remora:0.1.0": "docker.io/remora-storage/remora:0.1.0",
		"remora.test/tools:1":         "remora.test/tools:1",
		"localhost:5000/remora":       "localhost:5000/remora",
		"localhost/remora:1":          "localhost/remora:1",
	} {
		require.Equal(t, want, Canonical(name))
	}
}

func TestRefusesRelativePaths(t *testing.T) {
	err := Write(io.Discard, Image{Name: "x", Platforms: []Platform{{Architecture: "amd64", Files: []File{{Path: "remora"}}}}})
	require.ErrorContains(t, err, `path "remora" is not absolute`)
}

// untar returns files by name; of a symbolic link, where it points.
func untar(t *testing.T, data []byte) map[string][]byte {
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		require.Zero(t, h.Uid+h.Gid)
		require.Equal(t, int64(0), h.ModTime.Unix())
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		if h.Typeflag == tar.TypeSymlink {
			content = []byte(h.Linkname)
		}
		files[h.Name] = content
	}
}
