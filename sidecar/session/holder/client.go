package holder

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// answerTimeout bounds the wait for an answer of the holder, which needs microseconds.
const answerTimeout = 10 * time.Second

// Client is a sidecar's hold on one mount. Its exported fields are set by Attach and never change; StoreInit, Ready, Lost and Offer are not
// safe for concurrent use with each other.
type Client struct {
	FD        int    // of /dev/fuse, blocking, close-on-exec; belongs to the Client: Close closes it
	SessionID uint64 // of this mount; `unique` restarts when it changes
	State     State  // Fresh: read INIT from FD; Ready: adopt Init and Reply
	Init      []byte // what the kernel sent; nil when Fresh
	Reply     []byte // what it was answered; nil when Fresh

	volume              string
	sentInit, sentReply []byte // of StoreInit
	close               sync.Once

	mu   sync.Mutex
	link *link // to the holder; another one after Offer
}

// link is one connection to the holder.
type link struct {
	conn    *net.UnixConn
	answers chan answer
	done    chan struct{} // closed when the holder is gone
}

func newLink(conn *net.UnixConn) *link {
	l := &link{conn: conn, answers: make(chan answer), done: make(chan struct{})}
	go l.read()
	return l
}

// Attach asks the holder that listens at path for the mount of volume. ctx bounds Attach alone.
func Attach(ctx context.Context, path, volume string) (*Client, error) {
	conn, err := Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	c, err := attach(conn, volume)
	if err == nil && !stop() {
		unix.Close(c.FD)
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("attach %s: %w", volume, err)
	}
	c.volume, c.link = volume, newLink(conn)
	return c, nil
}

// Offer tells the holder that listens at path, one that was started anew, that this process serves the mount, and gives it the descriptor.
// An error that is a *RefusedError is final: the mount is not ours any more.
func (c *Client) Offer(ctx context.Context, path string) error {
	init, reply := c.Init, c.Reply
	if c.sentInit != nil {
		init, reply = c.sentInit, c.sentReply
	}
	conn, err := Dial(ctx, path)
	if err != nil {
		return err
	}
	b, err := line(request{Op: "offer", Volume: c.volume, Session: strconv.FormatUint(c.SessionID, 16), Init: init, Reply: reply})
	if err == nil {
		_, _, err = conn.WriteMsgUnix(b, unix.UnixRights(c.FD), nil)
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("offer %s: %w", c.volume, err)
	}
	l := newLink(conn)
	if err := l.answer("offer"); err != nil {
		conn.Close()
		return fmt.Errorf("offer %s: %w", c.volume, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link.conn.Close()
	c.link = l
	return nil
}

func attach(conn *net.UnixConn, volume string) (*Client, error) {
	b, err := line(request{Op: "attach", Volume: volume})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(b); err != nil {
		return nil, err
	}
	a, fd, err := readAttached(conn)
	if err != nil {
		return nil, err
	}
	session, err := strconv.ParseUint(a.Session, 16, 64)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("session: %w", err)
	}
	return &Client{
		FD: fd, SessionID: session, State: a.State, Init: a.Init, Reply: a.Reply,
	}, nil
}

// readAttached reads the answer to attach. The holder sends nothing more until it is asked, so nothing is read beyond it.
func readAttached(conn *net.UnixConn) (a answer, fd int, err error) {
	fd = -1
	var text []byte
	buf, oob := make([]byte, maxLine), make([]byte, unix.CmsgSpace(4))
	for !bytes.HasSuffix(text, []byte("\n")) && len(text) < maxLine && err == nil {
		var n, oobn int
		n, oobn, _, _, err = conn.ReadMsgUnix(buf, oob)
		text = append(text, buf[:n]...)
		if oobn > 0 {
			fd, err = parseRights(oob[:oobn])
		}
	}
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err == nil {
		err = a.err()
	}
	if err == nil && fd < 0 {
		err = errors.New("the holder sent no descriptor")
	}
	if err != nil && fd >= 0 {
		unix.Close(fd)
	}
	return a, fd, err
}

func parseRights(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("the holder sent no descriptor")
}

// read passes answers on until the holder closes the connection.
func (l *link) read() {
	defer close(l.done)
	lines := bufio.NewScanner(l.conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return
		}
		select {
		case l.answers <- a:
		case <-time.After(answerTimeout): // nobody asked: a broken holder
			return
		}
	}
}

// StoreInit hands INIT and the reply to it to the holder. The reply must not be written to the kernel before StoreInit has
// returned nil.
func (c *Client) StoreInit(init, reply []byte) error {
	c.sentInit, c.sentReply = bytes.Clone(init), bytes.Clone(reply)
	return c.call(request{Op: "init", Init: init, Reply: reply})
}

// Ready says that the kernel has the reply to INIT, and that this process serves from now on. On a Fresh mount it must come
// before the next request is read.
func (c *Client) Ready() error { return c.call(request{Op: "ready"}) }

// Lost says that nobody can serve the connection any more: a read of FD gave ENODEV though nobody stopped this process, or the kernel
// cannot send requests again. Attach again, after Close, to get a new mount; programs see the old one's end.
func (c *Client) Lost() error { return c.call(request{Op: "lost"}) }

func (c *Client) call(r request) error {
	b, err := line(r)
	if err != nil {
		return err
	}
	l := c.current()
	if _, err := l.conn.Write(b); err != nil {
		return fmt.Errorf("holder: %s: %w", r.Op, err)
	}
	return l.answer(r.Op)
}

// answer waits for the answer to a line that was sent.
func (l *link) answer(op string) error {
	select {
	case a := <-l.answers:
		return a.err()
	case <-l.done:
		return fmt.Errorf("holder: %s: it closed the connection", op)
	case <-time.After(answerTimeout):
		return fmt.Errorf("holder: %s: no answer within %v", op, answerTimeout)
	}
}

func (c *Client) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// Done is closed when the holder is gone (or after Close). The sidecar must then stop serving and exit, or bring the descriptor to the
// holder's successor with Offer, after which Done is another channel.
func (c *Client) Done() <-chan struct{} { return c.current().done }

// Close leaves the mount to a successor. No thread may still be reading from FD.
func (c *Client) Close() error {
	var err error
	c.close.Do(func() { err = errors.Join(c.current().conn.Close(), unix.Close(c.FD)) })
	return err
}
