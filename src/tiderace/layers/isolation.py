"""Logs that messages of an in-memory layer do not reach other processes."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from pathlib import Path

from tiderace.runtime.connections import process_connections
from tiderace.runtime.control_socket import control_sockets

logger = logging.getLogger("tiderace.layers")

ADVICE = (
    'for several processes write "BACKEND": '
    '"tiderace.layers.database.DatabaseChannelLayer" in CHANNEL_LAYERS, which needs '
    'nothing else to be installed, or "tiderace.layers.redis.RedisChannelLayer"'
)
"""The advice in messages about a layer that reaches no other process."""

_logged: set[str] = set()


def log_unreceived(what: str) -> None:
    """Log, once, that a message stays in this process, which has no receiver for it.

    Nothing is logged in tests, which check what is sent, or in a process that serves
    sockets or will do so, since its clients may connect later.

    Args:
        what: the message, for the log.
    """
    if process_connections.expected or "unreceived" in _logged or _in_tests():
        return
    _logged.add("unreceived")
    logger.warning(
        "%s reaches nobody: the channel layer is in memory, and this process (%d) "
        "serves no sockets; %s (said once)",
        what,
        os.getpid(),
        ADVICE,
    )


def siblings_checked() -> bool:
    """Return whether ``log_siblings`` has looked for other processes."""
    return "siblings" in _logged


def log_siblings() -> None:
    """Log, once, that other processes of the same server have a layer of their own."""
    if siblings_checked() or _in_tests():
        return
    _logged.add("siblings")
    pids = sorted(_siblings())
    if pids:
        logger.error(
            "%d processes serve sockets (%s), and the channel layer is in memory: what "
            "one of them sends, the sockets of the others do not get; %s, or start one "
            "process",
            len(pids) + 1,
            ", ".join(map(str, [os.getpid(), *pids])),
            ADVICE,
        )


def _siblings() -> list[int]:
    """Return the running processes of this project with the parent of this one."""
    own, parent = os.getpid(), os.getppid()
    pids = []
    for path in control_sockets():
        with contextlib.suppress(ValueError):  # another file
            pid = int(path.stem)
            if pid != own and _parent_of(pid) in (parent, None) and _is_open(path):
                pids.append(pid)
    return pids


def _parent_of(pid: int) -> int | None:
    """Return the parent's id; None where the system has no ``/proc``."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # After the name, which is in brackets and may contain any character.
    return int(status.rpartition(")")[2].split()[1])


def _is_open(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(0.5)
        try:
            client.connect(str(path))
        except OSError:  # of a process that was killed
            return False
    return True


def _in_tests() -> bool:
    # Set by setup_test_environment() of Django's and pytest-django's runners.
    return hasattr(sys.modules.get("django.core.mail"), "outbox")
