package holder_test

import (
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestKilledSidecarsAreNotNoticed kills sidecars while programs look at the mount: every call waits for the next sidecar, and
// none fails. It fails if holdertest reads requests into memory that is not populated (see holdertest.buffer).
func TestKilledSidecarsAreNotNoticed(t *testing.T) {
	f := newFixture(t)
	p, _ := f.start("serve")
	var lookers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		lookers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if out, err := exec.Command("stat", f.mount.Target()).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
					return
				}
			}
		})
	}
	for range 200 {
		p.kill()
		var said string
		p, said = f.start("serve")
		require.Contains(t, said, "serving")
	}
	close(stop)
	f.within(func() error { lookers.Wait(); return nil })
	require.NoError(t, f.stat())
}
