"""The exception of a test client for a refusal by the server, and its assertion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Refusal(Exception):
    """The server has refused a command, or ended the subscription or the connection.

    Attributes:
        code: of the error (``103``, permission denied), of the unsubscription or of the
            close; the HTTP status where the handshake was refused.
        reason: its text, with the explanation that a page gets only while ``DEBUG`` is on:
            ``"permission denied: Room.can_subscribe does not allow the user 7"``.
    """

    def __init__(self, code: int, reason: str, *, action: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self._action = action

    def __str__(self) -> str:
        text = f"{self.code}, {self.reason or 'without a reason'}"
        return f"{self._action}: {text}" if self._action else text


@contextmanager
def assert_refused(code: int, reason: str = "") -> Iterator[None]:
    """Assert that the server refuses what the block does; for sync and async tests.

        with assert_refused(103, "permission denied"):
            client.subscribe("room:tea")

    Args:
        code: of the refusal.
        reason: text that its reason contains.

    Raises:
        AssertionError: nothing is refused, or with another code or reason.
    """
    expected = f"{code}, {reason}" if reason else f"{code}"
    try:
        yield
    except Refusal as refusal:
        if refusal.code != code or reason not in refusal.reason:
            raise AssertionError(
                f"the server refused it with another code or reason than {expected}: "
                f"{refusal}"
            ) from refusal
    else:
        raise AssertionError(f"the server refused nothing; expected {expected}")
