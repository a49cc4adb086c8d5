package e2e

import (
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestUnanswered kills the sidecar at the one moment that counts: it has made a change, and is about to write the answer. The kernel
// sends the request again, and the next sidecar must give the first answer and change nothing. TestRequestsHappenOnce and TestStorm
// meet that moment by chance; here a tracer waits for it, for each kind of request.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	pid := i.served("db-0", 0)
	for n, c := range unansweredCalls() {
		t.Run(c.name, func(t *testing.T) {
			i := *i
			i.t = t
			dir := filepath.Join(i.mount("db-0"), strconv.Itoa(n))
			caller := i.worker("", "call", dir, strconv.Itoa(n)).dialog()
			caller.expect("prepared")
			tracer := i.worker("", "silence", strconv.Itoa(pid), strconv.Itoa(int(c.opcode))).dialog()
			tracer.expect("attached")
			tracer.tell("go on")
			said := len(servedAgain.FindAllString(i.out.String(), -1))
			caller.tell("call")
			tracer.ok(time.Minute)
			restarts := i.restarts(said + 1)
			pid = restarts[len(restarts)-1].pid
			err := caller.wait(time.Minute)
			require.NoError(t, err, caller.out.String())
		})
	}
}
