package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// warmUp is how long three requests of each connection may take before the
// measurement; of what takes longer one is enough.
const warmUp = 300 * time.Millisecond

// together runs a job for each of so many numbers at once; the first error.
func together(number int, job func(int) error) error {
	errs := make([]error, number)
	var group sync.WaitGroup
	for i := range number {
		group.Go(func() { errs[i] = job(i) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// openAll opens so many connections, a few at a time.
func openAll(d *door, number int) ([]*client, error) {
	out := make([]*client, number)
	next := atomic.Int32{}
	err := together(min(number, 16), func(int) error {
		for i := int(next.Add(1)) - 1; i < number; i = int(next.Add(1)) - 1 {
			var err error
			if out[i], err = d.open(i); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// limit says when a loop of requests is over: after -n of them, or after -d.
type limit struct {
	end  time.Time
	left atomic.Int64
}

func newLimit() *limit {
	l := &limit{end: time.Now().Add(*duration)}
	l.left.Store(int64(*count))
	return l
}

func (l *limit) more() bool {
	if *count > 0 {
		return l.left.Add(-1) >= 0
	}
	return time.Now().Before(l.end)
}

// pace spreads the requests of one connection evenly, at its share of -rate.
type pace struct {
	next  time.Time
	every time.Duration
}

func newPace(number, of int) *pace {
	if *rate == 0 {
		return &pace{}
	}
	every := time.Duration(float64(of) / *rate * float64(time.Second))
	return &pace{time.Now().Add(every * time.Duration(number) / time.Duration(of)), every}
}

func (p *pace) wait() {
	if p.every == 0 {
		return
	}
	time.Sleep(time.Until(p.next))
	p.next = p.next.Add(p.every)
}

// loop sends one request again and again on each of the -c connections.
func loop(d *door, request []byte) (result, error) {
	all, err := openAll(d, *clients)
	if err != nil {
		return result{}, err
	}
	warm := func(i int) error {
		enough := time.Now().Add(warmUp)
		for range 3 {
			if _, err := all[i].do(request); err != nil || time.Now().After(enough) {
				return err
			}
		}
		return nil
	}
	if err := together(len(all), warm); err != nil {
		return result{}, err
	}
	begin()
	latencies := make([][]time.Duration, len(all))
	total := atomic.Int64{}
	start, until := time.Now(), newLimit()
	err = together(len(all), func(i int) error {
		pace := newPace(i, len(all))
		for until.more() {
			pace.wait()
			sent := time.Now()
			size, err := all[i].do(request)
			if err != nil {
				return err
			}
			total.Add(size)
			latencies[i] = append(latencies[i], time.Since(sent))
		}
		return nil
	})
	took := time.Since(start)
	return summarize(slices.Concat(latencies...), total.Load(), took), err
}

// get is a loop of GETs.
func get(d *door) (result, error) {
	return loop(d, d.request("GET", d.url.RequestURI(), nil, ""))
}

// post is a loop of POSTs, each of -size bytes; the bytes are those sent.
func post(d *door) (result, error) {
	out, err := loop(d, d.request("POST", d.url.RequestURI(), bytes.Repeat([]byte("x"), *size), ""))
	out.Bytes = int64(out.Requests) * int64(*size)
	return out, err
}

// once opens a connection, sends one GET and closes it.
func once(d *door, number int, request []byte) error {
	c, err := d.open(number)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.do(request)
	return err
}

// connect is a loop of connections with one GET each.
func connect(d *door) (result, error) {
	request := d.request("GET", d.url.RequestURI(), nil, "Connection: close\r\n")
	if err := once(d, 0, request); err != nil {
		return result{}, err
	}
	begin()
	var latencies []time.Duration
	start, until := time.Now(), newLimit()
	for until.more() {
		began := time.Now()
		if err := once(d, len(latencies)+1, request); err != nil {
			return result{}, err
		}
		latencies = append(latencies, time.Since(began))
	}
	return summarize(latencies, 0, time.Since(start)), nil
}

// burst opens -c connections at once, each with one GET, again and again; a
// latency is that of a whole burst, while the requests are all of them.
func burst(d *door) (result, error) {
	request := d.request("GET", d.url.RequestURI(), nil, "Connection: close\r\n")
	if err := once(d, 0, request); err != nil {
		return result{}, err
	}
	begin()
	var latencies []time.Duration
	start, until := time.Now(), newLimit()
	for until.more() {
		began := time.Now()
		if err := together(*clients, func(i int) error { return once(d, i, request) }); err != nil {
			return result{}, err
		}
		latencies = append(latencies, time.Since(began))
		time.Sleep(*pause)
	}
	out := summarize(latencies, 0, time.Since(start))
	out.Requests *= *clients
	return out, nil
}

// callers sends -n GETs, -w at a time, each as one of -c callers by chance;
// each caller has an address and a connection of its own.
func callers(d *door) (result, error) {
	request := d.request("GET", d.url.RequestURI(), nil, "")
	all := make([]*client, *clients)
	source := d.from
	for i := range all {
		var err error
		if all[i], err = d.openFrom(source); err != nil {
			return result{}, err
		}
		if source.IsValid() {
			source = netip.AddrPortFrom(source.Addr().Next(), source.Port())
		}
	}
	free := make(chan *client, len(all))
	for _, i := range rand.Perm(len(all)) {
		free <- all[i]
	}
	begin()
	latencies := make([][]time.Duration, *workers)
	start, until := time.Now(), newLimit()
	err := together(*workers, func(i int) error {
		pace := newPace(i, *workers)
		for until.more() {
			pace.wait()
			c := <-free
			sent := time.Now()
			if _, err := c.do(request); err != nil {
				return err
			}
			latencies[i] = append(latencies[i], time.Since(sent))
			free <- c
		}
		return nil
	})
	took := time.Since(start)
	return summarize(slices.Concat(latencies...), 0, took), err
}
