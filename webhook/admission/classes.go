package admission

import (
	"context"
	"errors"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/webhook"
	"github.com/remora-storage/remora/webhook/spec"
)

// classes are the VolumeClasses of the cluster. They are read as they were written, not as a type: an unknown field is a problem.
type classes struct {
	cached, live client.Reader

	mu     sync.Mutex
	parsed map[types.UID]parsedClass // what was read of a version of an object
}

type parsedClass struct {
	version  string
	class    spec.Class
	problems []spec.Problem
}

func newClass() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(v1alpha1.APIVersion)
	u.SetKind(v1alpha1.KindVolumeClass)
	return u
}

// all returns the good classes, and the problems of the others by name.
func (c *classes) all(ctx context.Context) (spec.Classes, map[string][]spec.Problem, error) {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion(v1alpha1.APIVersion)
	list.SetKind(v1alpha1.KindVolumeClass + "List")
	if err := c.cached.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, err
	}
	good, bad := spec.Classes{}, map[string][]spec.Problem{}
	for i := range list.Items {
		class, problems := c.read(&list.Items[i])
		if len(problems) > 0 {
			bad[class.Name] = problems
			continue
		}
		good[class.Name] = class
	}
	return good, bad, nil
}

// read parses an object once a version.
func (c *classes) read(u *unstructured.Unstructured) (spec.Class, []spec.Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.parsed[u.GetUID()]; ok && p.version == u.GetResourceVersion() {
		return p.class, p.problems
	}
	data, err := u.MarshalJSON()
	if err != nil {
		return spec.Class{Name: u.GetName()}, []spec.Problem{{Key: "manifest", What: err.Error()}}
	}
	p := parsedClass{version: u.GetResourceVersion()}
	p.class, p.problems = webhook.ParseClass(data)
	p.class.Name = u.GetName()
	if c.parsed == nil {
		c.parsed = map[types.UID]parsedClass{}
	}
	c.parsed[u.GetUID()] = p
	return p.class, p.problems
}

// inject runs webhook.Inject with the cluster's classes. A class that is not known may have been applied together with the pod
// that names it, so it is looked up once more; one that cannot be used says why.
func (c *classes) inject(ctx context.Context, raw []byte, o webhook.Options) ([]byte, webhook.Result, []spec.Problem, error) {
	good, bad, err := c.all(ctx)
	if err != nil {
		return nil, webhook.Result{}, nil, err
	}
	o.Classes = good
	for again := true; ; again = false {
		result, err := webhook.Inject([]webhook.File{{Name: "object", Data: raw}}, o)
		if err == nil {
			return result.Files[0].Data, result, nil, nil
		}
		problems := problemsOf(err)
		if again {
			found, err := c.unknown(ctx, problems, good, bad)
			if err != nil {
				return nil, webhook.Result{}, nil, err
			}
			if found {
				continue
			}
		}
		return raw, webhook.Result{}, explain(problems, bad), nil
	}
}

// unknown asks the API server itself for the classes that the problems call unknown, and says whether it found any.
func (c *classes) unknown(ctx context.Context, problems []spec.Problem, good spec.Classes, bad map[string][]spec.Problem) (found bool, err error) {
	for _, p := range problems {
		_, isGood := good[p.Value]
		if _, isBad := bad[p.Value]; !strings.HasSuffix(p.Key, "/"+spec.AttrClass) || isGood || isBad || p.Value == "" {
			continue
		}
		u := newClass()
		if err := c.live.Get(ctx, client.ObjectKey{Name: p.Value}, u); apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
			continue
		} else if err != nil {
			return false, err
		}
		found = true
		if class, problems := c.read(u); len(problems) > 0 {
			bad[p.Value] = problems
		} else {
			good[p.Value] = class
		}
	}
	return found, nil
}

// explain adds what is wrong with the classes that the problems call unknown although they are there.
func explain(problems []spec.Problem, bad map[string][]spec.Problem) []spec.Problem {
	var all []spec.Problem
	for _, p := range problems {
		why := bad[p.Value]
		if !strings.HasSuffix(p.Key, "/"+spec.AttrClass) || len(why) == 0 {
			p.Fix = strings.Replace(p.Fix, "or add its VolumeClass to the input", "or ask the administrator for it", 1)
			all = append(all, p)
			continue
		}
		p.What, p.Fix = "is a class that cannot be used: VolumeClass/"+p.Value+": "+why[0].String(), "ask the administrator to correct the VolumeClass"
		all = append(all, p)
	}
	return all
}

func problemsOf(err error) []spec.Problem {
	var list webhook.Errors
	if !errors.As(err, &list) {
		return []spec.Problem{{Key: "object", What: err.Error()}}
	}
	problems := make([]spec.Problem, len(list))
	for i, e := range list {
		problems[i] = e.Problem
	}
	return problems
}
