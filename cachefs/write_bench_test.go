package cachefs

import (
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
)

// What an operation costs here, without the log and the store: go test ./cachefs -run '^$' -bench . -benchmem
func benchFS(b *testing.B) (*FS, meta.Ino) {
	b.Helper()
	keys, err := seal.New(make([]byte, seal.KeySize), "tenant")
	require.NoError(b, err)
	require.NoError(b, keys.Learn(1, make([]byte, seal.SaltSize)))
	log := &keptLog{}
	fs, err := Open(b.Context(), Config{Log: log, State: log, Keys: keys, Epoch: 1, Incarnation: 1, Session: 7, NewSession: true, Size: 1 << 40,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(b, err)
	b.Cleanup(fs.Close)
	a, err := fs.Create(&Caller{}, meta.Root, "file", Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(b, err)
	_, err = fs.Write(&Caller{}, a.Ino, 0, make([]byte, record.ChunkSize), false)
	require.NoError(b, err)
	return fs, a.Ino
}

// each has do done b.N times, and what was logged forgotten in between, as by an apply loop that is never behind.
func each(b *testing.B, fs *FS, do func(i int) error) {
	log := fs.cfg.Log.(*keptLog)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := do(i); err != nil {
			b.Fatal(err)
		}
		if len(log.kept) > 1000 {
			log.kept = log.kept[:0]
		}
	}
}

func BenchmarkWrite4KiB(b *testing.B) {
	fs, ino := benchFS(b)
	data := make([]byte, record.BlockSize)
	each(b, fs, func(i int) error {
		_, err := fs.Write(&Caller{}, ino, uint64(i%record.ChunkBlocks)*record.BlockSize, data, false)
		return err
	})
}

func BenchmarkAppend100Bytes(b *testing.B) {
	fs, ino := benchFS(b)
	data := make([]byte, 100)
	each(b, fs, func(i int) error {
		_, err := fs.Write(&Caller{}, ino, uint64(i%10000)*100, data, false)
		return err
	})
}

func BenchmarkWriteMiB(b *testing.B) {
	fs, ino := benchFS(b)
	data := make([]byte, record.ChunkSize)
	b.SetBytes(record.ChunkSize)
	each(b, fs, func(int) error {
		_, err := fs.Write(&Caller{}, ino, 0, data, false)
		fs.applied(fs.cfg.Log.(*keptLog).kept)
		fs.cfg.Log.(*keptLog).kept = nil
		return err
	})
}

func BenchmarkChmod(b *testing.B) {
	fs, ino := benchFS(b)
	each(b, fs, func(i int) error {
		mode := uint32(i % 0o777)
		_, err := fs.SetAttr(&Caller{}, ino, SetAttr{Mode: &mode})
		return err
	})
}
