package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"
)

const (
	readBuffer = 64 << 10
	patience   = time.Minute     // for one request; a benchmark that hangs is no benchmark
	opening    = 5 * time.Second // for a connection, after which it is tried anew
	attempts   = 3
)

// door is where and how clients come in.
type door struct {
	url   *url.URL
	dial  string         // address to connect to
	via   string         // address of an HTTP proxy that leads there, or empty
	from  netip.AddrPort // whom the PROXY header names; invalid for no header
	tls   *tls.Config    // nil for none
	extra string         // header lines for each request
}

// newDoor reads the flags that describe the door.
func newDoor(raw, dial, via, from, ca, certificate, key, name, extra string) (*door, error) {
	parsed, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	d := &door{url: parsed, dial: dial, via: via, extra: extra}
	if dial == "" {
		d.dial = parsed.Host
	}
	if from != "" {
		if d.from, err = netip.ParseAddrPort(from); err != nil {
			return nil, err
		}
	}
	if parsed.Scheme == "https" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		d.tls = &tls.Config{ServerName: parsed.Hostname(), RootCAs: x509.NewCertPool(), NextProtos: []string{"http/1.1"}}
		if name != "" {
			d.tls.ServerName = name
		}
		d.tls.RootCAs.AppendCertsFromPEM(pem)
		if certificate != "" {
			pair, err := tls.LoadX509KeyPair(certificate, key)
			if err != nil {
				return nil, err
			}
			d.tls.Certificates = []tls.Certificate{pair}
		}
	}
	return d, nil
}

// proxyHeader names a caller in PROXY protocol v2, as tailscaled's serve does
// for IPv4 (the destination is a node's address, and not looked at).
func proxyHeader(source netip.AddrPort) []byte {
	from, to := source.Addr().As4(), [4]byte{100, 64, 0, 250}
	header := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c")
	header = append(append(header, from[:]...), to[:]...)
	header = binary.BigEndian.AppendUint16(header, source.Port())
	return binary.BigEndian.AppendUint16(header, 443)
}

// client is one connection.
type client struct {
	net.Conn
	in *bufio.Reader
}

// open connects the client of that number: the number tells apart their ports.
func (d *door) open(number int) (*client, error) {
	source := d.from
	if source.IsValid() {
		source = netip.AddrPortFrom(source.Addr(), source.Port()+uint16(number%20000))
	}
	return d.openFrom(source)
}

// openFrom connects a caller. What a userspace network loses of a handshake
// can take it a minute to notice, so nobody waits for that.
func (d *door) openFrom(source netip.AddrPort) (c *client, err error) {
	for range attempts {
		if c, err = d.try(source); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return c, err
}

func (d *door) try(source netip.AddrPort) (*client, error) {
	address := d.dial
	if d.via != "" {
		address = d.via
	}
	conn, err := net.DialTimeout("tcp", address, opening)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(opening))
	if d.via != "" {
		if err := d.tunnel(conn); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if source.IsValid() {
		if _, err := conn.Write(proxyHeader(source)); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if d.tls != nil {
		secure := tls.Client(conn, d.tls)
		if err := secure.Handshake(); err != nil {
			conn.Close()
			return nil, err
		}
		conn = secure
	}
	return &client{conn, bufio.NewReaderSize(conn, readBuffer)}, nil
}

// tunnel asks an HTTP proxy for the way to the door (RFC 9110 section 9.3.6).
func (d *door) tunnel(conn net.Conn) error {
	fmt.Fprintf(conn, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", d.dial)
	// The answer has no body, and nothing follows it before we speak.
	answer, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the way through %s: %s", d.via, answer.Status)
	}
	return nil
}

// request is the bytes of a request.
func (d *door) request(method, target string, body []byte, lines string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: kubectl/v1.36.3 (linux/amd64) kubernetes/0000000\r\n"+
		"Accept: application/json\r\n%s%s", method, target, d.url.Host, d.extra, lines)
	if body != nil {
		fmt.Fprintf(&out, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	out.WriteString("\r\n")
	out.Write(body)
	return out.Bytes()
}

// answer is the head of an answer.
type answer struct {
	status  int
	length  int64 // of the body; -1 if it ends with the connection
	chunked bool
}

var errHead = errors.New("an answer that cannot be read")

// do sends a request and reads the answer away: bytes of its body.
func (c *client) do(request []byte) (int64, error) {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	head, err := c.readHead()
	if err != nil {
		return 0, err
	}
	size, err := c.skipBody(head)
	if err == nil && head.status/100 != 2 {
		err = fmt.Errorf("the answer is %d", head.status)
	}
	return size, err
}

func (c *client) line() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}

func (c *client) readHead() (answer, error) {
	head := answer{length: -1}
	line, err := c.line()
	if err != nil {
		return head, err
	}
	if len(line) < 12 {
		return head, errHead
	}
	if head.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return head, errHead
	}
	for {
		if line, err = c.line(); err != nil || len(line) == 0 {
			return head, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if head.length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return head, errHead
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			head.chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	}
}

func (c *client) skipBody(head answer) (int64, error) {
	if !head.chunked {
		if head.length < 0 {
			return 0, errHead
		}
		return c.skip(head.length)
	}
	total := int64(0)
	for {
		size, err := c.chunkSize()
		if err != nil {
			return total, err
		}
		if size == 0 {
			_, err = c.line()
			return total, err
		}
		done, err := c.skip(size + 2) // its final CR LF too
		total += done - 2
		if err != nil {
			return total, err
		}
	}
}

func (c *client) chunkSize() (int64, error) {
	line, err := c.line()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(line), 16, 64)
}

// skip reads bytes away, however long that takes as long as some come.
func (c *client) skip(size int64) (int64, error) {
	for left := size; left > 0; {
		done, err := c.in.Discard(int(min(left, 64<<20)))
		left -= int64(done)
		if err != nil {
			return size - left, err
		}
		c.SetDeadline(time.Now().Add(patience))
	}
	return size, nil
}
