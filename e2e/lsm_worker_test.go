package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
)

// lsm is a Pebble and a map that must hold the same.
type lsm struct {
	dir   string
	db    *pebble.DB
	model map[string][]byte
	rand  *rand.Rand
	count map[string]int // of steps, by name
}

// runLSM does so many random steps on a Pebble in a directory that it makes: batches, synced and not, deletions of ranges, flushes,
// compactions, snapshots, checkpoints by hard links, and reopening. Everything is compared at each reopening and at the end.
func runLSM(args []string) error {
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	steps, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	l := &lsm{dir: args[0], model: map[string][]byte{}, rand: rand.New(rand.NewPCG(seed, 0)), count: map[string]int{}}
	if err := l.open(); err != nil {
		return err
	}
	for n := range steps {
		if err := l.step(); err != nil {
			return errors.Join(fmt.Errorf("step %d: %w", n, err), l.db.Close())
		}
	}
	if err := l.reopen(); err != nil {
		return err
	}
	fmt.Printf("%d keys, steps %v, %d compactions\n", len(l.model), l.count, l.db.Metrics().Compact.Count)
	return l.db.Close()
}

// open with small tables, so that there are many files and compactions.
func (l *lsm) open() (err error) {
	l.db, err = pebble.Open(l.dir, &pebble.Options{
		MemTableSize: 256 << 10, L0CompactionThreshold: 2, LBaseMaxBytes: 1 << 20, MaxManifestFileSize: 16 << 10,
		TargetFileSizes: [7]int64{128 << 10}, Logger: quietLogger{}, CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
	})
	return err
}

func (l *lsm) step() error {
	steps := []struct {
		name string
		per  int // of 100
		do   func() error
	}{
		{"batch", 68, l.batch}, {"get", 15, l.get}, {"scan", 6, l.scan}, {"delete range", 3, l.deleteRange}, {"flush", 3, func() error { return l.db.Flush() }},
		{"compact", 1, func() error { return l.db.Compact(context.Background(), []byte("k"), []byte("l"), true) }}, {"checkpoint", 2, l.checkpoint}, {"reopen", 2, l.reopen},
	}
	n := l.rand.IntN(100)
	for _, s := range steps {
		if n -= s.per; n < 0 {
			l.count[s.name]++
			if err := s.do(); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			return nil
		}
	}
	return nil
}

func (l *lsm) key() string { return fmt.Sprintf("k%06d", l.rand.IntN(20_000)) }

func (l *lsm) batch() error {
	b := l.db.NewBatch()
	for range 1 + l.rand.IntN(200) {
		key := l.key()
		if l.rand.IntN(4) == 0 {
			delete(l.model, key)
			if err := b.Delete([]byte(key), nil); err != nil {
				return err
			}
			continue
		}
		value := make([]byte, l.rand.IntN(600))
		for i := 0; i+8 <= len(value); i += 8 {
			binary.LittleEndian.PutUint64(value[i:], l.rand.Uint64())
		}
		l.model[key] = value
		if err := b.Set([]byte(key), value, nil); err != nil {
			return err
		}
	}
	return b.Commit(&pebble.WriteOptions{Sync: l.rand.IntN(2) == 0})
}

func (l *lsm) get() error {
	key := l.key()
	want, there := l.model[key]
	got, closer, err := l.db.Get([]byte(key))
	if errors.Is(err, pebble.ErrNotFound) && !there {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	if !there || !bytes.Equal(got, want) {
		return errors.Join(fmt.Errorf("%s: %d bytes, want %d (there: %v)", key, len(got), len(want), there), closer.Close())
	}
	return closer.Close()
}

func (l *lsm) deleteRange() error {
	from, to := l.key(), l.key()
	if from > to {
		from, to = to, from
	}
	maps.DeleteFunc(l.model, func(key string, _ []byte) bool { return from <= key && key < to && to[:5] == from[:5] })
	if to[:5] != from[:5] {
		return nil
	}
	return l.db.DeleteRange([]byte(from), []byte(to), pebble.Sync)
}

func (l *lsm) scan() error { return same(l.db, l.model) }

// same compares everything.
func same(db *pebble.DB, model map[string][]byte) error {
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	keys := slices.Sorted(maps.Keys(model))
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n >= len(keys) || string(it.Key()) != keys[n] || !bytes.Equal(it.Value(), model[keys[n]]) {
			return errors.Join(fmt.Errorf("key %d is %q, of %d", n, it.Key(), len(keys)), it.Close())
		}
		n++
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	if n != len(keys) {
		return fmt.Errorf("%d keys, want %d", n, len(keys))
	}
	return nil
}

// checkpoint makes one, opens it, and removes it.
func (l *lsm) checkpoint() error {
	dir := l.dir + ".checkpoint"
	if err := l.db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return err
	}
	copied, err := pebble.Open(dir, &pebble.Options{Logger: quietLogger{}})
	if err != nil {
		return err
	}
	return errors.Join(same(copied, l.model), copied.Close(), os.RemoveAll(dir))
}

func (l *lsm) reopen() error {
	if err := l.db.Close(); err != nil {
		return err
	}
	if err := l.open(); err != nil {
		return err
	}
	return l.scan()
}

type quietLogger struct{}

func (quietLogger) Infof(string, ...any) {}

func (quietLogger) Errorf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (quietLogger) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
