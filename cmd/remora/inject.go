package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/remora-storage/remora/webhook"
)

func injectCommand() *cobra.Command {
	var (
		files []string
		mode  string
		cfg   webhook.Config
	)
	c := &cobra.Command{
		Use:   "inject -f FILE",
		Short: "Give annotated pods in manifests their sidecar",
		Long: `Inject reads manifests (YAML or JSON, any number of documents) and writes them to standard output, with the sidecar added to
every Pod, Deployment, StatefulSet, DaemonSet, Job and CronJob whose pod is annotated with remora.dev/volumes. Everything else
passes untouched, byte for byte. Injecting twice changes nothing. All problems are reported at once; then nothing is written.`,
		Example: "  remora inject -f db.yaml | kubectl apply -f -\n  kustomize build . | remora inject -f -",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := webhook.ParseMode(mode)
			if err != nil {
				return fmt.Errorf("--mode: %w", err)
			}
			if err := webhook.CheckRoot(cfg.Root); err != nil {
				return err
			}
			return inject(files, webhook.Options{Mode: m, Config: cfg}, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&files, "file", "f", nil, "manifest to read, or - for standard input; may be given several times")
	f.StringVar(&mode, "mode", string(webhook.Node), "how volumes are mounted: "+strings.Join(webhook.Modes(), ", "))
	f.StringVar(&cfg.Image, "image", webhook.DefaultImage, "image of the sidecar")
	f.StringVar(&cfg.Root, "root", webhook.DefaultRoot, "where the disk directories are on the nodes, in mode privileged; as the webhook's --root")
	f.StringVar(&cfg.OTLPEndpoint, "otlp-endpoint", "", "URL to which sidecars send traces (default: none are sent)")
	f.StringVar(&cfg.Revision, "revision", "", "name of the injector, as the webhook's --revision")
	return c
}

// inject writes the injected files to out, or every problem to report, one a line, and nothing to out.
func inject(names []string, o webhook.Options, in io.Reader, out, report io.Writer) error {
	if len(names) == 0 {
		return errNoManifest
	}
	files, unread := readManifests(names, in)
	result, err := webhook.Inject(files, o)
	var problems webhook.Errors
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	if n := len(unread) + len(problems); n > 0 {
		for _, err := range unread {
			fmt.Fprintln(report, err)
		}
		for _, err := range problems {
			fmt.Fprintln(report, err)
		}
		return fmt.Errorf("nothing was injected: %d %s", n, plural(n, "problem"))
	}
	_, err = out.Write(webhook.Join(result.Files))
	return err
}

var errNoManifest = errors.New("no manifest given; write -f FILE, or -f - for standard input")

// readManifests reads the named files, and returns what it could not read as well.
func readManifests(names []string, in io.Reader) (files []webhook.File, errs []error) {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			errs = append(errs, fmt.Errorf("%s: is given twice; fix: remove one -f %s", name, name))
			continue
		}
		f, err := readManifest(name, in)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w; allowed: a file that can be read, or - for standard input; fix: correct -f %s", name, err, name))
			continue
		}
		files = append(files, f)
	}
	return files, errs
}

func readManifest(name string, in io.Reader) (webhook.File, error) {
	f := webhook.File{Name: name}
	r := in
	if name == "-" {
		f.Name = "standard input"
	} else {
		file, err := os.Open(name)
		if err != nil {
			var pathErr *os.PathError
			if errors.As(err, &pathErr) {
				err = pathErr.Err
			}
			return f, err
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil && info.IsDir() {
			return f, errors.New("is a directory")
		}
		r = file
	}
	var b bytes.Buffer
	_, err := io.Copy(&b, io.LimitReader(r, webhook.MaxFile+1))
	f.Data = b.Bytes()
	return f, err
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
