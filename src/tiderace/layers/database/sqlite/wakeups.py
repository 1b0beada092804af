"""Wakes the processes that read a file, by datagrams over Unix sockets beside it.

A datagram announces a commit, and names queues with a message to take. A datagram may be
lost: its rows are in the file, which is polled.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from tiderace.layers.database.vendor import FeedRow

_MAX_FOLDER = 60  # bytes: with a name, the address stays below the limit of 104
_MAX_NAMES = 20  # queues in one datagram
_MAX_DATAGRAM = 65536
_HAS_SOCKETS = hasattr(socket, "AF_UNIX")


class WakeupFolder:
    """The folder beside a file in which each process that reads it has a socket."""

    def __init__(self, file: Path) -> None:
        self._path = file.with_name(f"{file.name}-wake")
        self._sender: socket.socket | None = None

    def listen(self) -> Wakeups | None:
        """Return a new socket for wake-ups; None where there can be none."""
        if not _HAS_SOCKETS:
            return None
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self._bind(listener, name)
            listener.setblocking(False)
        except OSError:
            # A file system without sockets, or a folder of another user.
            listener.close()
            return None
        return Wakeups(listener, self._path / name)

    def _bind(self, listener: socket.socket, name: str) -> None:
        for is_last_try in (False, False, True):
            self._path.mkdir(exist_ok=True)
            try:
                with _short_path(self._path) as folder:
                    listener.bind(f"{folder}/{name}")
                return
            except FileNotFoundError:
                # Another process has removed the empty folder meanwhile.
                if is_last_try:
                    raise

    def wake(self, rows: Sequence[FeedRow]) -> None:
        """Wake all processes; raises nothing."""
        queues = [row.subject.encode() for row in rows if row.offset is None]
        datagrams = [
            b"\0".join(queues[start : start + _MAX_NAMES])
            for start in range(0, max(len(queues), 1), _MAX_NAMES)
        ]
        with contextlib.suppress(OSError):  # no folder: no process reads, or all poll
            names = os.listdir(self._path)  # noqa: PTH208 (for every commit)
            if not names:
                return
            if self._sender is None:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
                # A layer that is not closed ends without a ResourceWarning.
                weakref.finalize(self, self._sender.close)
            with _short_path(self._path) as folder:
                for name in names:
                    _send(self._sender, datagrams, f"{folder}/{name}")


class Wakeups:
    """The socket of this process.

    Args:
        listener: the socket.
        path: its file.
    """

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self.listener = listener
        self._path = path
        # A layer that is not closed ends without a ResourceWarning.
        weakref.finalize(self, listener.close)

    def receive(self) -> set[str]:
        """Take all wake-ups that are waiting; return the queues that they name."""
        queues: set[str] = set()
        while True:
            try:
                datagram = self.listener.recv(_MAX_DATAGRAM)
            except BlockingIOError:
                return queues
            if datagram:
                queues.update(datagram.decode().split("\0"))

    def close(self, *, in_child: bool = False) -> None:
        """Close the socket, and remove its file, and the folder after the last one.

        In a forked child both stay, as they are the parent's.
        """
        self.listener.close()
        if not in_child:
            with contextlib.suppress(OSError):
                self._path.unlink()
                self._path.parent.rmdir()


def _send(sender: socket.socket, datagrams: list[bytes], address: str) -> None:
    try:
        for datagram in datagrams:
            sender.sendto(datagram, address)
    except ConnectionRefusedError:
        # The process of this socket has died.
        with contextlib.suppress(OSError):
            Path(address).unlink()
    except OSError:
        pass  # the socket is full: its process has wake-ups to read


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """Yield a path of the folder that is short enough for the address of a socket."""
    path = os.fspath(folder)
    if len(os.fsencode(path)) <= _MAX_FOLDER:
        yield path
        return
    # On Linux; elsewhere the address is not found, and processes poll.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
