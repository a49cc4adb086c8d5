package main

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"
)

const mib = 1 << 20

type layArgs struct {
	File string
	Size int64
}

// lay writes a file of noise. A file that is there already with that size is left: rows share files.
func lay(args layArgs) error {
	if info, err := os.Stat(args.File); err == nil && info.Size() == args.Size {
		return nil
	}
	_, err := write(args)
	return err
}

// write makes a new file with 1 MiB writes of noise and an fsync, and answers the rate over both, in mib_s.
func write(args layArgs) (sample, error) {
	if err := os.Remove(args.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(args.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // synced below
	noise := make([]byte, 16*mib)    // made before the clock starts
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	start := time.Now()
	for done := int64(0); done < args.Size; {
		from := done % int64(len(noise))
		n, err := f.Write(noise[from : from+min(mib, args.Size-done)])
		if err != nil {
			return nil, err
		}
		done += int64(n)
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	return sample{"mib_s": float64(args.Size) / mib / time.Since(start).Seconds()}, nil
}
