// stdproxy is the reverse proxy of Go's standard library, set up as well as it
// allows for one API server: TLS and HTTP/1.1 to clients (upgrades need that),
// HTTP/2 to the API server, connections kept, bodies passed on at once. It
// takes away what clients say about who they are and impersonates one user.
// It asks nobody who calls, logs nothing and counts nothing.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
)

// bufferSize is that of the library's own copying buffers.
const bufferSize = 32 << 10

// buffers keeps the copying buffers of bodies.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if found, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return found[:]
	}
	return make([]byte, bufferSize)
}

func (b *buffers) Put(each []byte) { b.pool.Put((*[bufferSize]byte)(each)) }

// identity are the headers by which a client would say who it is.
func identity(name string) bool {
	name = strings.ToLower(name)
	return name == "authorization" || strings.HasPrefix(name, "impersonate-") ||
		strings.HasPrefix(name, "x-remote-")
}

func newProxy(target *url.URL, roots *x509.CertPool, token, user, group string) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			for name := range r.Out.Header {
				if identity(name) {
					delete(r.Out.Header, name)
				}
			}
			r.Out.Header["Authorization"] = []string{"Bearer " + token}
			r.Out.Header["Impersonate-User"] = []string{user}
			r.Out.Header["Impersonate-Group"] = []string{group}
		},
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(64)},
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 4096,
			DisableCompression:  true,
			ReadBufferSize:      bufferSize,
			WriteBufferSize:     bufferSize,
		},
		FlushInterval: -1,
		BufferPool:    &buffers{},
		ErrorLog:      log.New(io.Discard, "", 0),
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8443", "`address` to listen on")
	certificate := flag.String("cert", "", "certificate `file`")
	key := flag.String("key", "", "`file` of its key")
	upstream := flag.String("upstream", "", "`URL` of the API server")
	ca := flag.String("ca", "", "`file` of who vouches for it")
	token := flag.String("token", "", "bearer token for it")
	user := flag.String("user", "", "user to impersonate")
	group := flag.String("group", "system:authenticated", "group to impersonate")
	flag.Parse()
	target, err := url.Parse(*upstream)
	if err != nil {
		log.Fatal(err)
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	server := &http.Server{
		Addr:      *listen,
		Handler:   newProxy(target, roots, *token, *user, *group),
		Protocols: protocols,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	fmt.Println("listening on", *listen)
	log.Fatal(server.ListenAndServeTLS(*certificate, *key))
}
