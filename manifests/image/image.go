// Package image writes container images without Docker: one tar in the layout of the OCI image specification, which containerd
// (`ctr -n k8s.io images import`), skopeo, crane and Docker 25 and newer read. Equal input makes equal bytes: entries are
// sorted, there is no time and no owner but root in them, and layers are not compressed, so no compressor's version shows.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// Image is one image for one or more architectures.
type Image struct {
	// Name with tag, as a pod names it.
	Name      string
	Platforms []Platform
}

// Platform is the image of one architecture of Linux.
type Platform struct {
	Architecture string // as Go names it
	Files        []File
	Entrypoint   []string
	User         string // "UID:GID"; empty means root
	Env          []string
}

// File is a file, a folder or a symbolic link of an image. Missing parents are made, mode 0755.
type File struct {
	Path string      // absolute
	Mode fs.FileMode // permission bits, and fs.ModeDir, fs.ModeSymlink, fs.ModeSticky
	From string      // its content is that of this file of the machine; or
	Data []byte      // this
	Link string      // where a symbolic link points
}

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// descriptor points at a blob; see the OCI image specification, "descriptor.md".
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// list is a manifest or an index; the fields of the other are left out.
type list struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config,omitempty"`
	Layers        []descriptor `json:"layers,omitempty"`
	Manifests     []descriptor `json:"manifests,omitempty"`
}

// Write writes images as one archive.
func Write(w io.Writer, images ...Image) error {
	blobs := blobs{}
	top := list{SchemaVersion: 2, MediaType: typeIndex}
	for _, i := range images {
		index := list{SchemaVersion: 2, MediaType: typeIndex}
		for _, p := range i.Platforms {
			d, err := blobs.platform(p)
			if err != nil {
				return fmt.Errorf("image %s for %s: %w", i.Name, p.Architecture, err)
			}
			index.Manifests = append(index.Manifests, d)
		}
		d := blobs.json(typeIndex, index)
		// containerd takes the name from the first, others from the second.
		d.Annotations = map[string]string{"io.containerd.image.name": Canonical(i.Name), "org.opencontainers.image.ref.name": i.Name}
		top.Manifests = append(top.Manifests, d)
	}
	files := []File{{Path: "/oci-layout", Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {Path: "/index.json", Mode: 0o644, Data: marshal(top)}}
	for digest, data := range blobs {
		files = append(files, File{Path: "/blobs/sha256/" + digest, Mode: 0o644, Data: data})
	}
	return archive(w, files)
}

// Canonical is a name as containerd keeps it and kubelet asks for it: "remora:dev" in a pod means "docker.io/library/remora:dev".
func Canonical(name string) string {
	host, _, found := strings.Cut(name, "/")
	switch {
	case !found:
		return "docker.io/library/" + name
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		return "docker.io/" + name
	}
	return name
}

// blobs are the contents of an archive by their sum.
type blobs map[string][]byte

func (b blobs) add(mediaType string, data []byte) descriptor {
	digest := fmt.Sprintf("%x", sha256.Sum256(data))
	b[digest] = data
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(data)}
}

func (b blobs) json(mediaType string, v any) descriptor { return b.add(mediaType, marshal(v)) }

func (b blobs) platform(p Platform) (descriptor, error) {
	var layer bytes.Buffer
	if err := archive(&layer, p.Files); err != nil {
		return descriptor{}, err
	}
	content := b.add(typeLayer, layer.Bytes())
	config := b.json(typeConfig, map[string]any{
		"architecture": p.Architecture, "os": "linux",
		"config": map[string]any{"Entrypoint": p.Entrypoint, "Env": p.Env, "User": p.User, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{content.Digest}},
	})
	manifest := b.json(typeManifest, list{SchemaVersion: 2, MediaType: typeManifest, Config: &config, Layers: []descriptor{content}})
	manifest.Platform = &platform{Architecture: p.Architecture, OS: "linux"}
	return manifest, nil
}

func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // only of types of this file
	}
	return text
}

// archive writes files and their parents, sorted.
func archive(w io.Writer, files []File) error {
	all := map[string]File{}
	for _, f := range files {
		name := path.Clean(f.Path)
		if !path.IsAbs(name) {
			return fmt.Errorf("path %q is not absolute", f.Path)
		}
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = File{Path: dir, Mode: fs.ModeDir | 0o755}
			}
		}
		all[name] = f
	}
	t := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := entry(t, strings.TrimPrefix(name, "/"), all[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return t.Close()
}

func entry(t *tar.Writer, name string, f File) error {
	h := &tar.Header{Name: name, Mode: int64(f.Mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatPAX, Typeflag: tar.TypeReg}
	if f.Mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	switch data := f.Data; {
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return t.WriteHeader(h)
	case f.Mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		return t.WriteHeader(h)
	default:
		if f.From != "" {
			var err error
			if data, err = os.ReadFile(f.From); err != nil {
				return err
			}
		}
		h.Size = int64(len(data))
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err := t.Write(data)
		return err
	}
}

// WriteFile is Write into a file, which is replaced at the end and never seen half-written.
func WriteFile(name string, images ...Image) error {
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	if err := Write(f, images...); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
