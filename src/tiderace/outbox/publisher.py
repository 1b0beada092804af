"""Publishes rows of an outbox to the layers of their topics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from tiderace import metrics
from tiderace.exceptions import LayerUnavailable, MessageTooLarge
from tiderace.layers.broker import KEY_TTL
from tiderace.outbox.lease import Lease
from tiderace.outbox.rows import OutboxRow
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.declaration.topic import Refuse, Topic, UnknownTopic
from tiderace.topics.names import topic_group
from tiderace.topics.server_api.transactions import PreparedPublication
from tiderace.topics.streams import layer_of

logger = logging.getLogger("tiderace.outbox")

# The most topics whose rows are published at once, and that wait after an error.
_TOPICS = 500
_WAITING_TOPICS = 5_000

# Seconds between the first two tries of a topic; the pause doubles with each further one,
# up to the longest.
_RETRY = 1.0
_LONGEST_RETRY = 10.0

# Errors by which a layer says that it cannot encode or take a message, so that no further
# try of the row can succeed.
_REFUSED_BY_LAYER = (TypeError, MessageTooLarge)

# Seconds between two warnings for the same class of error.
_WARNINGS = 60.0

# Seconds in which rows of an unknown topic wait: in a rolling update the relay may be a
# process of the older release. While more than _UNKNOWN_TOPICS topics wait, such rows are
# set aside at once, so that a program with wrong names does not block other topics.
_UNKNOWN = 300.0
_UNKNOWN_TOPICS = 1_000

# Seconds in which the code of a topic may refuse its rows with Refuse(temporary=True).
_REFUSED_FOR_NOW = 3600.0

# Seconds in which the keys of deleted rows are gathered, and topics whose keys are sent to
# the layers at once.
_EXPIRING = 1.0
_EXPIRED_TOPICS = 100


@dataclass(slots=True)
class Results:
    """The results of rows that are published or failed, to be written into the database."""

    published: list[tuple[int, PreparedPublication]] = field(default_factory=list)
    """Ids and publications of rows to delete."""
    set_aside: list[tuple[int, str]] = field(default_factory=list)
    """Ids and errors of rows that cannot be published."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """Ids and errors of rows that their topics do not accept yet."""

    def __bool__(self) -> bool:
        return bool(self.published or self.set_aside or self.refused)

    def extend(self, later: Results) -> None:
        """Add the results of other rows."""
        self.published += later.published
        self.set_aside += later.set_aside
        self.refused += later.refused


@dataclass(slots=True)
class _Failures:
    """The failed tries of a topic, in succession and for one kind of error."""

    kind: type[Exception]
    since: float
    """When the first one failed, by the relay's clock."""
    tries: int = 0
    noted: tuple[int, str] = (0, "")
    """The first row, and the error that it has in the database."""


