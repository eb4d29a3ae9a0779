package main

import (
	"cmp"
	"encoding/json"
	"log"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/opt"
)

const (
	// taggedDevices is the login name of all tagged nodes, to others.
	taggedDevices = "tagged-devices"
	// unnamed is the login name of nodes that the policy does not name.
	unnamed = "nobody@example.com"
)

// created is when every node was made; a map that is built again must not
// differ where nothing changed.
var created = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// userIDLocked returns the number of a user, the same each time.
func (c *control) userIDLocked(login string) tailcfg.UserID {
	if id, ok := c.users[login]; ok {
		return id
	}
	id := tailcfg.UserID(1000 + len(c.users))
	c.users[login] = id
	return id
}

// mapResponse builds the whole network map of one node. Its Node is nil if
// the node has none any more. In PacketFilters "*" drops the rules sent before:
// an empty list alone would leave them as they are.
func (c *control) mapResponse(nk key.NodePublic) *tailcfg.MapResponse {
	nodes := c.liveNodes()
	c.mu.Lock()
	defer c.mu.Unlock()

	addrs := addresses{}
	hosts := map[tailcfg.ServiceName]key.NodePublic{} // who serves a Service now
	for _, n := range nodes {
		c.describeLocked(n)
		names := n.Tags
		if len(names) == 0 {
			names = []string{cmp.Or(c.pol.Nodes[hostname(n)].User, unnamed)}
		}
		for _, name := range names {
			addrs[name] = append(addrs[name], n.Addresses...)
		}
		for _, svc := range c.adverts[n.Key] {
			if _, taken := hosts[svc]; !taken && *n.Online && len(n.Tags) > 0 {
				hosts[svc] = n.Key
			}
		}
	}
	dns := &tailcfg.DNSConfig{Proxied: true, Domains: []string{c.pol.Domain}}
	for svc, ips := range c.pol.Services {
		for _, ip := range ips {
			addrs[string(svc)] = append(addrs[string(svc)], netip.PrefixFrom(ip, ip.BitLen()))
			dns.ExtraRecords = append(dns.ExtraRecords, tailcfg.DNSRecord{Name: c.serviceName(svc), Value: ip.String()})
		}
	}
	res := &tailcfg.MapResponse{
		DERPMap:         c.ts.DERPMap,
		Domain:          c.pol.Tailnet,
		CollectServices: opt.False,
		PacketFilters:   map[string][]tailcfg.FilterRule{"*": nil, "grants": c.pol.filter(addrs)},
		Peers:           []*tailcfg.Node{},
		DNSConfig:       dns,
	}
	for _, n := range nodes {
		n.AllowedIPs = slices.Clone(n.Addresses)
		for svc, host := range hosts {
			if host == n.Key {
				n.AllowedIPs = append(n.AllowedIPs, addrs[string(svc)]...)
			}
		}
		if n.Key == nk {
			res.Node = n
		} else {
			res.Peers = append(res.Peers, n)
		}
	}
	if res.Node != nil {
		c.describeSelfLocked(res.Node, addrs, dns)
	}
	for login, id := range c.users {
		name := "Tagged Devices"
		if login != taggedDevices {
			name, _, _ = strings.Cut(login, "@")
			name = strings.ToUpper(name[:1]) + name[1:]
		}
		res.UserProfiles = append(res.UserProfiles, tailcfg.UserProfile{ID: id, LoginName: login, DisplayName: name})
	}
	return res
}

// serviceName returns the MagicDNS name of a Service.
func (c *control) serviceName(svc tailcfg.ServiceName) string {
	return svc.WithoutPrefix() + "." + c.pol.Domain
}

// describeLocked says what everyone sees of a node.
func (c *control) describeLocked(n *tailcfg.Node) {
	rule := c.pol.Nodes[hostname(n)]
	if n.Tags = rule.Tags; len(n.Tags) > 0 {
		n.User = c.userIDLocked(taggedDevices)
	} else {
		n.User = c.userIDLocked(cmp.Or(rule.User, unnamed))
	}
	n.Name = hostname(n) + "." + c.pol.Domain + "."
	n.ComputedName, n.ComputedNameWithHost = hostname(n), hostname(n)
	n.Online = new(c.online[n.Key] > 0)
	n.Capabilities, n.CapMap = nil, nil
	n.Created = created
}

// describeSelfLocked says what a node alone sees of itself: its capabilities,
// the Services it hosts, the names it may have certificates for.
func (c *control) describeSelfLocked(n *tailcfg.Node, addrs addresses, dns *tailcfg.DNSConfig) {
	name := strings.TrimSuffix(n.Name, ".")
	dns.CertDomains = []string{name}
	n.CapMap = tailcfg.NodeCapMap{
		tailcfg.CapabilityHTTPS:                       nil,
		tailcfg.NodeAttrDisableUPnP:                   nil,
		tailcfg.NodeAttrDisableCaptivePortalDetection: nil,
	}
	if len(n.Tags) == 0 {
		return
	}
	n.User = c.userIDLocked(name)           // as with the hosted service: others see tagged-devices
	for _, svc := range c.services[n.Key] { // a name may have its certificate before it is advertised
		if len(c.pol.Services[svc]) > 0 {
			dns.CertDomains = append(dns.CertDomains, c.serviceName(svc))
		}
	}
	mine := tailcfg.ServiceIPMappings{}
	for _, svc := range c.adverts[n.Key] {
		if ips := c.pol.Services[svc]; len(ips) > 0 {
			mine[svc] = ips
			for _, p := range addrs[string(svc)] {
				if !slices.Contains(n.AllowedIPs, p) {
					n.AllowedIPs = append(n.AllowedIPs, p)
				}
			}
		}
	}
	if len(mine) > 0 {
		raw, err := json.Marshal(mine)
		if err != nil {
			log.Fatal(err)
		}
		n.CapMap[tailcfg.NodeAttrServiceHost] = []tailcfg.RawMessage{tailcfg.RawMessage(raw)}
	}
}
