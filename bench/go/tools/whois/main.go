// whois stands in for the LocalAPI of a tailscaled whose tailnet has more
// nodes than a test can start: it knows a user for each address of a prefix,
// and answers as late as a real one would. Everything else is passed on to a
// real tailscaled.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"time"
)

func who(address netip.Addr) map[string]any {
	bytes := address.As4()
	id := int(bytes[2])<<8 | int(bytes[3])
	name := "laptop-" + address.String()
	return map[string]any{
		"Node": map[string]any{
			"ID": 100000 + id, "StableID": name, "Name": name + ".lab.ts.net.", "User": 100000 + id,
			"Addresses": []string{address.String() + "/32"}, "Online": true, "MachineAuthorized": true,
			"Created": "2026-01-01T00:00:00Z", "Hostinfo": map[string]any{}, "ComputedName": name,
		},
		"UserProfile": map[string]any{"ID": 100000 + id, "LoginName": name + "@example.com", "DisplayName": name},
		"CapMap":      nil,
	}
}

func main() {
	socket := flag.String("socket", "", "unix socket to listen on")
	behind := flag.String("tailscaled", "", "socket of the real tailscaled")
	prefix := flag.String("prefix", "100.80.0.0/16", "addresses to answer for")
	after := flag.Duration("after", 500*time.Microsecond, "how long an answer takes")
	flag.Parse()
	known, err := netip.ParsePrefix(*prefix)
	if err != nil {
		log.Fatal(err)
	}
	rest := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "local-tailscaled.sock"})
	rest.FlushInterval = -1
	rest.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", *behind)
	}}
	http.HandleFunc("/localapi/v0/whois", func(w http.ResponseWriter, r *http.Request) {
		asked := r.URL.Query().Get("addr")
		address, err := netip.ParseAddr(asked)
		if err != nil {
			port, _ := netip.ParseAddrPort(asked)
			address = port.Addr()
		}
		if !address.Is4() || !known.Contains(address) {
			rest.ServeHTTP(w, r)
			return
		}
		time.Sleep(*after)
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(who(address))
	})
	http.Handle("/", rest)
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, nil))
}
