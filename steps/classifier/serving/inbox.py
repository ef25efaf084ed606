"""What the server sends to a worker: requests, what it takes back, and connections that it lends."""

import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from classifier.serving.frames import FrameReader, Head

RECEIVED_BYTES = 1 << 18
DESCRIPTOR = struct.Struct("i")
ANCILLARY_BYTES = socket.CMSG_SPACE(8 * DESCRIPTOR.size)


@dataclass(frozen=True)
class Lent:
    """A connection."""

    number: int  # the server's
    descriptor: int
    threads: int  # of its requests


class Inbox:
    """The worker's end of the socket to the server."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reader, self._buffer = FrameReader(), memoryview(bytearray(RECEIVED_BYTES))
        self._descriptors: deque[int] = deque()  # of connections whose message has not arrived yet
        self._requests: dict[int, tuple[Head, bytes]] = {}
        self.lent: list[Lent] = []  # to be taken out
        self.wanted_back = False  # the server asks for all connections

    def receive(self, *, wait: bool) -> bool:
        """Read what has been sent; whether the server is still there."""
        flags = 0 if wait else socket.MSG_DONTWAIT
        while True:
            try:
                count, ancillary, _, _ = self._channel.recvmsg_into([self._buffer], ANCILLARY_BYTES, flags)
            except BlockingIOError:
                return True
            except ConnectionError:
                return False
            if not count:
                return False
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._descriptors.extend(number for (number,) in DESCRIPTOR.iter_unpack(data))
            for head, body in self._reader.feed(self._buffer[:count]):
                self._take(head, body)
            if self._requests or self.lent or self.wanted_back:
                flags = socket.MSG_DONTWAIT

    def _take(self, head: Head, body: bytes) -> None:
        if "recalled" in head:
            self._requests.pop(head["recalled"], None)
        elif "lent" in head:
            self.lent.append(Lent(head["lent"], self._descriptors.popleft(), head["threads"]))
        elif "wanted_back" in head:
            self.wanted_back = True
        else:
            self._requests[head["id"]] = head, body

    def next_request(self) -> tuple[Head, bytes] | None:
        """The one that has waited longest."""
        return self._requests.pop(next(iter(self._requests))) if self._requests else None


def requests(channel: socket.socket) -> Iterator[tuple[Head, bytes]]:
    """Requests until the server closes the socket, without those that it has recalled in time."""
    inbox, request = Inbox(channel), None
    while inbox.receive(wait=request is None):
        if request := inbox.next_request():
            yield request
