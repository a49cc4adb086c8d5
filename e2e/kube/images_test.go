//go:build kube

package kube

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/remora-storage/remora/manifests/image"
)

// The images of the tests. The last one has the machine's own PostgreSQL, so there is nothing to download.
const (
	toolsImage    = "remora.test/tools:1"
	postgresImage = "remora.test/postgres:1"
)

// buildImages writes an archive with the images of the tests.
func buildImages(ctx context.Context, root, archive string) error {
	tools := filepath.Join(filepath.Dir(archive), "e2e-tools")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", tools, "./e2e/kube/tools")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	base := []image.File{
		{Path: "/bin/tools", Mode: 0o755, From: tools},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "/run", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/tmp:/bin/sh\n")},
		{Path: "/etc/group", Mode: 0o644, Data: []byte("root:x:0:\napp:x:1000:\n")},
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	base = append(base, image.File{Path: "/bin/busybox", Mode: 0o755, From: busybox})
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return err
	}
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" {
			base = append(base, image.File{Path: "/bin/" + a, Mode: fs.ModeSymlink | 0o777, Link: "busybox"})
		}
	}
	sqlite, err := withLibraries(ctx, "/usr/bin/sqlite3")
	if err != nil {
		return err
	}
	postgres, err := postgresFiles(ctx)
	if err != nil {
		return err
	}
	one := func(name string, files ...image.File) image.Image {
		return image.Image{Name: name, Platforms: []image.Platform{{Architecture: runtime.GOARCH, Files: append(files, base...),
			Entrypoint: []string{"/bin/tools"}, Env: []string{"PATH=/bin:/usr/bin:/pg/bin"}}}}
	}
	return image.WriteFile(archive, one(toolsImage, sqlite...), one(postgresImage, append(sqlite, postgres...)...))
}

// withLibraries are programs of this machine and the shared libraries that they need, under the same paths.
func withLibraries(ctx context.Context, programs ...string) ([]image.File, error) {
	var files []image.File
	for _, p := range programs {
		files = append(files, image.File{Path: p, Mode: 0o755, From: p})
		out, err := exec.CommandContext(ctx, "ldd", p).Output()
		if err != nil {
			return nil, fmt.Errorf("ldd %s: %w", p, err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				files = append(files, image.File{Path: word, Mode: 0o755, From: word})
			}
		}
	}
	return files, nil
}

// postgresFiles are the newest PostgreSQL of this machine. Its server finds its files relative to its own path, and /pg/bin is on
// the image's PATH.
func postgresFiles(ctx context.Context) ([]image.File, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return nil, fmt.Errorf("no /usr/lib/postgresql/*/bin/initdb: run scripts/need cluster (%w)", err)
	}
	bin := filepath.Dir(found[len(found)-1])
	version := filepath.Base(filepath.Dir(bin))
	files, err := withLibraries(ctx, filepath.Join(bin, "postgres"), filepath.Join(bin, "initdb"), filepath.Join(bin, "psql"), filepath.Join(bin, "pgbench"))
	if err != nil {
		return nil, err
	}
	files = append(files, image.File{Path: "/pg/bin", Mode: fs.ModeSymlink | 0o777, Link: bin})
	for _, dir := range []string{filepath.Join("/usr/share/postgresql", version), filepath.Join("/usr/lib/postgresql", version, "lib"), "/usr/share/zoneinfo/Etc"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.Contains(path, "/man/") || strings.Contains(path, "/bitcode/") {
				return err
			}
			if path, err = filepath.EvalSymlinks(path); err != nil {
				return nil // points out of the package, at something that is not installed
			}
			files = append(files, image.File{Path: path, Mode: 0o644, From: path})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}
