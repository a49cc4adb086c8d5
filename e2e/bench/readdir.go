package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

type listArgs struct {
	Dirs []string
	Stat bool // every entry, as find -size or ls -l do
}

// runList reads directories and answers names per second.
func runList(args listArgs) (sample, error) {
	names, start := 0, time.Now()
	for _, dir := range args.Dirs {
		n, err := listDir(dir, args.Stat)
		if err != nil {
			return nil, err
		}
		names += n
	}
	return sample{"names": float64(names) / time.Since(start).Seconds()}, nil
}

// fillDirs makes what readDirs reads: ten directories of 1,000 files, and one of 10,000, all empty.
func fillDirs(ctx context.Context, b *bench, s side) error {
	for _, args := range []fillArgs{{Dir: filepath.Join(s.dir, "ten"), Dirs: 10, Each: 1000}, {Dir: filepath.Join(s.dir, "one"), Dirs: 1, Each: 10_000}} {
		if err := b.worker(ctx, "fill", args, nil); err != nil {
			return err
		}
	}
	return nil
}

type fillArgs struct {
	Dir        string
	Dirs, Each int // so many files in each of so many directories
}

func (a fillArgs) dirs() []string {
	var dirs []string
	for d := range a.Dirs {
		dirs = append(dirs, filepath.Join(a.Dir, fmt.Sprintf("d%04d", d)))
	}
	return dirs
}

// fill answers files per second.
func fill(args fillArgs) (sample, error) {
	start := time.Now()
	for _, dir := range args.dirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		for f := range args.Each {
			if err := createFile(filepath.Join(dir, fmt.Sprintf("file-%05d", f)), nil, false); err != nil {
				return nil, err
			}
		}
	}
	return sample{"create": float64(args.Dirs*args.Each) / time.Since(start).Seconds()}, nil
}

// readDirs lists names that the kernel has forgotten, and lists and stats them.
func readDirs(ctx context.Context, b *bench, s side) (sample, error) {
	ten := fillArgs{Dir: filepath.Join(s.dir, "ten"), Dirs: 10}.dirs()
	one := fillArgs{Dir: filepath.Join(s.dir, "one"), Dirs: 1}.dirs()
	got := sample{}
	for _, step := range []struct {
		metric string
		args   listArgs
		hot    bool
	}{
		{"ten", listArgs{Dirs: ten}, false},
		{"one", listArgs{Dirs: one}, false},
		{"find", listArgs{Dirs: ten, Stat: true}, false},
		{"find_hot", listArgs{Dirs: ten, Stat: true}, true},
	} {
		if !step.hot {
			if err := b.forget(ctx); err != nil {
				return nil, err
			}
		}
		var answer sample
		if err := b.worker(ctx, "list", step.args, &answer); err != nil {
			return nil, err
		}
		got[step.metric] = answer["names"]
	}
	return got, nil
}

// million makes a million files and looks at the sidecar's memory. The files go at the end.
func million(ctx context.Context, b *bench, s side) (sample, error) {
	args := fillArgs{Dir: filepath.Join(s.dir, "million"), Dirs: 1000, Each: 1000}
	got := sample{}
	remember := func(metric string) error {
		if s.sidecars == nil {
			return nil
		}
		return b.resting(ctx, func() error {
			rss, anonymous, err := memory(ctx, s)
			got[metric+"_mib"], got[metric+"_anonymous_mib"] = float64(rss)/mib, float64(anonymous)/mib
			return err
		})
	}
	if err := b.longWorker(ctx, "fill", args, &got); err != nil {
		return nil, err
	}
	if err := remember("created"); err != nil {
		return nil, err
	}
	if err := b.forget(ctx); err != nil {
		return nil, err
	}
	var listed sample
	if err := b.longWorker(ctx, "list", listArgs{Dirs: args.dirs(), Stat: true}, &listed); err != nil {
		return nil, err
	}
	got["find"] = listed["names"]
	if err := remember("listed"); err != nil {
		return nil, err
	}
	if err := b.forget(ctx); err != nil {
		return nil, err
	}
	if err := remember("forgotten"); err != nil {
		return nil, err
	}
	_, err := b.run(ctx, 20*time.Minute, exec.Command("rm", "-rf", args.Dir))
	return got, err
}
