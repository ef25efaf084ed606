"""Hands the connections of an endpoint's port on to its server, where that listens on another.

    python port_forwarder.py PORT SERVER_PORT SERVER_PID BIND_SECONDS [LISTENER]

That is so after an update, when the new server was started beside the old one, and when a connection has woken the
endpoint: LISTENER is then the file descriptor on which that connection waits. It ends with the server. On SIGTERM it
frees the port, and what is connected goes on.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys

HOST = "127.0.0.1"
POLL_SECONDS = 0.02


async def ready(port: int) -> None:
    """Wait until the server's /ping answers 200."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(b"GET /ping HTTP/1.0\r\n\r\n")
            status = await reader.readline()
            writer.close()
            if status.split()[1:2] == [b"200"]:
                return
        await asyncio.sleep(POLL_SECONDS)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction of a connection, to its end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def main(port: int, server_port: int, server_pid: int, bind_seconds: int, inherited: int | None = None) -> None:
    """Forward, once whoever has the port lets go of it, until the server ends."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            to_reader, to_writer = await asyncio.open_connection(HOST, server_port)
            with contextlib.closing(to_writer):
                await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))

    loop = asyncio.get_running_loop()
    loop.add_reader(os.pidfd_open(server_pid), os._exit, 0)
    listener = None if inherited is None else socket.socket(fileno=inherited)
    deadline = loop.time() + bind_seconds
    while not listener:
        with contextlib.suppress(OSError):
            listener = socket.create_server((HOST, port), backlog=128)
        if loop.time() > deadline:
            sys.exit(f"Port {port} is taken by another program.")
        await asyncio.sleep(POLL_SECONDS)
    await ready(server_port)
    server = await asyncio.start_server(forward, sock=listener)
    loop.add_signal_handler(signal.SIGTERM, server.close)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
