"""Subscriptions that get a part of their topic's publications."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from django.core.exceptions import PermissionDenied

from tiderace.history import Publication
from tiderace.protocol import codes
from tiderace.protocol.codec import Codec
from tiderace.protocol.messages import FilterNode, SubscribeRequest
from tiderace.protocol.session import PositionLost, Refused
from tiderace.protocol.tag_filter import Matches, matcher
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.fanout.deltas import DeltaSubscription, serves_deltas
from tiderace.topics.fanout.dispatcher import (
    ActiveSubscription,
    send_publication,
)
from tiderace.topics.fanout.outbox import ClientOutbox
from tiderace.topics.fanout.tag_gate import TagGate, tag_set
from tiderace.topics.hooks import call_hook


class FilteredSubscription(ActiveSubscription):
    """A subscription with a filter of the client, or to a topic with ``may_receive``.

    It has a fan-out of its own, so that filters cost other subscriptions nothing.
    """

    __slots__ = ("gate",)

    gate: TagGate

    @staticmethod
    def dispatch(
        group: str,
        publication: Publication,
        listeners: Sequence[Any],
    ) -> None:
        """Send a publication to those of ``listeners`` that get its tags."""
        if group != listeners[0].group:
            ActiveSubscription.dispatch(group, publication, listeners)
            return
        tags = tag_set(publication.tags)
        receivers: defaultdict[Codec, list[ClientOutbox]] = defaultdict(list)
        for subscription in listeners:
            passes: bool | None = False
            if subscription.buffered is None:
                # Mostly the tags are decided already. Reading ``known`` here, without the
                # call, takes a quarter less time.
                gate = subscription.gate
                passes = None if gate.held else gate.known.get(tags)
                if passes is None:
                    passes = gate.passes(tags, publication)
                if passes is None:
                    continue  # it waits for the decision
            try:
                if subscription.advance(publication) and passes:
                    receivers[subscription.codec].append(subscription.outbox)
            except PositionLost:
                subscription.on_gap(group)
        send_publication(listeners[0].topic, publication, receivers)

    def deliver(self, publication: Publication, passes: bool) -> None:
        """Advance past a publication that waited, and send it if it passes."""
        try:
            if self.advance(publication) and passes:
                receivers = {self.codec: [self.outbox]}
                send_publication(self.topic, publication, receivers)
        except PositionLost:
            self.on_gap(self.group)

    def lose(self) -> None:
        """Report publications that waited too long, where the topic has positions."""
        self.on_gap(self.group)


def make_subscription(
    topic: Topic,
    request: SubscribeRequest,
    outbox: ClientOutbox,
    on_lost: Callable[[ActiveSubscription], None],
    spawn: Callable[[Coroutine[Any, Any, None]], Any],
    *,
    client_id: str,
    user: Callable[[], Any],
    server_side: bool,
) -> ActiveSubscription:
    """Return a subscription of the class that the topic and the request need.

    Args:
        topic: the topic.
        request: the client's, with its filter and whether it requests deltas.
        spawn: runs a coroutine in the background, until the client's end.
        user: returns the client's user, as it is now.
        outbox, on_lost, client_id, server_side: as for ``ActiveSubscription``.

    Raises:
        Refused: when the filter is malformed, or cannot be served.
    """
    matches = _read_filter(topic, request.tf)
    if matches is None and topic.may_receive is None:
        deltas = not server_side and serves_deltas(topic, request.delta)
        kind = DeltaSubscription if deltas else ActiveSubscription
        return kind(
            topic, outbox, on_lost, client_id=client_id, server_side=server_side
        )
    subscription = FilteredSubscription(
        topic, outbox, on_lost, client_id=client_id, server_side=server_side
    )
    subscription.gate = make_gate(
        topic,
        user,
        matches,
        spawn=spawn,
        deliver=subscription.deliver,
        lose=subscription.lose,
    )
    return subscription


def _read_filter(topic: Topic, node: FilterNode | None) -> Matches | None:
    """Return a client's filter; None for none.

    Raises:
        Refused: when it is malformed, or the topic has ``deliver`` or ``growing``.
    """
    if node is None:
        return None
    for option in ("deliver", "growing"):
        if getattr(topic, option) is not None:
            kind = type(topic).__name__
            reason = f"{kind} has {option}, so it takes no filter by tags"
            raise Refused(codes.NOT_AVAILABLE, "tf is not served here", reason=reason)
    try:
        return matcher(node)
    except ValueError as error:
        raise Refused(codes.BAD_REQUEST, str(error)) from None


def make_gate(
    topic: Topic,
    user: Callable[[], Any],
    matches: Matches | None = None,
    *,
    spawn: Callable[[Coroutine[Any, Any, None]], Any] | None = None,
    deliver: Callable[[Publication, bool], None] | None = None,
    lose: Callable[[], None] | None = None,
) -> TagGate:
    """Return the gate of a subscriber.

    Args:
        topic: the topic.
        user: returns the subscriber's user, as it is now.
        matches: the client's filter.
        spawn, deliver, lose: as for ``TagGate``; None to read histories alone.
    """
    hook = topic.may_receive
    may_receive: Callable[[Mapping[str, str]], Awaitable[bool]] | None = None
    if hook is not None:

        async def may_receive(tags: Mapping[str, str]) -> bool:
            try:
                return bool(await call_hook(hook, user(), tags))
            except PermissionDenied:
                return False

    return TagGate(matches, may_receive, spawn=spawn, deliver=deliver, lose=lose)
