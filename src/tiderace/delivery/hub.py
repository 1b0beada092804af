"""The groups of this process, and the loop that fans a message out to their members."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from tiderace.delivery.mailbox import Mailbox
from tiderace.delivery.outbox import PreparedMessage

_FEW = 4


class Hub:
    """Groups and their members in this process.

    ``members`` and ``deliver`` may be called from any thread, other methods under one
    lock of the owner. A message goes to the ``members`` at the time of the call: one that
    joins meanwhile may miss it, one that leaves may still get it.
    """

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Mailbox[Any]]] = {}

    def add(self, group: str, mailbox: Mailbox[Any]) -> None:
        """Add ``mailbox`` to ``group``."""
        self.groups.setdefault(group, {})[mailbox.name] = mailbox
        mailbox.groups = with_group(mailbox.groups, group)

    def discard(self, group: str, mailbox: Mailbox[Any]) -> bool:
        """Remove ``mailbox`` from ``group``; return whether it was the last member."""
        mailbox.groups = without_group(mailbox.groups, group)
        members = self.groups.get(group)
        # Another mailbox of the same name may have replaced it.
        if members is None or members.get(mailbox.name) is not mailbox:
            return False
        del members[mailbox.name]
        if members:
            return False
        del self.groups[group]
        return True

    def drop(self, mailbox: Mailbox[Any]) -> list[str]:
        """Remove ``mailbox`` from all its groups; return those that are empty now."""
        return [each for each in list(mailbox.groups) if self.discard(each, mailbox)]

    def deliver(
        self, mailboxes: Iterable[Mailbox[Any]], message: Any, deadline: float
    ) -> list[Mailbox[Any]]:
        """Push ``message``, the same object, to each of ``mailboxes``.

        Returns those that had no room for it.
        """
        return [each for each in mailboxes if not each.push(message, deadline)]

    def members(self, group: str) -> list[Mailbox[Any]]:
        """Return the members of ``group`` in the order in which they joined."""
        members = self.groups.get(group)
        # Copied in one step under the GIL: members may join or leave in other threads,
        # and in code that a push runs.
        return [] if members is None else list(members.values())


def with_group(groups: Collection[str], group: str) -> Collection[str]:
    """Return ``groups`` with one more; a set is changed in place.

    Up to four are a tuple, since a set takes 0.2 KB, and most sockets are in one group.
    """
    if isinstance(groups, set):
        groups.add(group)
        return groups
    if group in groups:
        return groups
    return (*groups, group) if len(groups) < _FEW else {*groups, group}


def without_group(groups: Collection[str], group: str) -> Collection[str]:
    """Return ``groups`` without one; a set is changed in place."""
    if isinstance(groups, set):
        groups.discard(group)
        return groups
    return tuple(each for each in groups if each != group)


def write_to_idle(
    mailboxes: list[Mailbox[Any]], message: PreparedMessage
) -> list[Mailbox[Any]]:
    """Write ``message`` to all clients whose consumers are idle.

    One call for all of them costs far less than one for each.

    Returns:
        The mailboxes it was not written to, for ``push``.
    """
    writers = [each.writer for each in mailboxes]
    idle = [writer for writer in writers if writer is not None]
    if not idle:
        return mailboxes
    refused = idle[0].write_all(idle, message.frame(idle[0]))
    if not refused and len(idle) == len(mailboxes):
        return []
    left = {id(writer) for writer in refused}
    return [
        each
        for each, writer in zip(mailboxes, writers, strict=True)
        if writer is None or id(writer) in left
    ]
