package fsx

import (
	"encoding/gob"
	"errors"
	"maps"
	"os"
	"slices"
)

const pageSize = 4096

// content is what a file should hold: its size, and the pages in which something was written. All other bytes are zero. A page that is
// not there takes no space.
type content struct {
	Size  int64
	Pages map[int64][]byte // by number
}

func newContent() *content { return &content{Pages: map[int64][]byte{}} }

// each calls do for the part of every page that [off, end) touches; page is nil where none is there.
func (c *content) each(off, end int64, do func(number, from, to int64, page []byte)) {
	for off < end {
		number, from := off/pageSize, off%pageSize
		to := min(pageSize, from+end-off)
		do(number, from, to, c.Pages[number])
		off += to - from
	}
}

// read fills dst with what is at off, and returns how much there is before the end of the file.
func (c *content) read(off int64, dst []byte) int {
	dst = dst[:max(0, min(int64(len(dst)), c.Size-off))]
	clear(dst)
	c.each(off, off+int64(len(dst)), func(number, from, to int64, page []byte) {
		if page != nil {
			copy(dst[number*pageSize+from-off:], page[from:to])
		}
	})
	return len(dst)
}

func (c *content) write(off int64, data []byte) {
	c.each(off, off+int64(len(data)), func(number, from, to int64, page []byte) {
		if page == nil {
			page = make([]byte, pageSize)
			c.Pages[number] = page
		}
		copy(page[from:to], data[number*pageSize+from-off:])
	})
	if len(data) > 0 {
		c.Size = max(c.Size, off+int64(len(data)))
	}
}

// zero makes [off, end) zeros: whole pages go, of others a part is cleared.
func (c *content) zero(off, end int64) {
	if (end-off)/pageSize > int64(len(c.Pages)) { // of a sparse file
		for number := range c.Pages {
			if at := number * pageSize; at < end && at+pageSize > off {
				c.zeroPage(number, max(off, at)-at, min(end, at+pageSize)-at)
			}
		}
		return
	}
	c.each(off, end, func(number, from, to int64, _ []byte) { c.zeroPage(number, from, to) })
}

func (c *content) zeroPage(number, from, to int64) {
	if page := c.Pages[number]; page == nil || to-from == pageSize {
		delete(c.Pages, number)
	} else {
		clear(page[from:to])
	}
}

func (c *content) truncate(size int64) {
	if size < c.Size {
		c.zero(size, (c.Size+pageSize-1)/pageSize*pageSize)
		for number := range c.Pages { // a page of which only zeros were left
			if number*pageSize >= size {
				delete(c.Pages, number)
			}
		}
	}
	c.Size = size
}

// collapse removes [off, off+n), which are whole pages.
func (c *content) collapse(off, n int64) {
	c.zero(off, off+n)
	c.move(off+n, -n)
	c.Size -= n
}

// insert makes room of n bytes, whole pages, at off.
func (c *content) insert(off, n int64) {
	c.move(off, n)
	c.Size += n
}

// move moves the pages from off on by n bytes.
func (c *content) move(off, n int64) {
	moved := map[int64][]byte{}
	for number, page := range c.Pages {
		if number*pageSize >= off {
			delete(c.Pages, number)
			moved[number+n/pageSize] = page
		}
	}
	maps.Copy(c.Pages, moved)
}

// numbers of the pages that are there, in order.
func (c *content) numbers() []int64 { return slices.Sorted(maps.Keys(c.Pages)) }

// written is the number of pages that hold something else than zeros.
func (c *content) written() (n int64) {
	for _, page := range c.Pages {
		if !isZero(page) {
			n++
		}
	}
	return n
}

func isZero(b []byte) bool { return !slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) }

// save writes a model to a file that is not on the volume.
func save(file string, model any) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(gob.NewEncoder(f).Encode(model), f.Close())
}

// load reads what save wrote.
func load(file string, model any) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return errors.Join(gob.NewDecoder(f).Decode(model), f.Close())
}
