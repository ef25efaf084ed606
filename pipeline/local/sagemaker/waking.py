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
QUIET = (PipelineError, sqlite3.Error, OSError)  # whoever else reads the state says what is wrong


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
    state, is_over = State(home), False
    try:
        while True:
            with contextlib.suppress(*QUIET):
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
    with listener, contextlib.suppress(*QUIET):
        running_server(state, name, listener)


def listen(state: State, listeners: dict[str, socket.socket]) -> None:
    """Listen for each endpoint that is asleep now; hand over the socket of one that somebody else has woken."""
    known = {found["EndpointName"]: found for found in state.all("Endpoint")}
    asleep = {name: port_of(found) for name, found in known.items() if is_asleep(found)}
    for name in listeners.keys() - asleep.keys():
        with listeners.pop(name) as listener:
            if name in known and is_running(known[name]["Server"]):
                hand_over(state, name, listener)
    for name in asleep.keys() - listeners.keys():
        with contextlib.suppress(OSError):  # another process has the port
            listeners[name] = socket.create_server((HOST, asleep[name]), backlog=128)
