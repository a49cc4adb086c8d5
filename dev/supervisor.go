package dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/remora-storage/remora/dev/process"
	"github.com/remora-storage/remora/sidecar/session/holder"
)

// supervisor is a running `remora dev`.
type supervisor struct {
	cfg      Config
	layout   layout
	lock     *os.File
	spawner  *process.Spawner
	console  *process.Console
	groups   [][]*pod        // by workload
	ordered  []bool          // of groups
	exe      string          // this binary's path
	stopping chan struct{}   // closed when Run begins to stop
	ctx      context.Context // of Run
	issuer   *issuer
	keepers  *keepers
	attend   chan struct{} // tend looks now
	failing  sync.Mutex    // held while a node fails or comes back, until its pods serve; above pod.life
	changing sync.Mutex    // held while the nodes change, and while tend looks: no keeper is started on a node that is just failing; below pod.life

	mu     sync.Mutex
	placed *placement
}

// Run runs the workloads until ctx is done, and returns nil if everything was stopped cleanly. It returns early when something
// that a retry does not cure is wrong, with all mounts gone.
func Run(ctx context.Context, cfg Config) (err error) {
	if err := cfg.validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var work sync.WaitGroup
	s.ctx = ctx
	if err := s.serveControl(ctx, &work); err != nil {
		return err
	}
	work.Go(func() { s.tend(ctx) })
	var failure error
	work.Go(func() {
		if err := s.bringUp(ctx); err != nil && ctx.Err() == nil {
			failure = err
			cancel()
		}
	})
	<-ctx.Done()
	s.cfg.Log.Info("stopping")
	close(s.stopping)
	s.removeReadyFile()
	stopErr := s.stopAll()
	s.keepers.close()
	work.Wait()
	return errors.Join(failure, stopErr)
}

