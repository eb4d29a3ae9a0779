package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"slices"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
)

const (
	// coalesce is how long changes are gathered into one map.
	coalesce = 20 * time.Millisecond
	// keepAlive is the interval of signs of life to a node; it gives up
	// after two minutes without one.
	keepAlive = 45 * time.Second
)

// control is what the server knows besides what testcontrol keeps.
type control struct {
	ts         *testcontrol.Server
	policyPath string

	mu       sync.Mutex
	pol      policy
	polRaw   []byte
	users    map[string]tailcfg.UserID
	online   map[key.NodePublic]int                   // streams open
	services map[key.NodePublic][]tailcfg.ServiceName // configured on the node, advertised or not
	adverts  map[key.NodePublic][]tailcfg.ServiceName // advertised
	svcHash  map[key.NodePublic]string
	wakeups  map[chan struct{}]bool // one per open stream
	pings    map[key.NodePublic]*tailcfg.PingRequest
	pingsSeq int
}

func newControl(policyPath string) *control {
	return &control{
		policyPath: policyPath,
		users:      map[string]tailcfg.UserID{},
		online:     map[key.NodePublic]int{},
		services:   map[key.NodePublic][]tailcfg.ServiceName{},
		adverts:    map[key.NodePublic][]tailcfg.ServiceName{},
		svcHash:    map[key.NodePublic]string{},
		wakeups:    map[chan struct{}]bool{},
		pings:      map[key.NodePublic]*tailcfg.PingRequest{},
	}
}

// wakeLocked makes every open stream send a new map.
func (c *control) wakeLocked() {
	for ch := range c.wakeups {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func hostname(n *tailcfg.Node) string {
	return cmp.Or(n.Hostinfo.Hostname(), n.ComputedName)
}

// liveNodes returns the newest node of each host name: a node that lost its
// state and registers again takes the place of the one it was.
func (c *control) liveNodes() []*tailcfg.Node {
	byHost := map[string]*tailcfg.Node{}
	for _, n := range c.ts.AllNodes() {
		h := hostname(n)
		if old := byHost[h]; old == nil || old.ID < n.ID {
			byHost[h] = n
		}
	}
	var out []*tailcfg.Node
	for _, n := range byHost {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *tailcfg.Node) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// stream answers one map request.
func (c *control) stream(ctx context.Context, w testcontrol.MapStreamWriter, req *tailcfg.MapRequest) {
	// Since version 68 a streaming request carries no changes of the node.
	if !req.ReadOnly && !(req.Stream && req.Version >= 68) {
		c.update(req)
	}
	if !req.Stream {
		if res := c.mapResponse(req.NodeKey); res.Node != nil {
			w.SendMapMessage(res)
		}
		return
	}
	wake := make(chan struct{}, 1)
	c.mu.Lock()
	c.wakeups[wake] = true
	c.online[req.NodeKey]++
	c.wakeLocked()
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.wakeups, wake)
		c.online[req.NodeKey]--
		c.wakeLocked()
		c.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
			time.Sleep(coalesce)
			res := c.mapResponse(req.NodeKey)
			if res.Node == nil { // another node has taken the host name
				return
			}
			// A ping gets lost in an answer that is not a stream.
			c.mu.Lock()
			res.PingRequest = c.pings[req.NodeKey]
			delete(c.pings, req.NodeKey)
			c.mu.Unlock()
			if w.SendMapMessage(res) != nil {
				return
			}
		case <-time.After(keepAlive):
			if w.SendMapMessage(&tailcfg.MapResponse{KeepAlive: true}) != nil {
				return
			}
		}
	}
}

// update stores what a node says about itself, and asks it for its services
// when their hash changed.
func (c *control) update(req *tailcfg.MapRequest) {
	n := c.ts.Node(req.NodeKey)
	if n == nil {
		return
	}
	n.Endpoints, n.DiscoKey, n.Cap = req.Endpoints, req.DiscoKey, req.Version
	if hi := req.Hostinfo; hi != nil {
		n.Hostinfo = hi.View()
		if hi.NetInfo != nil && hi.NetInfo.PreferredDERP != 0 {
			n.HomeDERP = hi.NetInfo.PreferredDERP
		}
	}
	c.ts.UpdateNode(n)

	c.mu.Lock()
	defer c.mu.Unlock()
	if hi := req.Hostinfo; hi != nil && c.svcHash[req.NodeKey] != hi.ServicesHash {
		c.svcHash[req.NodeKey] = hi.ServicesHash
		c.askServicesLocked(req.NodeKey)
	}
	c.wakeLocked()
}

// askServicesLocked asks a node, over the map stream, for its services.
func (c *control) askServicesLocked(nk key.NodePublic) {
	c.pingsSeq++
	token := fmt.Sprintf("vip-services-%d", c.pingsSeq)
	var request bytes.Buffer
	r, err := http.NewRequest("GET", "http://unused/vip-services", nil)
	if err != nil {
		log.Fatal(err)
	}
	r.Write(&request)
	c.ts.C2NResponses.Store(token, func(res *http.Response) {
		var v tailcfg.C2NVIPServicesResponse
		if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
			log.Printf("%s: answer about its services: %v", nk.ShortString(), err)
			return
		}
		var active, all []tailcfg.ServiceName
		for _, s := range v.VIPServices {
			all = append(all, s.Name)
			if s.Active {
				active = append(active, s.Name)
			}
		}
		log.Printf("%s advertises %v of %v", nk.ShortString(), active, all)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.adverts[nk], c.services[nk] = active, all
		c.wakeLocked()
	})
	c.pings[nk] = &tailcfg.PingRequest{URL: "https://unused/c2n/" + token, Types: "c2n", Payload: request.Bytes()}
}
