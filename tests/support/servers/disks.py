"""Disks that become full, and files that are locked."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Disk", "locked", "mounted_disk"]


@dataclass
class Disk:
    """A disk in memory."""

    folder: Path

    def resize(self, size: str) -> None:
        """Change its size."""
        command = ["mount", "-o", f"remount,size={size}", self.folder]
        subprocess.run(command, check=True)


@contextlib.contextmanager
def mounted_disk(folder: Path, size: str) -> Iterator[Disk]:
    """Mount a disk in memory at ``folder``, which is created.

    Raises:
        pytest.skip.Exception: this user cannot mount.
    """
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock of a transaction that writes into a SQLite file."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            database.execute("ROLLBACK")