class OutboxPublisher:
    """Publishes rows in the order of their ids in each topic, many topics at once.

    Args:
        database: the alias of the rows' database, for messages.
        lease: nothing is published unless it is held.
        clock: seconds that never run backwards.
        on_end: called when the rows of a topic are published, or have failed.
    """

    def __init__(
        self,
        database: str,
        lease: Lease,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_end: Callable[[], None],
    ) -> None:
        self._database = database
        self._lease = lease
        self._clock = clock
        self._on_end = on_end
        self._results = Results()
        self._tasks = TaskGroup(logger)
        # The task that publishes rows of a topic, by topic. Its other rows wait.
        self._busy: dict[str, asyncio.Task[None]] = {}
        # The topics of these tasks that pause before another try.
        self._waiting: set[str] = set()
        self._failures: dict[str, _Failures] = {}
        # A lock for each layer that is away: the topic that holds it tries the layer.
        self._away: dict[str, asyncio.Lock] = {}
        self._warned: dict[type[Exception], float] = {}
        # Keys of rows that are deleted, by topic.
        self._deleted: dict[str, tuple[Topic, list[str]]] = {}
        self._expiring: asyncio.Task[None] | None = None

    @property
    def topics(self) -> Sequence[str]:
        """The topics whose rows are being published or wait for another try."""
        return list(self._busy)

    @property
    def is_full(self) -> bool:
        """Whether it takes no more rows now."""
        working = len(self._busy) - len(self._waiting)
        return working >= _TOPICS or len(self._waiting) >= _WAITING_TOPICS

    def publish(self, rows: Sequence[OutboxRow]) -> None:
        """Begin to publish rows; their topics must not be in ``topics``."""
        if not rows and not self._busy:
            self._failures.clear()  # of topics whose rows were deleted
        by_topic = sorted(rows, key=attrgetter("topic"))
        for topic, of_topic in groupby(by_topic, attrgetter("topic")):
            task = self._tasks.spawn(self._publish_in_order(topic, list(of_topic)))
            task.add_done_callback(lambda _: self._on_end())
            self._busy[topic] = task

    @property
    def ended(self) -> Sequence[str]:
        """The topics whose rows are published or have failed."""
        return [topic for topic, task in self._busy.items() if task.done()]

    def take_results(self) -> Results:
        """Return the results of the rows that have ended since the last call."""
        results, self._results = self._results, Results()
        return results

    def forget(self, topics: Sequence[str]) -> None:
        """Accept rows of these topics again, after their results were written."""
        for topic in topics:
            del self._busy[topic]

    def expire_keys(self, publications: Iterable[PreparedPublication]) -> None:
        """Let the layers forget the keys of rows that are deleted, soon and not at once.

        A publication that is delayed on its way has still its key for five minutes.
        """
        for each in publications:
            if each.key_ttl > KEY_TTL:
                _, keys = self._deleted.setdefault(each.topic.topic, (each.topic, []))
                keys.append(each.key)
        if self._deleted and (self._expiring is None or self._expiring.done()):
            self._expiring = self._tasks.spawn(self._expire_keys())

    async def wait(self, seconds: float) -> None:
        """Wait for the topics that are not pausing before another try."""
        if working := self._busy.keys() - self._waiting:
            tasks = [self._busy[topic] for topic in working]
            await asyncio.wait(tasks, timeout=seconds)

    async def cancel(self) -> None:
        """Stop publishing."""
        await self._tasks.cancel()

    async def _publish_in_order(self, topic: str, rows: Sequence[OutboxRow]) -> None:
        """Publish rows of one topic; at the first that fails, end after a pause.

        The rows that are left are read again, since they may be deleted meanwhile.
        """
        try:
            for row in rows:
                if not self._lease.held:
                    return
                try:
                    accepted = await self._publish(row)
                except Exception as error:
                    # Whatever the error is, later rows must not overtake this one.
                    pause = self._note_failure(row, error)
                    self._waiting.add(topic)
                    await asyncio.sleep(pause)
                    return
                if accepted:
                    # A row that is set aside does not reset the tries of its topic: the
                    # next row has waited as long.
                    self._failures.pop(topic, None)
        finally:
            self._waiting.discard(topic)

    async def _publish(self, row: OutboxRow) -> bool:
        """Publish a row, or set it aside; return whether it is published.

        Raises:
            Exception: when it has to be tried again.
        """
        try:
            publication = row.prepare()
        except (UnknownTopic, Refuse) as error:
            if self._may_pass(row, error):
                raise
            self._set_aside(row, error)
            return False
        except ValueError as error:
            self._set_aside(row, error)
            return False
        # Outside the ``try``, since a layer with wrong options raises TypeError too.
        layer_of(publication.topic)
        try:
            await self._publish_when_back(publication)
        except _REFUSED_BY_LAYER as error:
            self._set_aside(row, error)
            return False
        metrics.OUTBOX_RELAYED.add()
        self._results.published.append((row.id, publication))
        return True

    async def _publish_when_back(self, publication: PreparedPublication) -> None:
        """Publish; while the layer is away, only one topic at a time tries it."""
        alias, name = publication.topic.layer, publication.topic.topic
        try:
            if (trying := self._away.get(alias)) is None:
                await publication.apublish()
                return
            self._waiting.add(name)
            async with trying:
                self._waiting.discard(name)
                if self._lease.held:
                    await publication.apublish()
                else:
                    raise LayerUnavailable("another relay may be at work")
            self._away.pop(alias, None)
        except LayerUnavailable:
            self._away.setdefault(alias, asyncio.Lock())
            raise

    def _may_pass(self, row: OutboxRow, error: UnknownTopic | Refuse) -> bool:
        """Return whether a topic may accept its rows later."""
        # Measured by this process: the time in a row is that of another host.
        failures = self._failures.get(row.topic)
        waited = 0.0
        if failures is not None and failures.kind is type(error):
            waited = self._clock() - failures.since
        if isinstance(error, UnknownTopic):
            return waited < _UNKNOWN and len(self._waiting) < _UNKNOWN_TOPICS
        return error.failure.temporary and waited < _REFUSED_FOR_NOW

    def _note_failure(self, row: OutboxRow, error: Exception) -> float:
        """Record that a row has to be tried again; return the seconds before that."""
        self._warn(row, error)
        failures = self._failures.get(row.topic)
        if failures is None or failures.kind is not type(error):
            failures = _Failures(type(error), self._clock())
            self._failures[row.topic] = failures
        failures.tries += 1
        if isinstance(error, UnknownTopic | Refuse):
            note = (row.id, _described(error))
            if note != failures.noted:
                failures.noted = note
                self._results.refused.append(note)
        return _pause_after(failures.tries - 1)

    async def _expire_keys(self) -> None:
        await asyncio.sleep(_EXPIRING)
        while some := list(self._deleted)[:_EXPIRED_TOPICS]:
            expiring = (_expire_keys(*self._deleted.pop(topic)) for topic in some)
            await asyncio.gather(*expiring)

    def _warn(self, row: OutboxRow, error: Exception) -> None:
        now = self._clock()
        kind = type(error)
        if now - self._warned.get(kind, float("-inf")) >= _WARNINGS:
            self._warned[kind] = now
            logger.warning(
                "publications in the outbox of %r wait and are tried again, as one to %r: "
                "%s: %s",
                self._database,
                row.topic,
                kind.__name__,
                error,
            )

    def _set_aside(self, row: OutboxRow, error: Exception) -> None:
        text = _described(error)
        logger.error(
            "row %d of the outbox of %r, to the topic %r, is set aside, since it cannot "
            "be published: %s",
            row.id,
            self._database,
            row.topic,
            text,
        )
        self._results.set_aside.append((row.id, text))


async def _expire_keys(topic: Topic, keys: Sequence[str]) -> None:
    try:
        await layer_of(topic).stream_expire_keys(topic_group(topic.topic), keys)
    except Exception as error:
        # Keys that are not shortened expire after a week.
        logger.debug("keys of %r could not be let end: %s", topic.topic, error)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _pause_after(tries: int) -> float:
    """Return the seconds before a topic is tried again, after ``tries`` earlier pauses."""
    return min(_RETRY * 2.0 ** min(tries, 10), _LONGEST_RETRY)