// open takes DIR, clears what a killed supervisor left there, and places the pods.
func open(ctx context.Context, cfg Config) (*supervisor, error) {
	l, lock, err := openLayout(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &supervisor{cfg: cfg, layout: l, lock: lock, stopping: make(chan struct{}), attend: make(chan struct{}, 1)}
	s.keepers = newKeepers(s)
	s.exe, _ = os.Executable()
	if err := s.checkReadyFile(); err != nil {
		lock.Close()
		return nil, err
	}
	if _, err := holder.Sweep(string(l), cfg.Log); err != nil {
		cfg.Log.Error("cannot clear all stale mounts", "err", err)
	}
	if err = l.prepare(); err != nil {
		err = unusable(cfg.Dir, err)
	} else if s.issuer, err = newIssuer(l); err == nil {
		err = s.place(ctx)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

func (s *supervisor) place(ctx context.Context) error {
	placed, err := loadPlacement(s.layout.placement())
	if err != nil {
		return err
	}
	groups, err := expand(s.cfg.Workloads, s.cfg.Nodes, placed, s.cfg.Log)
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		return errors.New("nothing to run: no workload in the manifests has Remora volumes; " +
			"annotate its pod template with remora.dev/volumes: NAME and NAME.remora.dev/size: 1Gi")
	}
	if err := checkSizes(ctx, groups, s.layout); err != nil {
		return err
	}
	if err := placed.save(s.layout.placement()); err != nil {
		return unusable(s.cfg.Dir, err)
	}
	s.placed = placed
	s.spawner, s.console = process.NewSpawner(), process.NewConsole(s.cfg.Console)
	for _, g := range groups {
		var pods []*pod
		for _, spec := range g.pods {
			pods = append(pods, newPod(s, spec))
		}
		s.groups, s.ordered = append(s.groups, pods), append(s.ordered, g.ordered)
	}
	return s.forgetOwners(ctx)
}

func (s *supervisor) close() error {
	s.spawner.Close()
	s.console.Close()
	return s.lock.Close()
}

// pods returns all pods in the order of the manifests.
func (s *supervisor) pods() []*pod { return slices.Concat(s.groups...) }

// program returns what to start as sidecar: this binary by its path, or by /proc if another one has taken the path since. A
// restart must not change the version by accident.
func (s *supervisor) program() string {
	if s.cfg.Program != "" {
		return s.cfg.Program
	}
	const self = "/proc/self/exe"
	there, err := os.Stat(s.exe)
	own, errOwn := os.Stat(self)
	if err != nil || errOwn != nil || !os.SameFile(there, own) {
		return self
	}
	return s.exe
}

func (s *supervisor) otlp(pod string) string {
	if path, ok := strings.CutPrefix(s.cfg.OTLP, "file:"); ok {
		if abs, err := filepath.Abs(path); err == nil { // a sidecar has another working directory
			return "file:" + abs
		}
	}
	if s.cfg.OTLP != "" {
		return s.cfg.OTLP
	}
	return "file:" + s.layout.traces(pod)
}

// bringUp starts all workloads at once, each in its own order, and tells the user when all serve.
func (s *supervisor) bringUp(ctx context.Context) error {
	errs := make([]error, len(s.groups))
	var all sync.WaitGroup
	for n := range s.groups {
		all.Go(func() { errs[n] = s.bringUpGroup(ctx, n) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if s.cfg.ReadyFile != "" {
		if err := writeFile(s.cfg.ReadyFile, []byte("ready\n")); err != nil {
			return fmt.Errorf("--ready-file %s: %w", s.cfg.ReadyFile, err)
		}
	}
	fmt.Fprint(s.cfg.Out, s.welcome())
	return nil
}

func (s *supervisor) bringUpGroup(ctx context.Context, n int) error {
	for _, p := range s.groups[n] {
		if err := p.start(ctx); err != nil {
			return err
		}
		if s.ordered[n] {
			if err := p.waitReady(ctx); err != nil {
				return err
			}
			p.log.Info("ready", "node", p.wanted().node)
		}
	}
	for _, p := range s.groups[n] {
		if err := p.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// checkReadyFile removes a file of an earlier start, and finds out now, not when all is up, whether it can be written.
func (s *supervisor) checkReadyFile() error {
	if s.cfg.ReadyFile == "" {
		return nil
	}
	if st, err := os.Stat(filepath.Dir(s.cfg.ReadyFile)); err != nil || !st.IsDir() {
		return fmt.Errorf("--ready-file %s: its directory does not exist; make it, or choose another path", s.cfg.ReadyFile)
	}
	if err := os.Remove(s.cfg.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--ready-file %s: what is there cannot be replaced: %w", s.cfg.ReadyFile, err)
	}
	return nil
}

func (s *supervisor) removeReadyFile() {
	if s.cfg.ReadyFile == "" {
		return
	}
	if err := os.Remove(s.cfg.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.cfg.Log.Error("cannot remove the ready file", "err", err)
	}
}

// stopAll stops all pods, each step of stopping over all of them before the next.
func (s *supervisor) stopAll() error {
	instances := s.instances()
	each(instances, (*instance).unmount)
	var mu sync.Mutex
	var errs []error
	each(instances, func(i *instance) {
		err := i.end()
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	})
	return errors.Join(errs...)
}

// instances waits for starts and restarts that are under way (no new ones begin once ctx of Run is done) and returns all that run.
func (s *supervisor) instances() []*instance {
	var all []*instance
	for _, p := range s.pods() {
		if i := p.settled(); i != nil {
			all = append(all, i)
		}
	}
	return all
}

func each(instances []*instance, do func(*instance)) {
	var all sync.WaitGroup
	for _, i := range instances {
		all.Go(func() { do(i) })
	}
	all.Wait()
}

// restart restarts the pod of that title.
func (s *supervisor) restart(ctx context.Context, title string) error {
	if k := s.keepers.find(title); k != nil {
		_, err := k.renew(ctx, "")
		return err
	}
	p, err := s.pod(title)
	if err != nil {
		return err
	}
	return p.restart(ctx)
}

// pod finds the pod of that title.
func (s *supervisor) pod(title string) (*pod, error) {
	var known []string
	for _, p := range s.pods() {
		if p.title == title {
			return p, nil
		}
		known = append(known, p.title)
	}
	return nil, fmt.Errorf("%w %q; there are: %s", errUnknownPod, title, strings.Join(known, ", "))
}

var errUnknownPod = errors.New("unknown pod")

// reread finds the pod in the manifests as they are now; nil if they cannot change.
func (s *supervisor) reread(ctx context.Context, title string) (*podSpec, error) {
	if s.cfg.Reload == nil {
		return nil, nil
	}
	workloads, err := s.cfg.Reload()
	if err != nil {
		return nil, fmt.Errorf("pod %s is as it was, since the manifests cannot be used any more: %w", title, err)
	}
	placed, err := loadPlacement(s.layout.placement())
	if err != nil {
		return nil, err
	}
	groups, err := expand(workloads, s.cfg.Nodes, placed, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		for _, p := range g.pods {
			if p.title == title {
				return p, checkSizes(ctx, []group{{pods: []*podSpec{p}}}, s.layout)
			}
		}
	}
	return nil, fmt.Errorf("pod %s is not in the manifests any more: put it back, or stop remora dev and start it again", title)
}
