"""An echo server, ``python -m tests.lab.echo PORT``: where kwok forwards the ports of pods to."""

from __future__ import annotations

import asyncio
import sys

CHUNK = 65536


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what arrives; end when the other side ends its direction, or is gone."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(port: int) -> None:
    """Serve on a port of 127.0.0.1 until the process is ended."""
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
