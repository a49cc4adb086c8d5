// Command build makes Remora's image: the static programs (remora, and remora-init that runs it) for every
// architecture, and nothing else.
//
//	go run ./manifests/image/build -name remora:dev -arch amd64,arm64 -o bin/remora-image.tar
package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/remora-storage/remora/manifests/image"
)

func main() {
	name := flag.String("name", "remora:dev", "name and tag of the image; several with commas between")
	archs := flag.String("arch", "amd64,arm64", "architectures, as Go names them")
	out := flag.String("o", "bin/remora-image.tar", "the archive that is written")
	flag.Parse()
	if err := build(*name, strings.Split(*archs, ","), *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func build(name string, archs []string, out string) error {
	dir, err := os.MkdirTemp("", "remora-image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var i image.Image
	for _, arch := range archs {
		program, cluster, first := filepath.Join(dir, "remora-"+arch), filepath.Join(dir, "remora-cluster-"+arch), filepath.Join(dir, "remora-init-"+arch)
		for _, p := range []struct{ out, source string }{{program, "./cmd/remora"}, {cluster, "./cmd/remora-cluster"}, {first, "./cmd/remora-init"}} {
			if err := compile(p.out, p.source, arch); err != nil {
				return err
			}
		}
		i.Platforms = append(i.Platforms, image.Platform{
			Architecture: arch,
			Files: []image.File{
				{Path: "/bin/remora", Mode: 0o755, From: program},
				{Path: "/bin/remora-cluster", Mode: 0o755, From: cluster},
				{Path: "/bin/remora-init", Mode: 0o755, From: first},
				// Where an injected pod mounts its node's disk directories. The program cannot be called /remora because of it.
				{Path: "/remora/disks", Mode: fs.ModeDir | 0o755},
				{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
				{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/\nnobody:x:65534:65534:nobody:/:/\n")},
				{Path: "/etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnogroup:x:65534:\n")},
			},
			Entrypoint: []string{"/bin/remora-init", "/bin/remora"},
			User:       "65534:65534",
		})
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	var all []image.Image
	for n := range strings.SplitSeq(name, ",") {
		all = append(all, image.Image{Name: n, Platforms: i.Platforms})
	}
	return image.WriteFile(out, all...)
}

// compile builds the program as everybody would get it: no path of this machine, no version control, no build ID in it.
func compile(program, source, arch string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", program, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", arch, err, said)
	}
	return nil
}
