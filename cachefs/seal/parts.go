package seal

import (
	"errors"
	"runtime"
	"sync"
)

// partBlocks is the least that is worth another goroutine: some 30 microseconds of work.
const partBlocks = 32

// InParts calls work for parts of n blocks, several at a time where there are processors for it.
func InParts(n int, work func(from, to int) error) error {
	parts := min(n/partBlocks, runtime.GOMAXPROCS(0), 4)
	if parts < 2 {
		return work(0, n)
	}
	errs := make([]error, parts)
	var wg sync.WaitGroup
	for p := 1; p < parts; p++ {
		wg.Go(func() { errs[p] = work(p*n/parts, (p+1)*n/parts) })
	}
	errs[0] = work(0, n/parts)
	wg.Wait()
	return errors.Join(errs...)
}
