"""The groups of this process, and the loop that fans a message out to their members."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

__all__ = ["Hub", "Receiver"]

M_contra = TypeVar("M_contra", contravariant=True)
M = TypeVar("M")
R = TypeVar("R", bound="Receiver")  # type: ignore[type-arg]


class Receiver(Protocol[M_contra]):
    """A member of groups."""

    name: str
    groups: set[str]

    def push(self, message: M_contra, deadline: float) -> bool:
        """Take ``message`` without waiting; return False when there is no room for it."""


class Hub(Generic[R]):
    """Groups and their members in this process.

    Every method may be called from any thread. A message goes to the ``members`` at
    the time of the call: one that joins meanwhile may miss it, one that leaves may
    still get it.
    """

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, R]] = {}
        self._lock = threading.Lock()

    def add(self, group: str, receiver: R) -> bool:
        """Add ``receiver`` to ``group``; return whether it is the first member."""
        with self._lock:
            members = self.groups.get(group)
            first = members is None
            if members is None:
                members = self.groups[group] = {}
            members[receiver.name] = receiver
            receiver.groups.add(group)
            return first

    def discard(self, group: str, receiver: R) -> bool:
        """Remove ``receiver`` from ``group``; return whether it was the last member."""
        with self._lock:
            return self._discard(group, receiver)

    def drop(self, receiver: R) -> list[str]:
        """Remove ``receiver`` from all its groups; return those that are empty now."""
        with self._lock:
            return [
                group
                for group in list(receiver.groups)
                if self._discard(group, receiver)
            ]

    def deliver(self, receivers: Iterable[R], message: M, deadline: float) -> list[R]:
        """Push ``message``, the same object, to each of ``receivers``.

        Returns those that had no room for it.
        """
        return [each for each in receivers if not each.push(message, deadline)]

    def members(self, group: str) -> list[R]:
        """Return the members of ``group`` in the order in which they joined."""
        members = self.groups.get(group)
        # Copied in one step under the GIL: members may join or leave in other threads,
        # and in code that a push runs.
        return [] if members is None else list(members.values())

    def clear(self) -> None:
        """Remove all members from all groups."""
        with self._lock:
            for members in self.groups.values():
                for receiver in members.values():
                    receiver.groups.clear()
            self.groups.clear()

    def _discard(self, group: str, receiver: R) -> bool:
        receiver.groups.discard(group)
        members = self.groups.get(group)
        # Another receiver of the same name may have replaced it.
        if members is None or members.get(receiver.name) is not receiver:
            return False
        del members[receiver.name]
        if members:
            return False
        del self.groups[group]
        return True
