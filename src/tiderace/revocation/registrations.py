"""An index of the watched connections, by user and by session."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    looked_up_at: float | None = None
    """When its permissions were first looked up; until then they are unknown."""
    suspect: bool = False
    """Whether permissions may have changed between its log-in and ``looked_up_at``."""
    _discard: Callable[[Registration], None] | None = None

    @property
    def watched(self) -> bool:
        """Whether it was neither cancelled nor given a final reason."""
        return self._discard is not None

    def cancel(self) -> None:
        """Stop watching the connection; a second call does nothing."""
        discard, self._discard = self._discard, None
        if discard is not None:
            discard(self)


class Registrations:
    """An index of registrations."""

    def __init__(self) -> None:
        self._by_user: defaultdict[str, set[Registration]] = defaultdict(set)
        # By reference, not key.
        self._by_session: defaultdict[str, set[Registration]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(len(each) for each in self._by_user.values())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of the users."""
        return iter(list(self._by_user))

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._by_user

    def of_user(self, user_id: str) -> list[Registration]:
        """Return the registrations of a user."""
        return list(self._by_user.get(user_id, ()))

    def of_session(self, reference: str) -> list[Registration]:
        """Return the registrations of a session, by its ``session_reference``."""
        return list(self._by_session.get(reference, ()))

    def add(self, registration: Registration) -> None:
        """Add a registration."""
        for index, key in self._places(registration):
            index[key].add(registration)

    def discard(self, registration: Registration) -> None:
        """Remove a registration, if it is in the index."""
        for index, key in self._places(registration):
            index[key].discard(registration)
            if not index[key]:
                del index[key]

    def clear(self) -> None:
        """Remove all registrations."""
        self._by_user.clear()
        self._by_session.clear()

    def _places(
        self, registration: Registration
    ) -> Iterator[tuple[defaultdict[str, set[Registration]], str]]:
        yield self._by_user, registration.user_id
        if registration.session_key:
            yield self._by_session, session_reference(registration.session_key)
