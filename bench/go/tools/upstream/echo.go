package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
)

// Opcodes and lengths of WebSocket frames (RFC 6455 section 5.2).
const (
	opBinary  = 2
	opClose   = 8
	maxShort  = 125
	length16  = 126
	length64  = 127
	maxEchoed = 1 << 20
)

// echo is an exec session (v5.channel.k8s.io): what comes on channel 0, input,
// goes back on channel 1, output.
func echo(w http.ResponseWriter, r *http.Request) {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		http.Error(w, "an upgrade takes HTTP/1.1", http.StatusBadRequest)
		return
	}
	conn, buffered, err := hijacker.Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	// RFC 6455 section 4.2.2.
	proof := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
		base64.StdEncoding.EncodeToString(proof[:]))
	for {
		op, message, err := readFrame(buffered.Reader)
		if err != nil || op == opClose {
			return
		}
		if len(message) > 0 && message[0] == 0 {
			message[0] = 1
		}
		if _, err := conn.Write(frame(message)); err != nil {
			return
		}
	}
}

func readFrame(from *bufio.Reader) (op byte, message []byte, err error) {
	var head [2]byte
	if _, err = io.ReadFull(from, head[:]); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1] & 0x7f)
	switch size {
	case length16:
		var wide uint16
		err = binary.Read(from, binary.BigEndian, &wide)
		size = uint64(wide)
	case length64:
		err = binary.Read(from, binary.BigEndian, &size)
	}
	if err != nil || size > maxEchoed {
		return 0, nil, fmt.Errorf("a frame of %d bytes: %w", size, err)
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err = io.ReadFull(from, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	message = make([]byte, size)
	if _, err = io.ReadFull(from, message); err != nil {
		return 0, nil, err
	}
	for i := range message {
		message[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, message, nil
}

// frame is a final frame of binary data.
func frame(message []byte) []byte {
	out := []byte{0x80 | opBinary}
	switch size := len(message); {
	case size <= maxShort:
		out = append(out, byte(size))
	case size < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, length16), uint16(size))
	default:
		out = binary.BigEndian.AppendUint64(append(out, length64), uint64(size))
	}
	return append(out, message...)
}
