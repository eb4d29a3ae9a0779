"""Memory stays flat while one side is fast and the other slow."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.client import address_of, connect
from tests.e2e.spy import serve

MIB = 1024 * 1024
RATE = 10 * MIB
PIECE = b"x" * (64 * 1024)


def rss(pid: int) -> int:
    """Resident memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


class Memory:
    """Watches processes while a stream goes through one of them."""

    def __init__(self, pids: list[int]) -> None:
        self.first = dict.fromkeys(pids, 0)
        self.most = dict.fromkeys(pids, 0)

    def look(self, moved: int) -> None:
        """Take a sample; what was needed for the first 4 MiB is where it starts."""
        for pid in self.first:
            now = rss(pid)
            if moved < 4 * MIB:
                self.first[pid] = max(self.first[pid], now)
            self.most[pid] = max(self.most[pid], now)

    def check(self) -> None:
        for pid, first in self.first.items():
            most = self.most[pid]
            figures = f"{first / MIB:.1f} MiB at first, {most / MIB:.1f} MiB at most"
            print(f"resident: {figures}")  # for `-s`, as in the notes of a soak
            assert most < 1.2 * first, figures


def paced(total: int, step, memory: Memory) -> None:
    """Move *total* bytes by calls of *step* at `RATE`, and look at the memory on the way."""
    moved, start, looked = 0, time.monotonic(), 0.0
    while moved < total:
        moved += step()
        ahead = moved / RATE - (time.monotonic() - start)
        if ahead > 0:
            time.sleep(ahead)
        if time.monotonic() - looked > 0.1:
            looked = time.monotonic()
            memory.look(moved)


@pytest.mark.timeout(600)
def test_memory_is_flat_while_logs_go_to_a_slow_client(lab, played, soak):
    service, listening, context = played
    total = (2048 if soak else 64) * MIB

    def answer(tls: ssl.SSLSocket, _: int) -> None:
        tls.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(total // len(PIECE)):
            tls.sendall(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
        tls.sendall(b"0\r\n\r\n")

    serve(listening, context, b"/log?", answer)
    memory = Memory(service.pids)
    with connect(lab, service, address_of(lab, "alice")) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        client.sendall(
            b"GET /api/v1/namespaces/d/pods/p/log?follow=true HTTP/1.1\r\nHost: kube\r\n\r\n"
        )

        def step() -> int:
            part = client.recv(256 * 1024)
            assert part, "the stream has ended too soon"
            return len(part)

        paced(total, step, memory)
    memory.check()


@pytest.mark.timeout(600)
def test_memory_is_flat_while_much_goes_to_a_slow_api_server(lab, played, soak):
    service, listening, context = played
    total = (2048 if soak else 64) * MIB
    memory = Memory(service.pids)
    done = threading.Event()

    def answer(tls: ssl.SSLSocket, early: int) -> None:
        tls.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        paced(total - early, lambda: len(tls.recv(256 * 1024)), memory)
        tls.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        done.set()

    serve(listening, context, b"/upload", answer)
    with connect(lab, service, address_of(lab, "alice")) as client:
        client.settimeout(60)
        client.sendall(b"POST /upload HTTP/1.1\r\nHost: kube\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total // len(PIECE)):
            client.sendall(PIECE)
        assert client.recv(65536).startswith(b"HTTP/1.1 201 ")
    assert done.wait(5)
    memory.check()
