"""The rows of an outbox, as a relay reads and deletes them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from django.db import connections, router
from django.db.models import Count, Min, Q, QuerySet
from django.utils import timezone

from tiderace.json_compat import loads, well_formed_json
from tiderace.outbox.models import RelayLease, WaitingPublication
from tiderace.topics.declaration.topic import declared
from tiderace.topics.server_api.transactions import PreparedPublication
from tiderace.topics.streams import record_of

# Seconds for which a layer keeps the key of a row that is not deleted: an outage of the
# database right after the publication may last as long.
_KEY_TTL = 7 * 86_400.0

# Characters of an error that are kept.
_ERROR = 1000


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A row of the outbox."""

    id: int
    topic: str
    data: str
    tags: str | None
    key: str
    created: datetime

    def prepare(self) -> PreparedPublication:
        """Return the publication; the same row always has the same key.

        Raises:
            UnknownTopic: when its topic is not declared.
            ValueError: when its data or tags are not JSON.
        """
        topic = declared.resolve(self.topic)
        tags = self.tags and msgspec.json.decode(self.tags, type=dict[str, str])
        data: str | bytes = compact_json(self.data)
        if topic.is_binary():
            data = msgspec.json.decode(data, type=bytes)
        record = record_of(self.topic, data, tags=tags or None)
        record["time"] = _aware(self.created).timestamp()
        if self.key:
            # A key of the application, which may use it again after five minutes.
            return PreparedPublication(topic, record, self.key)
        return PreparedPublication(topic, record, self._own_key(), _KEY_TTL)

    def _own_key(self) -> str:
        # Has the time and the data, since ids begin again in a table that is created anew.
        # The prefix keeps it apart from the keys of publication_key().
        text = f"outbox:{self.id}:{self.created.isoformat()}:{self.data}"
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def as_text(data: str | bytes) -> str:
    """Return the data of a publication as a row has it: bytes as a string in base64."""
    return data if isinstance(data, str) else msgspec.json.encode(data).decode()


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers and the age of the rows in an outbox."""

    waiting: int = 0
    """Rows that will be published."""
    set_aside: int = 0
    """Rows that cannot be published."""
    oldest: float = 0.0
    """Age of the oldest row that waits, in seconds."""


class OutboxRows:
    """The rows of one database; every method queries it.

    Args:
        database: its alias.
    """

    def __init__(self, database: str) -> None:
        self.database = database

    def exist(self) -> bool:
        """Return whether the database has the tables."""
        names = connections[self.database].introspection.table_names()
        tables = {WaitingPublication._meta.db_table, RelayLease._meta.db_table}  # noqa: SLF001
        return tables <= set(names)

    def waiting(
        self, limit: int, *, without: Collection[str] = ()
    ) -> Sequence[OutboxRow]:
        """Return the first rows to publish, in the order of their ids.

        Rows are not read after the last id: a transaction that commits late has lower
        ids than others that were committed earlier.

        Args:
            limit: maximum number.
            without: topics whose rows are left out.
        """
        rows = self._all.filter(failed=None).exclude(topic__in=without).order_by("id")
        fields = ("id", "topic", "data", "tags", "key", "created")
        return [OutboxRow(*row) for row in rows.values_list(*fields)[:limit]]

    def delete(self, ids: Collection[int]) -> None:
        """Delete the rows that are published."""
        self._all.filter(pk__in=ids)._raw_delete(self.database)  # noqa: SLF001 (delete() reads the rows first)

    def set_aside(self, row: int, error: str) -> None:
        """Mark a row as one that cannot be published, with the error."""
        self._all.filter(pk=row).update(failed=timezone.now(), error=error[:_ERROR])

    def store_error(self, row: int, error: str) -> None:
        """Store the error because of which a row waits."""
        self._all.filter(pk=row).update(error=error[:_ERROR])

    def statistics(self) -> Statistics:
        """Count the rows."""
        waits = Q(failed=None)
        found = self._all.aggregate(
            waiting=Count("id", filter=waits),
            set_aside=Count("id", filter=~waits),
            first=Min("created", filter=waits),
        )
        first = found.pop("first")
        age = (datetime.now(UTC) - _aware(first)).total_seconds() if first else 0.0
        return Statistics(**found, oldest=max(age, 0.0))

    def relay(self) -> tuple[str, float] | None:
        """Return the holder of the lease and the seconds since its last renewal."""
        found = (
            RelayLease.objects.using(self.database)
            .exclude(holder="")
            .values_list("holder", "renewed")
            .first()
        )
        if found is None or found[1] is None:
            return None
        return found[0], (datetime.now(UTC) - _aware(found[1])).total_seconds()

    @property
    def _all(self) -> QuerySet[WaitingPublication]:
        return WaitingPublication.objects.using(self.database)


def compact_json(data: str) -> str:
    """Return JSON of another program in the form of a publication.

    It has no line breaks, which separate messages, and it can be decoded.

    Raises:
        ValueError: for other text.
    """
    text = well_formed_json(data.encode())
    loads(text)
    return msgspec.json.format(text, indent=-1).decode()


def databases() -> list[str]:
    """Return the aliases of the databases whose routers allow an outbox."""
    return [
        alias
        for alias in connections
        if router.allow_migrate_model(alias, WaitingPublication)
    ]


def _aware(moment: datetime) -> datetime:
    """Return a moment of the database, which is naive without ``USE_TZ``."""
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
