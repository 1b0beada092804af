"""Elects the active relay of a database."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable

from django.db.models import F, QuerySet
from django.db.models.functions import Now

from tiderace.outbox.models import RelayLease

RENEWAL = 2.0
"""Seconds between two renewals."""
CHECK = 1.0
"""Seconds between two attempts of a relay that waits for the lease."""

# A relay stops publishing _VALID seconds after it began its last renewal. The others take
# the lease when it has not changed for _EXPIRY seconds, so two never publish at once.
_VALID = 4.0
_EXPIRY = 5.0

_NAME = "relay"


class Lease:
    """The lease of one database, as one relay sees it.

    No clocks of two hosts are compared: a waiting relay measures with its own clock how
    long the row has not changed. Its methods but ``held`` query the database.

    Args:
        database: its alias.
        clock: seconds that never run backwards.
    """

    def __init__(
        self, database: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._clock = clock
        self._holder = (
            f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(8)}"
        )
        self._valid_until = float("-inf")
        # The row at its last change that this relay has read, and when it read it.
        self._seen: tuple[str, int] | None = None
        self._seen_at = 0.0

    @property
    def held(self) -> bool:
        """Whether this relay may publish: no other one can hold the lease now."""
        return self._clock() < self._valid_until

    def acquire(self) -> bool:
        """Renew the lease, or take it when its holder has stopped; return whether held."""
        begun = self._clock()
        if self._seen is not None and self._seen[0] == self._holder:
            if self._change(holder=self._holder):
                self._valid_until = begun + _VALID
                return True
            self._valid_until = float("-inf")
        row = self._read()
        if row != self._seen:
            self._seen, self._seen_at = row, self._clock()
        holder, beat = row
        if holder and begun - self._seen_at < _EXPIRY:
            return False
        if not self._change(holder=holder, beat=beat):
            return False
        self._seen = (self._holder, beat + 1)
        self._valid_until = begun + _VALID
        return True

    def release(self) -> None:
        """Give the lease up, so that another relay takes it at its next attempt."""
        self._valid_until = float("-inf")
        self._seen = None
        self._rows.filter(holder=self._holder).update(holder="", beat=F("beat") + 1)

    @property
    def _rows(self) -> QuerySet[RelayLease]:
        return RelayLease.objects.using(self._database).filter(pk=_NAME)

    def _read(self) -> tuple[str, int]:
        while (row := self._rows.first()) is None:
            first = RelayLease(name=_NAME, holder="", beat=0)
            RelayLease.objects.using(self._database).bulk_create(
                [first], ignore_conflicts=True
            )
        return row.holder, row.beat

    def _change(self, **expected: str | int) -> int:
        """Write this relay into the row, if it is as expected; return the rows changed."""
        return self._rows.filter(**expected).update(
            holder=self._holder, beat=F("beat") + 1, renewed=Now()
        )
