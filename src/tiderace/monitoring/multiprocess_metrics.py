"""Adds up the metrics of the processes behind one port, through files.

A scrape reaches one process of several. Each of them writes its snapshot into a folder
once a second, and the process that is scraped adds them up. The counters of processes
that have ended stay in the sum, so that no counter ever falls. The metrics do not go
over the layer's broker because they are needed most when it is away.

A process holds a lock on a file of its own until it ends, in whatever way. So nothing has
to be done when a process ends, and the folder need not be emptied.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tiderace.monitoring.snapshot import LAYER_GAUGES, Snapshot, take

try:
    import fcntl
except ImportError:  # pragma: no cover (Windows)
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tiderace.monitoring")

# The variable of prometheus_client, which projects may have set already.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_EVERY = 1.0  # seconds between two snapshots
_ENDED = "tiderace-gone.json"
_GUARD = "tiderace-gone.guard"


class Folder:
    """The snapshots of several processes, one file each.

    Args:
        path: a folder on a disk of this machine; it is made if it does not exist.

    Raises:
        RuntimeError: where the system has no file locks of the kind that is needed.
        OSError: when the folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        if fcntl is None:  # pragma: no cover (Windows)
            raise RuntimeError(
                f"{FOLDER_VARIABLE} needs file locks of Unix; unset it and scrape each "
                "process at a port of its own"
            )
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._begin(Snapshot())

    def _begin(self, inherited: Snapshot) -> None:
        # The counts of the process that this one was forked from, which it writes itself.
        self._inherited = inherited
        name = f"tiderace-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lock_file = self.path / f"{name}.lock"
        self._file = self.path / f"{name}.json"
        with self._guarded():  # no other process may find it unlocked
            self._lock = os.open(self._lock_file, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def begin_after_fork(self) -> None:
        """Write to a file of this process, with counts from zero."""
        os.close(self._lock)
        inherited = take()
        # The gauges of layers are measured anew.
        for name in LAYER_GAUGES:
            inherited.gauges.pop(name, None)
        self._begin(inherited)
        self.keep_writing()

    def own(self) -> Snapshot:
        """Return the measurements of this process."""
        snapshot = take()
        snapshot.add(self._inherited, -1)
        return snapshot

    def write(self) -> None:
        """Write the measurements of this process into its file."""
        _write(self._file, self.own())

    def keep_writing(self) -> None:
        """Write once a second from now on, in a thread."""
        threading.Thread(
            target=self._write_repeatedly, name="tiderace-metrics", daemon=True
        ).start()

    def _write_repeatedly(self) -> None:
        failing = False
        while True:
            time.sleep(_EVERY)
            try:
                self.write()
                failing = False
            except Exception:
                # The thread continues, since the disk may have room again later.
                if not failing:
                    logger.exception("metrics cannot be written to %s", self.path)
                failing = True

    def total(self) -> Snapshot:
        """Return the sum of all processes, those that have ended included."""
        total = self.own()
        with self._guarded():
            ended = _read(self.path / _ENDED)
            for lock_file in sorted(self.path.glob("tiderace-*.lock")):
                if lock_file == self._lock_file:
                    continue
                file = lock_file.with_suffix(".json")
                if _is_held(lock_file):
                    total.add(_read(file))
                    continue
                ended.add(Snapshot(_read(file).counters))
                _write(self.path / _ENDED, ended)
                file.unlink(missing_ok=True)
                lock_file.unlink(missing_ok=True)
        total.add(ended)
        return total

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Let one process at a time add up the ended ones."""
        guard = os.open(self.path / _GUARD, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield
        finally:
            os.close(guard)


_folder: Folder | None = None


def share(path: Path) -> Folder:
    """Write this process's snapshots into ``path`` from now on, once a second.

    Children of a fork do so by themselves. A second call returns the same folder.
    """
    global _folder
    if _folder is None:
        _folder = Folder(path)
        _folder.write()
        _folder.keep_writing()
        atexit.register(_write_last, _folder)
        os.register_at_fork(after_in_child=_folder.begin_after_fork)
    return _folder


def shared() -> Folder | None:
    """Return the folder that this process writes to, or None."""
    return _folder


def _write_last(folder: Folder) -> None:
    with contextlib.suppress(OSError):
        folder.write()


def _is_held(lock_file: Path) -> bool:
    """Return whether the process of this lock file is running."""
    try:
        lock = os.open(lock_file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def _read(file: Path) -> Snapshot:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Snapshot)
    except (FileNotFoundError, msgspec.DecodeError):
        # It is not written yet, or was written by another release.
        return Snapshot()


def _write(file: Path, snapshot: Snapshot) -> None:
    # Renamed, so that a reader gets the whole file or the earlier one.
    unfinished = file.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_bytes(msgspec.json.encode(snapshot))
    unfinished.replace(file)
