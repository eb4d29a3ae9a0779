"""A port of 127.0.0.1 that leads to one host of the tailnet.

``python -m tests.lab.tunnel PORT PROXY HOST:PORT``, PROXY being the ``HOST:PORT`` of a caller's
HTTP proxy. It is for clients that cannot use such a proxy; a laptop whose tailscaled has a network
interface needs neither.
"""

from __future__ import annotations

import asyncio
import sys

CHUNK = 65536


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write what is read, and end the direction when it ends."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except ConnectionError:
        writer.close()


async def serve(port: int, proxy: str, target: str) -> None:
    """Serve until the process is ended."""

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, number = proxy.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(number))
        far_writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = await far_reader.readuntil(b"\r\n\r\n")
        if b" 200 " in head.partition(b"\r\n")[0]:
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
        far_writer.close()
        writer.close()

    server = await asyncio.start_server(tunnel, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
