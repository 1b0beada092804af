"""Decides by their tags which publications of a topic one subscriber gets.

The client's filter and the topic's ``may_receive`` are called once for each set of tags
and subscriber. While ``may_receive`` runs, the subscriber's later publications wait behind
the first one, so that their order is kept.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, TypeAlias

from tiderace import metrics
from tiderace.history import Publication
from tiderace.protocol.messages import Pub
from tiderace.protocol.tag_filter import Matches

logger = logging.getLogger("tiderace.topics")

TagSet: TypeAlias = frozenset[tuple[str, str]]

# Decisions that are kept for a subscriber; with more, all are forgotten and made again.
_KNOWN = 1000
# Publications that wait for a decision; with more, all but the first are lost.
_HELD = 1000

_NO_TAGS: TagSet = frozenset()


def tag_set(tags: Mapping[str, str] | None) -> TagSet:
    """Return tags in a form that is equal for equal tags."""
    return frozenset(tags.items()) if tags else _NO_TAGS


class TagGate:
    """The decisions for one subscriber.

    Args:
        matches: the client's filter; None for none.
        may_receive: the topic's hook for this user, which may take long; None for none.
        spawn: runs a coroutine in the background; None where ``passes`` is not called.
        deliver: called with each publication that waited, in order, and whether the
            subscriber gets it.
        lose: called when publications that waited are lost.
    """

    __slots__ = (
        "_deliver",
        "_generation",
        "_lose",
        "_matches",
        "_may_receive",
        "_spawn",
        "held",
        "known",
    )

    def __init__(
        self,
        matches: Matches | None,
        may_receive: Callable[[Mapping[str, str]], Awaitable[bool]] | None,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], Any] | None = None,
        deliver: Callable[[Publication, bool], None] | None = None,
        lose: Callable[[], None] | None = None,
    ) -> None:
        self._matches = matches
        self._may_receive = may_receive
        self._spawn = spawn
        self._deliver = deliver
        self._lose = lose
        # The decisions, and the publications that wait for one. Not private, since the
        # fan-out of filtered subscriptions reads them.
        self.known: dict[TagSet, bool] = {}
        self.held: deque[Publication] = deque()
        self._generation = 0

    def passes(self, tags: TagSet, publication: Publication) -> bool | None:
        """Return whether the subscriber gets a publication; None while it waits.

        One that waits is passed to ``deliver`` later.

        Args:
            tags: the ``tag_set`` of the publication.
            publication: the next one of the topic.
        """
        if not self.held:
            decided = self.known.get(tags)
            if decided is None and self._may_receive is None:
                decided = self._keep(tags, self._filter(tags))
            if decided is not None:
                return decided
            assert self._spawn is not None  # noqa: S101 (given with what passes)
            self._spawn(self._release())
        elif len(self.held) >= _HELD:
            metrics.UNDECIDED_PUBLICATIONS_DROPPED.add(len(self.held))
            # The first one is being decided; ``_release`` removes it.
            first = self.held[0]
            self.held.clear()
            self.held.append(first)
            self._report_loss()
            return None
        self.held.append(publication)
        return None

    async def select(self, publications: Collection[Pub]) -> list[Pub]:
        """Return the publications of a history or recovery that the subscriber gets.

        Raises:
            Exception: raised by ``may_receive``.
        """
        return [each for each in publications if await self._decide(tag_set(each.tags))]

    def forget(self) -> None:
        """Decide everything again: the user's permissions have changed."""
        self.known.clear()
        self._generation += 1

    def close(self) -> None:
        """Drop the publications that wait, at the end of the subscription."""
        self.held.clear()

    async def _release(self) -> None:
        """Decide about the publications that wait, one after the other."""
        held = self.held
        while held:
            publication = held[0]
            try:
                passes = await self._decide(tag_set(publication.tags))
            except Exception:
                logger.exception(
                    "may_receive of %r failed; its subscriber does not get a publication",
                    publication.topic,
                )
                metrics.UNDECIDED_PUBLICATIONS_DROPPED.add(len(held))
                held.clear()
                self._report_loss()
                return
            if not held or held[0] is not publication:
                return  # closed meanwhile
            held.popleft()
            if self._deliver is not None:
                self._deliver(publication, passes)

    def _report_loss(self) -> None:
        if self._lose is not None:
            self._lose()

    async def _decide(self, tags: TagSet) -> bool:
        while True:
            known = self.known.get(tags)
            if known is not None:
                return known
            generation = self._generation
            passes = self._filter(tags)
            if passes and self._may_receive is not None:
                passes = bool(await self._may_receive(dict(tags)))
            if generation == self._generation:
                return self._keep(tags, passes)

    def _filter(self, tags: TagSet) -> bool:
        return self._matches is None or self._matches(dict(tags))

    def _keep(self, tags: TagSet, passes: bool) -> bool:
        if len(self.known) >= _KNOWN:
            self.known.clear()
        self.known[tags] = passes
        return passes
