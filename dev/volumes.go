package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/status"
	"github.com/remora-storage/remora/webhook/spec"
)

// Dev plays the controller for volumes of several copies: it says in the Volume objects where replicas are wanted. Making them, and
// everything else, is the sidecars'.

func (s *supervisor) auth(namespace string) authority.Files {
	return authority.Files{Dir: s.layout.volumes(namespace)}
}

// objects reads all volumes of all namespaces. One that cannot be read is its sidecar's to report.
func (s *supervisor) objects(ctx context.Context) []v1alpha1.Volume {
	dirs, _ := filepath.Glob(s.layout.volumes("*"))
	var all []v1alpha1.Volume
	for _, dir := range dirs {
		list, _ := s.auth(filepath.Base(dir)).List(ctx)
		all = append(all, list...)
	}
	return all
}

// ensureVolumes makes the objects of a pod's volumes of several copies, before the pod starts, and has a replica of each where the pod
// runs. Volumes of one copy are their sidecars' own business, and so they stay.
func (s *supervisor) ensureVolumes(ctx context.Context, p *podSpec) error {
	if err := mkdir(s.layout.volumes(p.namespace), 0o700); err != nil {
		return err
	}
	for _, v := range p.spec.Volumes {
		name := p.object(v.Name)
		_, err := s.auth(p.namespace).Get(ctx, name)
		if errors.Is(err, authority.ErrNotFound) {
			if v.Replicas < 2 {
				continue
			}
			err = s.makeVolume(ctx, p, name, v)
		} else if err == nil {
			err = s.bringReplica(ctx, p, name)
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return nil
}

func (s *supervisor) makeVolume(ctx context.Context, p *podSpec, name string, v spec.Volume) error {
	nodes, err := s.choose(ctx, p.node, v.Voters())
	if err != nil {
		return err
	}
	o, err := authority.New(p.namespace, name)
	if err != nil {
		return err
	}
	o.Class, o.Size, o.Replicas, o.Nodes, o.OwnerNode = v.Class, v.Size, v.Replicas, nodes, p.node
	if v.Witness {
		o.Witness = nodes[len(nodes)-1]
	}
	_, err = s.auth(p.namespace).Update(ctx, o)
	return err
}

// choose returns the pod's node and those with the fewest replicas.
func (s *supervisor) choose(ctx context.Context, first string, n int) ([]string, error) {
	nodes := s.nodes()
	if len(nodes) < n {
		return nil, fmt.Errorf("%d copies (a witness counts like one) need %d nodes, and there are %d (%v): start remora dev with --nodes %d", n, n, len(nodes), nodes, n)
	}
	load := map[string]int{}
	for _, o := range s.objects(ctx) {
		for _, node := range o.Nodes {
			load[node]++
		}
	}
	at := max(slices.Index(nodes, first), 0)
	others := slices.DeleteFunc(slices.Concat(nodes[at:], nodes[:at]), func(node string) bool { return node == first })
	slices.SortStableFunc(others, func(a, b string) int { return load[a] - load[b] })
	return append([]string{first}, others[:n-1]...), nil
}

// bringReplica has a replica of an existing volume where its pod is about to run: in the place of one on a node that is gone, or of the
// last.
func (s *supervisor) bringReplica(ctx context.Context, p *podSpec, name string) error {
	nodes := s.nodes()
	_, err := authority.Modify(ctx, s.auth(p.namespace), name, func(o *v1alpha1.Volume) error {
		if !o.Several() || o.OwnerNode == p.node && slices.Contains(o.Nodes, p.node) {
			return authority.ErrUnchanged
		}
		o.OwnerNode = p.node
		if o.Witness == p.node {
			changePlaces(o, p.node, nodes)
			return nil
		}
		if slices.Contains(o.Nodes, p.node) {
			return nil
		}
		gives := len(o.Nodes) - 1
		if gives >= 0 && o.Nodes[gives] == o.Witness { // a copy is wanted here: it takes a copy's place
			gives--
		}
		if i := slices.IndexFunc(o.Nodes, func(n string) bool { return !slices.Contains(nodes, n) }); i >= 0 {
			gives = i
		}
		if gives < 0 {
			o.Nodes = []string{p.node}
			return nil
		}
		leave(o, o.Nodes[gives], false)
		if o.Nodes[gives] == o.Witness { // its node is gone; another copy's place is the witness' then
			changePlaces(o, p.node, nodes)
		}
		o.Nodes[gives] = p.node
		return nil
	})
	return err
}

// changePlaces has a copy on the node where the witness was: the pod runs there now. The witness goes where a copy was.
func changePlaces(o *v1alpha1.Volume, node string, nodes []string) {
	leave(o, o.Witness, false)
	others := slices.DeleteFunc(slices.Clone(o.Nodes), func(n string) bool { return n == o.Witness || n == node })
	if len(others) == 0 {
		return
	}
	to := others[len(others)-1]
	if i := slices.IndexFunc(others, func(n string) bool { return !slices.Contains(nodes, n) }); i >= 0 {
		to = others[i]
	}
	leave(o, to, false)
	o.Witness = to
}

// leave has the members on a node exchanged for others. lost says that their disk is gone.
func leave(o *v1alpha1.Volume, node string, lost bool) {
	o.Members = slices.DeleteFunc(o.Members, func(m v1alpha1.Member) bool { // one that does not count yet needs no exchange
		return m.Node == node && m.Role == v1alpha1.RoleLearner && o.Phase != v1alpha1.VolumePending
	})
	for i := range o.Members {
		if m := &o.Members[i]; m.Node == node {
			m.Lost = m.Lost || lost
			if m.Role == v1alpha1.RoleVoter {
				m.Role = v1alpha1.RoleLeaving
			}
		}
	}
}

// certify writes the certificate of a process at a place: it names all volumes that have a replica there, or shall.
func (s *supervisor) certify(ctx context.Context, title string, at place, pod string) error {
	list, _ := s.auth(at.namespace).List(ctx)
	return s.issuer.issue(title, at.namespace, pod, volumesAt(list, at))
}

func volumesAt(list []v1alpha1.Volume, at place) (names []string) {
	for _, o := range list {
		if o.Namespace == at.namespace && o.Several() && (slices.Contains(o.Nodes, at.node) || hasMember(&o, at.node)) {
			names = append(names, o.Name)
		}
	}
	return names
}

func hasMember(o *v1alpha1.Volume, node string) bool {
	return slices.ContainsFunc(o.Members, func(m v1alpha1.Member) bool { return m.Node == node && !m.Lost })
}

// tendEvery is how often dev looks whether certificates and keepers are what the Volume objects ask for.
const tendEvery = 250 * time.Millisecond

// tend keeps certificates and keepers as the Volume objects ask for, and replaces what is due, until ctx is done.
func (s *supervisor) tend(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		s.tendOnce(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-s.attend:
		}
	}
}

func (s *supervisor) tendOnce(ctx context.Context) {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.replaceDue(ctx)
	all := s.objects(ctx)
	s.certifyAll(all)
	nodes := s.nodes()
	places := map[place]bool{}
	for _, o := range all {
		if !o.Several() {
			continue
		}
		for _, node := range nodes {
			if slices.Contains(o.Nodes, node) || hasMember(&o, node) {
				places[place{node, o.Namespace}] = true
			}
		}
	}
	for _, at := range s.returnedPlaces() {
		places[at] = true
	}
	s.keepers.want(ctx, places)
}

// certifyAll renews the certificates of all processes that run.
func (s *supervisor) certifyAll(all []v1alpha1.Volume) {
	renew := func(title string, at place, pod string) {
		if err := s.issuer.issue(title, at.namespace, pod, volumesAt(all, at)); err != nil {
			s.cfg.Log.Error("cannot write a certificate", "pod", title, "err", err)
		}
	}
	for _, p := range s.pods() {
		if p.instance() != nil {
			want := p.wanted()
			renew(p.title, place{want.node, p.namespace}, p.name)
		}
	}
	for _, k := range s.keepers.list() {
		renew(k.title, k.at, k.name)
	}
}

// hosted asks all processes what they serve, and answers it by replica.
func (s *supervisor) hosted(ctx context.Context) map[string]status.Hosted {
	var titles []string
	for _, p := range s.pods() {
		titles = append(titles, p.title)
	}
	for _, k := range s.keepers.list() {
		titles = append(titles, k.title)
	}
	var mu sync.Mutex
	all := map[string]status.Hosted{}
	var asking sync.WaitGroup
	for _, title := range titles {
		asking.Go(func() {
			var b bytes.Buffer
			var pod status.Pod
			if s.ask(ctx, title, "/status", &b) != nil || json.Unmarshal(b.Bytes(), &pod) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, h := range pod.Hosted {
				all[h.ID] = h
			}
		})
	}
	asking.Wait()
	return all
}

// othersLimit bounds the wait for other voters before a keeper makes way.
const othersLimit = 10 * time.Second

// awaitOthers waits until the volumes that a process serves have no need of it: all their other voters are there and caught up. It gives
// up after a while: a volume that is waited for is one that somebody else must mend.
func (s *supervisor) awaitOthers(ctx context.Context, title string) {
	ctx, cancel := context.WithTimeout(ctx, othersLimit)
	defer cancel()
	for ctx.Err() == nil {
		waiting := ""
		hosted := s.hosted(ctx)
		for _, o := range s.objects(ctx) {
			if o.Phase != v1alpha1.VolumeReady || o.MajorityLost() || !slices.ContainsFunc(o.Members, func(m v1alpha1.Member) bool { return s.serves(title, &o, m) }) {
				continue
			}
			for _, m := range o.Members {
				if m.Votes() && !m.Lost && !s.serves(title, &o, m) && slices.Contains(s.nodes(), m.Node) && hosted[m.Replica].State != status.InSync {
					waiting = o.Name
				}
			}
		}
		if waiting == "" {
			return
		}
		select {
		case <-ctx.Done():
			s.cfg.Log.Warn("a keeper makes way although a volume has not all of its replicas in sync", "keeper", title, "volume", waiting)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *supervisor) serves(processTitle string, o *v1alpha1.Volume, m v1alpha1.Member) bool {
	return title(o.Namespace, m.Pod) == processTitle
}

// forgetOwners says in the objects of volumes whose pods are not run this time that no pod is about to run: whoever serves the node
// keeps their replicas.
func (s *supervisor) forgetOwners(ctx context.Context) error {
	run := map[string]bool{}
	for _, p := range s.pods() {
		for _, v := range p.spec.Volumes {
			run[p.namespace+"/"+p.object(v.Name)] = true
		}
	}
	var errs []error
	for _, o := range s.objects(ctx) {
		if !o.Several() || o.OwnerNode == "" || run[o.Namespace+"/"+o.Name] {
			continue
		}
		_, err := authority.Modify(ctx, s.auth(o.Namespace), o.Name, func(o *v1alpha1.Volume) error { o.OwnerNode = ""; return nil })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// returnedPlaces are places on nodes that came back: whoever has a disk there looks after it.
func (s *supervisor) returnedPlaces() (all []place) {
	s.mu.Lock()
	returned := slices.Clone(s.placed.Returned)
	s.mu.Unlock()
	for _, node := range returned {
		entries, _ := os.ReadDir(s.layout.node(node))
		for _, e := range entries {
			if at := (place{node, e.Name()}); e.IsDir() && s.layout.disksHere(at) {
				all = append(all, at)
			}
		}
	}
	return all
}
