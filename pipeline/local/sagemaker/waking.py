"""Wakes endpoints at the first connection, as long as a process of ours runs that does something else.

It listens on the ports of those whose server has ended. A connection is not accepted here: it waits at the listening
socket, which a forwarder to the server that is started takes over, so no request is lost.
"""

import contextlib
import select
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.local.jobs.servers import HOST, is_running
from pipeline.local.sagemaker.endpoint_servers import is_asleep, port_of, running_server
from pipeline.local.store.state import State

LOOK_SECONDS = 0.5


@contextmanager
def waking(home: Path) -> Iterator[None]:
    """Wake the home's endpoints during the block."""
    asked, ask = socket.socketpair()
    thread = threading.Thread(target=watch, args=(home, asked), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ask.close()
        thread.join()
        asked.close()


def watch(home: Path, asked: socket.socket) -> None:
    """Listen for endpoints that are asleep until `asked` is closed at its other end."""
    listeners: dict[str, socket.socket] = {}
    state = State(home)
    try:
        is_over = False
        while True:
            with contextlib.suppress(PipelineError, sqlite3.Error):  # whoever else reads the state says what is wrong
                listen(state, listeners)
            if is_over:
                return
            ready, _, _ = select.select([asked, *listeners.values()], [], [], LOOK_SECONDS)
            is_over = asked in ready
            for name in [name for name, listener in listeners.items() if listener in ready]:
                hand_over(state, name, listeners.pop(name))
    finally:
        for listener in listeners.values():
            listener.close()
        state.close()


def hand_over(state: State, name: str, listener: socket.socket) -> None:
    """Have the endpoint's server answer at a listening socket, once it is started."""
    with listener, contextlib.suppress(PipelineError, sqlite3.Error, OSError):
        running_server(state, name, listener)


def listen(state: State, listeners: dict[str, socket.socket]) -> None:
    """Listen for each endpoint that is asleep now; hand over the socket of one that somebody else has woken."""
    known = {found["EndpointName"]: found for found in state.all("Endpoint")}
    asleep = {name: port_of(found) for name, found in known.items() if is_asleep(found)}
    for name in listeners.keys() - asleep.keys():
        listener = listeners.pop(name)
        if name in known and is_running(known[name]["Server"]):
            hand_over(state, name, listener)
        listener.close()
    for name in asleep.keys() - listeners.keys():
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, asleep[name]))
            listener.listen(128)
            listeners[name] = listener
        except OSError:  # another process has the port
            listener.close()
