"""An index of the watched connections, by user and by session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tiderace.revocation.account_state import AccountState, Reason, session_reference

__all__ = ["Registration", "Registrations"]


@dataclass(eq=False, slots=True)
class Registration:
    """One watched connection; call ``cancel()`` when it ends."""

    user: Any
    user_id: str
    session_key: str
    on_change: Callable[[Reason], None]
    state: AccountState
    """The user's state at the last look-up."""
    cancel: Callable[[], None] = field(init=False)
    """Stops watching the connection; a second call does nothing."""
    looked_up_at: float | None = None
    """When its permissions were first looked up; until then they are unknown."""
    suspect: bool = False
    """Whether its permissions may have changed between log-in and ``looked_up_at``."""


class Registrations:
    """An index of registrations; its sets are not empty."""

    def __init__(self) -> None:
        self.by_user: dict[str, set[Registration]] = {}
        self.by_session: dict[str, set[Registration]] = {}
        """The keys are from ``session_reference``; a session's own key is a secret."""

    def __len__(self) -> int:
        return sum(len(each) for each in self.by_user.values())

    def __contains__(self, registration: Registration) -> bool:
        return registration in self.by_user.get(registration.user_id, ())

    def add(self, registration: Registration) -> None:
        """Add a registration."""
        for index, key in self._places(registration):
            index.setdefault(key, set()).add(registration)

    def discard(self, registration: Registration) -> None:
        """Remove a registration, if it is in the index."""
        if registration in self:
            for index, key in self._places(registration):
                index[key].remove(registration)
                if not index[key]:
                    del index[key]

    def _places(
        self, registration: Registration
    ) -> Iterator[tuple[dict[str, set[Registration]], str]]:
        yield self.by_user, registration.user_id
        if registration.session_key:
            yield self.by_session, session_reference(registration.session_key)
