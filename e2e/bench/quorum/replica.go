package quorum

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// ReplicaArgs of a replica.
type ReplicaArgs struct {
	Dir      string // its log
	PEM      string // file of the certificate
	LogBytes int64
}

// Replica serves one owner: it prints its address, appends what comes, and says which record is durable, until its standard input or
// the connection is closed. Last, it prints the CPU time that it spent.
func Replica(ctx context.Context, args ReplicaArgs, in io.Reader, out io.Writer) error {
	config, err := readCertificate(args.PEM)
	if err != nil {
		return err
	}
	log, err := openLog(args.Dir, args.LogBytes)
	if err != nil {
		return err
	}
	defer log.close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	if _, err := fmt.Fprintln(out, listener.Addr()); err != nil {
		return err
	}
	c, err := listener.Accept()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	before := ownCPU()
	err = serve(c, log)
	if ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, json.NewEncoder(out).Encode(ownCPU()-before))
}

// arrived is what was read and is not yet durable.
type arrived struct {
	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	bytes   []byte
	last    uint64
	ended   error
}

// serve reads in one goroutine, and syncs in another: what arrives during a sync shares the next.
func serve(c net.Conn, log *logFile) error {
	a := &arrived{}
	a.changed = sync.NewCond(&a.mu)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := a.read(bufio.NewReaderSize(c, 64<<10))
		a.mu.Lock()
		defer a.mu.Unlock()
		a.ended = err
		a.changed.Broadcast()
	})
	err := a.sync(c, log)
	_ = c.Close()
	wg.Wait()
	return err
}

func (a *arrived) read(r *bufio.Reader) error {
	var head [4]byte
	var record []byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		if n := int(binary.LittleEndian.Uint32(head[:])); cap(record) < n {
			record = make([]byte, n)
		} else {
			record = record[:n]
		}
		if _, err := io.ReadFull(r, record); err != nil {
			return err
		}
		a.mu.Lock()
		a.bytes, a.last = append(a.bytes, record...), binary.LittleEndian.Uint64(record)
		a.changed.Signal()
		a.mu.Unlock()
	}
}

func (a *arrived) sync(c net.Conn, log *logFile) error {
	var b []byte
	for {
		a.mu.Lock()
		for len(a.bytes) == 0 && a.ended == nil {
			a.changed.Wait()
		}
		b, a.bytes = a.bytes, b[:0]
		last, err := a.last, a.ended
		a.mu.Unlock()
		if err != nil {
			return err
		}
		if err := log.append(b); err != nil {
			return err
		}
		if _, err := c.Write(binary.LittleEndian.AppendUint64(nil, last)); err != nil {
			return err
		}
	}
}

// logFile is written full of zeros before, and then round and round: fdatasync then writes no metadata, as with the segments of Remora's
// journal.
type logFile struct {
	fd       int
	at, size int64
}

func openLog(dir string, size int64) (*logFile, error) {
	path := filepath.Join(dir, "quorum.log")
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	l := &logFile{fd: fd, size: size}
	zeros := make([]byte, min(size, 1<<20))
	for l.at+int64(len(zeros)) <= size {
		if err := l.write(zeros); err != nil {
			return nil, errors.Join(err, unix.Close(fd))
		}
	}
	if err := unix.Fsync(fd); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return l, nil
}

func (l *logFile) close() { _ = unix.Close(l.fd) }

func (l *logFile) append(b []byte) error {
	if err := l.write(b); err != nil {
		return err
	}
	return unix.Fdatasync(l.fd)
}

func (l *logFile) write(b []byte) error {
	for len(b) > 0 {
		if l.at == l.size {
			l.at = 0
		}
		n, err := unix.Pwrite(l.fd, b[:min(int64(len(b)), l.size-l.at)], l.at) // what a replica that was behind gets may be more than the log
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		l.at, b = l.at+int64(n), b[n:]
	}
	return nil
}
