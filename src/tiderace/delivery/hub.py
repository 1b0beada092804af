"""Who, in this process, listens to which group; and the loop that fans a message out.

It knows receivers only by their name, their groups and ``push``: nothing of topics,
codecs, users or event loops.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

__all__ = ["Hub", "Receiver"]

M_contra = TypeVar("M_contra", contravariant=True)
M = TypeVar("M")
R = TypeVar("R", bound="Receiver")  # type: ignore[type-arg]


class Receiver(Protocol[M_contra]):
    """What the hub needs of those who listen."""

    name: str
    groups: set[str]

    def push(self, message: M_contra, deadline: float) -> bool:
        """Take ``message`` without waiting; False when there is no room for it."""


class Hub(Generic[R]):
    """Groups and their members in this process.

    Every method may be called from any thread. A message goes to the ``members`` at
    the moment they are asked for: one who joins while it is delivered may miss it, one
    who leaves may still get it.
    """

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, R]] = {}
        self._lock = threading.Lock()

    def add(self, group: str, receiver: R) -> bool:
        """Let ``receiver`` listen to ``group``; True when it is the group's first."""
        with self._lock:
            members = self.groups.get(group)
            first = members is None
            if members is None:
                members = self.groups[group] = {}
            members[receiver.name] = receiver
            receiver.groups.add(group)
            return first

    def discard(self, group: str, receiver: R) -> bool:
        """Let ``receiver`` listen no more; True when it was the group's last."""
        with self._lock:
            return self._discard(group, receiver)

    def drop(self, receiver: R) -> list[str]:
        """Take ``receiver`` out of all its groups; those that have no member left."""
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
        """The members of ``group`` in this process, in the order in which they joined."""
        members = self.groups.get(group)
        # Made in one step under the GIL: others may join or leave in other threads,
        # and a push may wake code that does.
        return [] if members is None else list(members.values())

    def clear(self) -> None:
        """Take everyone out of every group."""
        with self._lock:
            for members in self.groups.values():
                for receiver in members.values():
                    receiver.groups.clear()
            self.groups.clear()

    def _discard(self, group: str, receiver: R) -> bool:
        receiver.groups.discard(group)
        members = self.groups.get(group)
        # Another one under its name may have taken its place.
        if members is None or members.get(receiver.name) is not receiver:
            return False
        del members[receiver.name]
        if members:
            return False
        del self.groups[group]
        return True
