// load drives an HTTP/1.1 server in one of several ways and says how long it
// took. It does so in step with its parent, which reads the server's CPU time
// and memory in between:
//
//	load prints "ready"          connections are open and warm
//	parent writes a line         the measurement begins
//	load prints a line of JSON   it is over; connections stay open
//	parent writes a line         load closes them and ends
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"time"
)

var (
	mode     = flag.String("mode", "get", "get, connect, post, watch, fanout, echo, burst or callers")
	rawURL   = flag.String("url", "", "`URL` of the requests")
	dial     = flag.String("dial", "", "`address` to connect to, if not the URL's")
	via      = flag.String("via", "", "`address` of an HTTP proxy that leads there")
	from     = flag.String("from", "", "`IP:PORT` of the first caller, for a PROXY header")
	ca       = flag.String("ca", "", "`file` of who vouches for the server")
	cert     = flag.String("cert", "", "client certificate `file`")
	key      = flag.String("key", "", "`file` of its key")
	name     = flag.String("name", "", "`name` that the server's certificate is for, if not the URL's")
	header   = flag.String("header", "", "a further header `line` for each request")
	trigger  = flag.String("trigger", "", "`URL` that makes an event, for fanout")
	size     = flag.Int("size", 0, "bytes of a request's body, for post")
	clients  = flag.Int("c", 1, "`connections`, watches or sessions")
	workers  = flag.Int("w", 16, "requests at a time, for callers")
	count    = flag.Int("n", 0, "requests, events or keystrokes of a session; 0: as many as fit in -d")
	duration = flag.Duration("d", 0, "how long to go on")
	rate     = flag.Float64("rate", 0, "requests per second of all connections together, for get and callers; 0: as many as can be")
	pause    = flag.Duration("pause", 0, "how long to think between keystrokes or events")
)

// result is what a measurement says.
type result struct {
	Requests int     `json:"requests"`
	Bytes    int64   `json:"bytes"`
	Seconds  float64 `json:"seconds"`
	P50      float64 `json:"p50_ms"`
	P90      float64 `json:"p90_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
}

// summarize makes a result of latencies.
func summarize(latencies []time.Duration, bytes int64, took time.Duration) result {
	out := result{Requests: len(latencies), Bytes: bytes, Seconds: took.Seconds()}
	if len(latencies) == 0 {
		return out
	}
	slices.Sort(latencies)
	at := func(part float64) float64 {
		return float64(latencies[int(part*float64(len(latencies)-1)+0.5)].Nanoseconds()) / 1e6
	}
	out.P50, out.P90, out.P99, out.Max = at(0.5), at(0.9), at(0.99), at(1)
	return out
}

// steps is the parent's side of the measurement.
var steps = bufio.NewReader(os.Stdin)

// begin says that all is ready and waits for the parent.
func begin() {
	fmt.Println("ready")
	wait()
}

func wait() {
	if _, err := steps.ReadString('\n'); err != nil {
		os.Exit(1) // the parent has gone
	}
}

func main() {
	log.SetFlags(0)
	flag.Parse()
	line := *header
	if line != "" {
		line += "\r\n"
	}
	d, err := newDoor(*rawURL, *dial, *via, *from, *ca, *cert, *key, *name, line)
	if err != nil {
		log.Fatal(err)
	}
	modes := map[string]func(*door) (result, error){
		"get": get, "connect": connect, "post": post, "watch": watch, "fanout": fanout,
		"echo": echo, "burst": burst, "callers": callers,
	}
	run, ok := modes[*mode]
	if !ok {
		log.Fatalf("no mode %q", *mode)
	}
	said, err := run(d)
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		log.Fatal(err)
	}
	wait()
}
