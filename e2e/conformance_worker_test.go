package e2e

import (
	"errors"
	"flag"
	"fmt"

	"github.com/remora-storage/remora/e2e/conformance"
)

// conform takes DIR and the flags of the suite, and prints what was found.
func conform(args []string) error {
	o := conformance.Options{Dir: args[0], FileSystem: conformance.FSRemora}
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	flags.BoolVar(&o.Slow, "slow", false, "")
	flags.BoolVar(&o.Small, "small", false, "")
	flags.StringVar(&o.Only, "only", "", "")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	rep, err := conformance.Run(o)
	for _, f := range rep.Failures {
		fmt.Println(f)
	}
	fmt.Printf("%d expectations, %d explained, %d failed\n", rep.Expectations, rep.Explained, len(rep.Failures))
	all := o.Only == "" && !o.Small
	return errors.Join(err, check(len(rep.Failures) == 0, "expectations were not met"),
		check(!all || rep.Expectations > 19_000, "too few expectations"))
}
