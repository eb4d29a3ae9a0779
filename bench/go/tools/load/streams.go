package main

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// startWatch sends a watch and reads its first event.
func startWatch(c *client, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	head, err := c.readHead()
	if err != nil {
		return err
	}
	if head.status != http.StatusOK || !head.chunked {
		return fmt.Errorf("a watch was answered with %d", head.status)
	}
	if err := c.readEvent(); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// readEvent reads one event, however it is cut into chunks.
func (c *client) readEvent() error {
	for {
		size, err := c.chunkSize()
		if err != nil {
			return err
		}
		if size == 0 {
			return io.EOF
		}
		chunk := make([]byte, size+2)
		if _, err := io.ReadFull(c.in, chunk); err != nil {
			return err
		}
		if chunk[size-1] == '\n' {
			return nil
		}
	}
}

// watch opens -c watches, one after another, and keeps them. A latency is the
// time from the connection to the first event.
func watch(d *door) (result, error) {
	request := d.request("GET", d.url.RequestURI(), nil, "")
	begin()
	var latencies []time.Duration
	start := time.Now()
	kept := make([]*client, *clients)
	for i := range kept {
		began := time.Now()
		var err error
		if kept[i], err = d.open(i); err != nil {
			return result{}, err
		}
		if err := startWatch(kept[i], request); err != nil {
			return result{}, err
		}
		latencies = append(latencies, time.Since(began))
	}
	out := summarize(latencies, 0, time.Since(start))
	keep = kept
	return out, nil
}

// keep holds connections that have to stay open until the parent is done.
var keep []*client

// fanout opens -c watches and makes -n events. A latency is the time from the
// making of an event to when the last watch has it; the requests are the
// events that arrived.
func fanout(d *door) (result, error) {
	request := d.request("GET", d.url.RequestURI(), nil, "")
	all, err := openAll(d, *clients)
	if err != nil {
		return result{}, err
	}
	for _, c := range all {
		if err := startWatch(c, request); err != nil {
			return result{}, err
		}
	}
	var group sync.WaitGroup
	failed := make(chan error, len(all))
	arrived := make([]time.Time, len(all))
	for i, c := range all {
		go func() {
			for {
				if err := c.readEvent(); err != nil {
					failed <- err
					return
				}
				arrived[i] = time.Now()
				group.Done()
			}
		}()
	}
	// Events are made at the upstream itself, whose certificate is of no interest here.
	making := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	event := func() (time.Duration, error) {
		group.Add(len(all))
		began := time.Now()
		answer, err := making.Post(*trigger, "", nil)
		if err != nil {
			return 0, err
		}
		answer.Body.Close()
		done := make(chan struct{})
		go func() { group.Wait(); close(done) }()
		select {
		case <-done:
		case err := <-failed:
			return 0, err
		case <-time.After(patience):
			return 0, fmt.Errorf("an event did not reach all watches within %v", patience)
		}
		return slices.MaxFunc(arrived, time.Time.Compare).Sub(began), nil
	}
	if _, err := event(); err != nil {
		return result{}, err
	}
	begin()
	var latencies []time.Duration
	start, until := time.Now(), newLimit()
	for until.more() {
		took, err := event()
		if err != nil {
			return result{}, err
		}
		latencies = append(latencies, took)
		time.Sleep(*pause)
	}
	out := summarize(latencies, 0, time.Since(start))
	out.Requests *= len(all)
	return out, nil
}

const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n"

// keystroke is one key on channel 0, masked with zeros (RFC 6455 section 5.2).
var keystroke = []byte{0x82, 0x82, 0, 0, 0, 0, 0, 'k'}

// echo opens -c exec sessions and types -n keys in each, -pause after each echo.
func echo(d *door) (result, error) {
	request := d.request("GET", d.url.RequestURI(), nil, upgrade)
	all, err := openAll(d, *clients)
	if err != nil {
		return result{}, err
	}
	for _, c := range all {
		if _, err := c.Write(request); err != nil {
			return result{}, err
		}
		head, err := c.readHead()
		if err != nil {
			return result{}, err
		}
		if head.status != http.StatusSwitchingProtocols {
			return result{}, fmt.Errorf("a session was answered with %d", head.status)
		}
		if err := typeKey(c); err != nil {
			return result{}, err
		}
	}
	begin()
	latencies := make([][]time.Duration, len(all))
	start := time.Now()
	err = together(len(all), func(i int) error {
		time.Sleep(*pause * time.Duration(i) / time.Duration(len(all))) // people do not type in step
		for range *count {
			sent := time.Now()
			if err := typeKey(all[i]); err != nil {
				return err
			}
			latencies[i] = append(latencies[i], time.Since(sent))
			time.Sleep(*pause)
		}
		return nil
	})
	took := time.Since(start)
	return summarize(slices.Concat(latencies...), 0, took), err
}

// typeKey sends a key and waits for its echo on channel 1.
func typeKey(c *client) error {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(keystroke); err != nil {
		return err
	}
	for {
		var head [2]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return err
		}
		size := int(head[1] & 0x7f)
		if size == 126 {
			var wide [2]byte
			if _, err := io.ReadFull(c.in, wide[:]); err != nil {
				return err
			}
			size = int(binary.BigEndian.Uint16(wide[:]))
		}
		message := make([]byte, size)
		if _, err := io.ReadFull(c.in, message); err != nil {
			return err
		}
		if head[0]&0x0f == 8 || len(message) > 0 && message[0] == 3 {
			return fmt.Errorf("the session ended: %q", message)
		}
		if len(message) > 1 && message[0] == 1 {
			return nil
		}
	}
}
