// upstream answers like a Kubernetes API server that costs nothing, so that a
// proxy in front of it is what is measured. It speaks HTTP/1.1 and HTTP/2,
// as the client offers (ALPN).
//
//	GET …?watch=true        one event, then one for each POST /-/event
//	GET …/exec, upgraded    a WebSocket that echoes input as output
//	GET …?bytes=N           N bytes, in writes of 32 KiB
//	POST /-/event           an event to all watches; when it was begun
//	POST …                  reads the body away
//	GET …                   a small object
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// smallSize is the size of the small object, with its final newline.
const smallSize = 1200

var (
	small = object(smallSize)
	event = append([]byte(`{"type":"MODIFIED","object":`+strings.TrimSpace(string(object(600)))+"}"), '\n')
	chunk = bytes.Repeat([]byte("0123456789abcdef"), 2048)

	mu      sync.Mutex
	watches = map[chan struct{}]bool{}
)

// object is a ConfigMap of exactly size bytes.
func object(size int) []byte {
	const head = `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"small","namespace":"default",` +
		`"uid":"6e1c7a52-90c4-4a33-8d39-5b0e6c0f7d21","resourceVersion":"4242",` +
		`"creationTimestamp":"2026-01-01T00:00:00Z"},"data":{"text":"`
	const tail = `"}}` + "\n"
	return []byte(head + strings.Repeat("x", size-len(head)-len(tail)) + tail)
}

func handle(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Audit-Id", "3c9d2f5e-7a41-4c0b-9d57-3b8f0f6f1e2a")
	header.Set("Cache-Control", "no-cache, private")
	header.Set("Content-Type", "application/json")
	header.Set("X-Kubernetes-Pf-Flowschema-Uid", "0a4f5c1e-1f0e-4b7d-8a55-97b8ce0e4f11")
	header.Set("X-Kubernetes-Pf-Prioritylevel-Uid", "7b5a0f52-6f0d-4c55-9a3b-5a4df0c4a7d9")
	query := r.URL.Query()
	switch {
	case r.URL.Path == "/-/event":
		announce()
	case strings.HasSuffix(r.URL.Path, "accessreviews"):
		review(w, r)
	case r.Header.Get("Upgrade") != "":
		echo(w, r)
	case query.Get("watch") != "":
		watch(w, r)
	case query.Get("bytes") != "":
		stream(w, query.Get("bytes"))
	default:
		io.Copy(io.Discard, r.Body)
		header.Set("Content-Length", strconv.Itoa(len(small)))
		w.Write(small)
	}
}

// review says yes to an access review of whatever kind.
func review(w http.ResponseWriter, r *http.Request) {
	asked := map[string]any{}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	asked["status"] = map[string]any{"allowed": true}
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(asked)
}

// announce sends an event to all watches.
func announce() {
	mu.Lock()
	defer mu.Unlock()
	for each := range watches {
		select {
		case each <- struct{}{}:
		default:
		}
	}
}

func watch(w http.ResponseWriter, r *http.Request) {
	mine := make(chan struct{}, 16)
	mu.Lock()
	watches[mine] = true
	mu.Unlock()
	defer func() {
		mu.Lock()
		delete(watches, mine)
		mu.Unlock()
	}()
	control := http.NewResponseController(w)
	for {
		if _, err := w.Write(event); err != nil {
			return
		}
		if err := control.Flush(); err != nil {
			return
		}
		select {
		case <-mine:
		case <-r.Context().Done():
			return
		}
	}
}

func stream(w http.ResponseWriter, size string) {
	left, err := strconv.Atoi(size)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for left > 0 {
		part := chunk[:min(left, len(chunk))]
		if _, err := w.Write(part); err != nil {
			return
		}
		left -= len(part)
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:6443", "`address` to listen on")
	certificate := flag.String("cert", "", "certificate `file`")
	key := flag.String("key", "", "`file` of its key")
	flag.Parse()
	server := &http.Server{
		Addr:     *listen,
		Handler:  http.HandlerFunc(handle),
		ErrorLog: log.New(io.Discard, "", 0), // clients that go away are no news
	}
	fmt.Println("listening on", *listen)
	log.Fatal(server.ListenAndServeTLS(*certificate, *key))
}
