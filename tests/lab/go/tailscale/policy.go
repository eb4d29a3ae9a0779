package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/ipproto"
)

// nodeRule says who a node is: a user's, or tagged.
type nodeRule struct {
	User string   `json:"user"` // login name
	Tags []string `json:"tags"`
}

// grant is one of the policy's grants, as in a tailnet policy file
// (https://tailscale.com/kb/1324/grants): what is not granted is refused.
type grant struct {
	Src []string           `json:"src"` // login names, tags, IPs, prefixes, or "*"
	Dst []string           `json:"dst"` // the same, or svc:names
	IP  []flow             `json:"ip"`  // flows that may pass
	App tailcfg.PeerCapMap `json:"app"` // capabilities that WhoIs shows
}

// policy is the policy file.
type policy struct {
	Domain   string                               `json:"domain"`   // MagicDNS suffix
	Tailnet  string                               `json:"tailnet"`  // name of the tailnet
	Nodes    map[string]nodeRule                  `json:"nodes"`    // by host name
	Services map[tailcfg.ServiceName][]netip.Addr `json:"services"` // with their addresses
	Grants   []grant                              `json:"grants"`
}

// flow is one entry of a grant's "ip": "*", "PORTS", "PROTOCOL:PORTS", where
// PORTS is "*", a port, or a range of two.
type flow struct {
	proto []int // empty: TCP, UDP and ICMP
	ports tailcfg.PortRange
}

// UnmarshalJSON reads a flow from its string.
func (f *flow) UnmarshalJSON(raw []byte) error {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	proto, ports, found := strings.Cut(s, ":")
	if !found {
		proto, ports = "", s
	}
	*f = flow{ports: tailcfg.PortRangeAny}
	if found {
		var p ipproto.Proto
		if err := p.UnmarshalText([]byte(proto)); err != nil {
			return fmt.Errorf("grant for %q: %w", s, err)
		}
		f.proto = []int{int(p)}
	}
	if ports == "*" {
		return nil
	}
	first, last, found := strings.Cut(ports, "-")
	if !found {
		last = first
	}
	lo, err1 := strconv.ParseUint(first, 10, 16)
	hi, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || lo > hi {
		return fmt.Errorf("grant for %q: want a port, a range of two, or *", s)
	}
	f.ports = tailcfg.PortRange{First: uint16(lo), Last: uint16(hi)}
	return nil
}

// addresses are the addresses of everything that a policy can name.
type addresses map[string][]netip.Prefix

// resolve returns the addresses of names in a grant.
func (a addresses) resolve(names []string) (out []netip.Prefix) {
	for _, name := range names {
		if name == "*" {
			return []netip.Prefix{tsaddr.AllIPv4(), tsaddr.AllIPv6()}
		}
		if pfx, err := netip.ParsePrefix(name); err == nil {
			out = append(out, pfx)
		} else if ip, err := netip.ParseAddr(name); err == nil {
			out = append(out, netip.PrefixFrom(ip, ip.BitLen()))
		}
		out = append(out, a[name]...)
	}
	return out
}

// filter returns the packet filter that the grants amount to.
func (p *policy) filter(addrs addresses) []tailcfg.FilterRule {
	var out []tailcfg.FilterRule
	for _, g := range p.Grants {
		var srcs []string
		for _, pfx := range addrs.resolve(g.Src) {
			srcs = append(srcs, pfx.String())
		}
		dsts := addrs.resolve(g.Dst)
		if len(srcs) == 0 || len(dsts) == 0 {
			continue
		}
		for _, f := range g.IP {
			rule := tailcfg.FilterRule{SrcIPs: srcs, IPProto: f.proto}
			for _, dst := range dsts {
				rule.DstPorts = append(rule.DstPorts, tailcfg.NetPortRange{IP: dst.String(), Ports: f.ports})
			}
			out = append(out, rule)
		}
		if len(g.App) > 0 {
			out = append(out, tailcfg.FilterRule{
				SrcIPs:   srcs,
				CapGrant: []tailcfg.CapGrant{{Dsts: dsts, CapMap: g.App}},
			})
		}
	}
	return out
}

// loadPolicy reads the policy file if it changed, and sends everyone new maps.
func (c *control) loadPolicy() error {
	raw, err := os.ReadFile(c.policyPath)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if bytes.Equal(raw, c.polRaw) {
		return nil
	}
	c.polRaw = raw // an error is said once, not at each look
	var p policy
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return fmt.Errorf("%s: %w", c.policyPath, err)
	}
	c.pol = p
	c.wakeLocked()
	return nil
}
