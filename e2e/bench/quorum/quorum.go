// Package quorum is the least that replication costs here: three processes append the same records to files that are fdatasync'ed,
// over mutual TLS 1.3, and a record counts when two of the three logs have it, the owner's being one. (Two replicas in memory would
// make a majority that waits for no disk at all: a figure of nothing.) No file system, no Raft, no seals, no checksums, no
// recovery: only what no design of three synchronous copies can leave out. `make bench BENCH='-only replication'` compares a volume
// with it.
//
// The owner (Run) keeps one log itself and starts the two others as processes (Replica). Whatever arrives during one fdatasync shares
// the next, at each of the three, and sending does not wait for the owner's own.
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
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Args of one measurement.
type Args struct {
	Dir      string        // the owner's log, and the certificate's file
	Peers    [2]string     // directories of the other two logs
	LogBytes int64         // of each log, which is written round and round
	Alone    bool          // the own log only: what the other two cost is the difference
	Depth    int           // records under way
	Size     int           // bytes of a record
	For      time.Duration // how long
}

// Result of one measurement.
type Result struct {
	Records    int
	PerSecond  float64
	P50, P99   time.Duration // from the hand-over of a record until two logs had it, the own being one
	OwnerCPU   time.Duration // of all records
	ReplicaCPU time.Duration // of all records, both replicas
}

// header of a record on the wire, and of an answer: its number.
const header = 8

// owner is the process that records come from.
type owner struct {
	log   *logFile
	alone bool

	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	next    uint64    // number of the next record; they count from 1
	own     []byte    // for the own log, not yet taken
	out     [2][]byte // for each replica, not yet taken
	has     [3]uint64 // the last record that is durable in each log
	ended   error
}

// Run starts two replicas, keeps Depth records under way, and answers what it measured. command makes the command of a replica, which
// runs Replica with these arguments; its standard input and output are the package's.
func Run(ctx context.Context, args Args, command func(ReplicaArgs) *exec.Cmd) (result Result, err error) {
	pem := filepath.Join(args.Dir, "quorum.pem")
	config, err := makeCertificate(pem)
	if err != nil {
		return result, err
	}
	o := &owner{next: 1, alone: args.Alone}
	o.changed = sync.NewCond(&o.mu)
	if o.log, err = openLog(args.Dir, args.LogBytes); err != nil {
		return result, err
	}
	defer o.log.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	replicas := [2]*replicaProcess{}
	defer func() {
		for _, r := range replicas {
			if r != nil {
				err = errors.Join(err, r.close(&result))
			}
		}
		cancel()
		o.end(context.Canceled)
		wg.Wait()
	}()
	for i := range replicas {
		if args.Alone {
			break
		}
		if replicas[i], err = startReplica(ctx, command(ReplicaArgs{args.Peers[i], pem, args.LogBytes}), config); err != nil {
			return result, err
		}
		wg.Go(func() { o.end(o.send(i, replicas[i].conn)) })
		wg.Go(func() { o.end(o.hear(i, replicas[i].conn)) })
	}
	wg.Go(func() { o.end(o.sync()) })
	return result, o.measure(args, &result)
}

// measure keeps records under way for the time, and fills the result.
func (o *owner) measure(args Args, result *Result) error {
	var wg sync.WaitGroup
	took := make([][]time.Duration, args.Depth)
	errs := make([]error, args.Depth)
	cpu := ownCPU()
	start := time.Now()
	for i := range args.Depth {
		wg.Go(func() {
			body := make([]byte, args.Size)
			for errs[i] == nil && time.Since(start) < args.For {
				began := time.Now()
				errs[i] = o.append(body)
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	result.Records = len(all)
	result.PerSecond = float64(len(all)) / elapsed.Seconds()
	result.P50, result.P99 = all[len(all)/2], all[len(all)*99/100]
	result.OwnerCPU = ownCPU() - cpu
	return errors.Join(errs...)
}

// append hands a record over and waits until two logs have it.
func (o *owner) append(body []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.next
	o.next++
	record := binary.LittleEndian.AppendUint64(make([]byte, 0, header+len(body)), n)
	record = append(record, body...)
	o.own = append(o.own, record...)
	for i := range o.out {
		if o.alone {
			break
		}
		o.out[i] = append(binary.LittleEndian.AppendUint32(o.out[i], uint32(len(record))), record...)
	}
	o.changed.Broadcast()
	for o.ended == nil && o.second() < n {
		o.changed.Wait()
	}
	return o.ended
}

// second is the last record that two of the three logs have, the own being one.
func (o *owner) second() uint64 {
	if o.alone {
		return o.has[0]
	}
	return min(o.has[0], max(o.has[1], o.has[2]))
}

func (o *owner) end(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended == nil && err != nil {
		o.ended = err
	}
	o.changed.Broadcast()
}

// take waits for something in a buffer and takes it.
func (o *owner) take(b *[]byte, empty []byte) (full []byte, last uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(*b) == 0 && o.ended == nil {
		o.changed.Wait()
	}
	full, *b = *b, empty[:0]
	return full, o.next - 1, o.ended
}

// sync appends to the own log.
func (o *owner) sync() error {
	var b []byte
	for {
		var last uint64
		var err error
		if b, last, err = o.take(&o.own, b); err != nil {
			return err
		}
		if err := o.log.append(b); err != nil {
			return err
		}
		o.durable(0, last)
	}
}

func (o *owner) durable(log int, last uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.has[log] = last
	o.changed.Broadcast()
}

// send sends to a replica, and hear hears what it has.
func (o *owner) send(replica int, c net.Conn) error {
	var b []byte
	for {
		var err error
		if b, _, err = o.take(&o.out[replica], b); err != nil {
			return err
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

func (o *owner) hear(replica int, c net.Conn) error {
	var b [header]byte
	for {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return fmt.Errorf("replica %d: %w", replica, err)
		}
		o.durable(replica+1, binary.LittleEndian.Uint64(b[:]))
	}
}

// replicaProcess is a replica, seen from the owner.
type replicaProcess struct {
	cmd  *exec.Cmd
	in   io.Closer // it ends when this is closed
	out  *bufio.Reader
	conn net.Conn
}

func startReplica(ctx context.Context, cmd *exec.Cmd, config *tls.Config) (*replicaProcess, error) {
	r := &replicaProcess{cmd: cmd}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	r.in, r.out = in, bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	addr, err := r.out.ReadString('\n')
	if err == nil {
		dialer := tls.Dialer{Config: config}
		r.conn, err = dialer.DialContext(ctx, "tcp", strings.TrimSpace(addr))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("replica: %w", err), r.close(nil))
	}
	return r, nil
}

// close ends the process, and adds what it spent.
func (r *replicaProcess) close(result *Result) error {
	_ = r.in.Close() // the replica closes the connection, and ends
	if r.conn != nil {
		defer r.conn.Close()
	}
	kill := time.AfterFunc(10*time.Second, func() { _ = r.cmd.Process.Kill() })
	defer kill.Stop()
	var cpu time.Duration
	err := json.NewDecoder(r.out).Decode(&cpu)
	if result != nil {
		result.ReplicaCPU += cpu
	}
	return errors.Join(err, r.cmd.Wait())
}

func ownCPU() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // it does not fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
