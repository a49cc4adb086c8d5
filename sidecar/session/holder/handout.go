package holder

import (
	"errors"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

// send gives the descriptor and what is stored to a sidecar, on a new connection if the present one is of no use.
func (m *Mount) send(u *net.UnixConn) (remade bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fd < 0 && !m.orphan {
		return false, ErrClosed
	}
	if m.orphan || m.lost || m.handed && m.state != Ready {
		if err := errors.Join(m.teardown(), m.mount()); err != nil {
			return true, err
		}
		remade = true
	}
	b, err := line(answer{Session: strconv.FormatUint(m.session, 16), State: m.state, Init: m.init, Reply: m.reply})
	if err != nil {
		return remade, err
	}
	m.handed = true
	_, _, err = u.WriteMsgUnix(b, unix.UnixRights(m.fd), nil)
	return remade, err
}

func (m *Mount) storeInit(init, reply []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == Ready {
		return errors.New("INIT was answered before; adopt the stored reply")
	}
	if len(init) == 0 || len(reply) == 0 {
		return errors.New("init and reply must not be empty")
	}
	m.init, m.reply, m.state = init, reply, Initialising
	return nil
}

func (m *Mount) setReady() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == Fresh {
		return errors.New("store INIT and the reply to it first")
	}
	m.state = Ready
	m.readAhead()
	return nil
}

func (m *Mount) setLost() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = true
}
