package e2e

import (
	"bufio"
	"fmt"
	"os"
)

// keepLedger goes on with the numbered lines of a file, and says each one after its fsync. It ends with an error when the volume goes away.
func keepLedger(args []string) error {
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		n++
	}
	for ; ; n++ {
		if _, err := fmt.Fprintf(f, "line %d\n", n); err != nil {
			return nil //nolint:nilerr // the volume is gone, as expected
		}
		if err := f.Sync(); err != nil {
			return nil //nolint:nilerr // the volume is gone, as expected
		}
		fmt.Printf("line %d\n", n)
	}
}
