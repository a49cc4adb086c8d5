package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestGit clones, changes, packs and checks a repository on the mount, as root and as an unprivileged user.
func TestGit(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs Git: apt-get install git")
	}
	i := startOne(t)
	for _, account := range []string{"", "nobody"} {
		dir := filepath.Join(i.mount("db-0"), "of-"+account)
		i.program("", nil, "mkdir", "-m", "0755", dir).run(time.Minute)
		aside := tempDir(t)
		if account != "" {
			uid, gid := idsOf(t, account)
			i.program("", nil, "chown", account, dir).run(time.Minute)
			require.NoError(t, os.Chown(aside, int(uid), int(gid)))
		}
		useGit(t, i, account, aside, dir)
	}
}

func useGit(t *testing.T, i *instance, account, aside, dir string) {
	t.Helper()
	start := func(dir string, args ...string) *child {
		t.Helper()
		args = append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "gc.autoDetach=false"}, args...)
		return i.program(account, []string{"HOME=" + aside, "GIT_CONFIG_NOSYSTEM=1"}, "git", args...).start()
	}
	git := func(dir string, args ...string) string {
		t.Helper()
		return start(dir, args...).ok(2 * time.Minute)
	}
	source, clone := filepath.Join(aside, "source"), filepath.Join(dir, "clone")
	git(aside, "init", "-q", "source")
	for commit := range 3 {
		script := fmt.Sprintf(`cd '%s' && for n in $(seq 100); do mkdir -p d$((n %% 10)) && seq $((n * %d)) >d$((n %% 10))/f$n.%d; done`, source, commit+7, commit)
		i.program(account, nil, "sh", "-c", script).run(time.Minute)
		git(source, "add", ".")
		git(source, "commit", "-q", "-m", fmt.Sprint("commit ", commit))
	}
	cloning := start(dir, "clone", "-q", "--no-hardlinks", source, "clone")
	i.killSidecar("db-0")
	cloning.ok(2 * time.Minute)
	git(clone, "fsck", "--full", "--strict")
	require.Equal(t, git(source, "rev-parse", "HEAD"), git(clone, "rev-parse", "HEAD"))
	require.Empty(t, git(clone, "status", "--porcelain"))

	git(clone, "mv", "d1", "moved")
	git(clone, "rm", "-q", "-r", "d2")
	git(clone, "commit", "-q", "-m", "move")
	collecting := start(clone, "gc", "-q", "--prune=now")
	i.killSidecar("db-0")
	collecting.ok(2 * time.Minute)
	git(clone, "fsck", "--full", "--strict")
	require.Equal(t, "4\n", git(clone, "rev-list", "--count", "HEAD"))
	git(clone, "checkout", "-q", "HEAD~1")
	require.Empty(t, git(clone, "status", "--porcelain"))
	git(dir, "diff", "--no-index", "--quiet", filepath.Join(source, "d1"), filepath.Join(clone, "d1"))
}
