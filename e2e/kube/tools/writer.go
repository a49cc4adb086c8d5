package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// recordSize is the length of one record of the writer's log: a number, a checksum, and bytes made from the number.
const recordSize = 4096

// writer appends numbered records to DIR/log and syncs each, reads others back, and makes, renames and removes small files; it
// ends with an error at the first thing that is not as it was. When it starts, everything that an earlier writer said it had
// synced (DIR/synced) must be there. Once in a second it says how far it is and how long the longest call took.
func writer(args []string) error {
	flags := flag.NewFlagSet("writer", flag.ContinueOnError)
	records := flags.Uint64("records", 0, "end after so many records; 0: at SIGTERM")
	if len(args) == 0 {
		return errors.New("the folder is missing")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	w := work{dir: args[0], seed: uint64(time.Now().UnixNano())}
	if err := w.open(); err != nil {
		return err
	}
	fmt.Printf("resumed at %d, seed %d\n", w.next, w.seed)
	first, said := w.next, time.Now()
	for *records == 0 || w.next-first < *records {
		select {
		case <-stop:
			fmt.Printf("stopped at %d, longest %s\n", w.next, w.longest.Round(time.Millisecond))
			return w.log.Close()
		default:
		}
		if err := w.step(); err != nil {
			return err
		}
		if time.Since(said) > time.Second {
			fmt.Printf("at %d, longest %s\n", w.next, w.longest.Round(time.Millisecond))
			said = time.Now()
		}
	}
	fmt.Printf("done at %d, longest %s\n", w.next, w.longest.Round(time.Millisecond))
	return w.log.Close()
}

type work struct {
	dir     string
	seed    uint64
	random  *rand.Rand
	log     *os.File
	next    uint64
	longest time.Duration
}

// open checks what is there: records without a gap, at least as many as were said to be synced.
func (w *work) open() (err error) {
	w.random = rand.New(rand.NewPCG(w.seed, 0))
	if w.log, err = os.OpenFile(filepath.Join(w.dir, "log"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	for ; ; w.next++ {
		have := make([]byte, recordSize)
		if _, err := w.log.ReadAt(have, int64(w.next)*recordSize); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return err
		}
		if err := check(have, w.next); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(filepath.Join(w.dir, "synced"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var synced uint64
	if _, err := fmt.Sscan(string(text), &synced); err != nil {
		return fmt.Errorf("synced %q: %w", text, err)
	}
	if w.next < synced {
		return fmt.Errorf("lost: %d records are there, %d were synced", w.next, synced)
	}
	return nil
}

func (w *work) step() error {
	started := time.Now()
	defer func() { w.longest = max(w.longest, time.Since(started)) }()
	if _, err := w.log.WriteAt(record(w.next), int64(w.next)*recordSize); err != nil {
		return err
	}
	if err := w.log.Sync(); err != nil {
		return err
	}
	w.next++
	n := w.random.Uint64N(w.next)
	have := make([]byte, recordSize)
	if _, err := w.log.ReadAt(have, int64(n)*recordSize); err != nil {
		return fmt.Errorf("record %d: %w", n, err)
	}
	if err := check(have, n); err != nil {
		return err
	}
	// A file by its name: made, renamed over another, read.
	temporary, final := filepath.Join(w.dir, "synced.new"), filepath.Join(w.dir, "synced")
	text := []byte(fmt.Sprintln(w.next))
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(temporary, final); err != nil {
		return err
	}
	if have, err := os.ReadFile(final); err != nil || !bytes.Equal(have, text) {
		return fmt.Errorf("synced is %q, written was %q: %w", have, text, err)
	}
	return nil
}

func record(n uint64) []byte {
	b := make([]byte, recordSize)
	binary.LittleEndian.PutUint64(b, n)
	for i := 16; i < recordSize; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], n*31+uint64(i))
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.ChecksumIEEE(b[16:]))
	return b
}

func check(have []byte, n uint64) error {
	if !bytes.Equal(have, record(n)) {
		return fmt.Errorf("record %d is not what was written: starts with %x", n, have[:16])
	}
	return nil
}

// wait does nothing until it is told to end.
func wait([]string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	return nil
}
