"""A pytest plugin that breaks topics in one way: ``MUTANT=pings pytest -p mutants ...``.

Each mutant is a plausible mistake: those with which the suites of other clients were
tried (they missed half of them), and a few more.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from copy import copy
from importlib import import_module
from typing import Any

import pytest
from msgspec.structs import replace

from tiderace.history import Position

__all__ = ["MUTANTS"]

MUTANTS: dict[str, Callable[[], None]] = {}


def mutant(apply: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[apply.__name__] = apply
    return apply


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    # Django is set up by now, which what is broken needs.
    if name := os.environ.get("MUTANT"):
        MUTANTS[name]()


def around(owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace a function by ``change(original, *arguments)``."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(original, *args, **kwargs)

    setattr(owner, name, changed)


def _missed(change: Callable[[list[Any]], list[Any]]) -> None:
    from tiderace.protocol import session

    def merge(original, *args):
        merged = original(*args)
        if merged is None:
            return None
        return replace(merged, missed=change(list(merged.missed)))

    around(session, "merge", merge)


# Recovery


@mutant
def recovery_loses_the_last_one():
    _missed(lambda missed: missed[:-1])


@mutant
def recovery_repeats_one():
    _missed(lambda missed: [*missed[:1], *missed])


@mutant
def recovery_is_reversed():
    _missed(lambda missed: missed[::-1])


@mutant
def recovery_always_succeeds():
    from tiderace import history

    history._is_complete = lambda *args: True


@mutant
def no_client_is_refused_for_an_old_position():
    from tiderace.protocol import session

    session._REJECT_UNRECOVERED = 0


@mutant
def offsets_have_gaps():
    from tiderace.protocol.codec import JSONCodec

    def encode_publication(original, codec, channel, publication, *, offsets):
        epoch, offset = publication.position.epoch, publication.position.offset
        publication = copy(publication)
        publication.position = Position(epoch, 2 * offset)
        return original(codec, channel, publication, offsets=offsets)

    around(JSONCodec, "encode_publication", encode_publication)


@mutant
def epochs_change_with_every_reply():
    from tiderace.protocol.session import Subscription

    answers = iter(range(1_000_000))

    def build_reply(original, *args, **kwargs):
        result = original(*args, **kwargs)
        if result is not None and result.epoch:
            result.epoch += str(next(answers))
        return result

    around(Subscription, "build_reply", build_reply)


@mutant
def gaps_are_not_noticed():
    from tiderace.protocol import session

    def advance(original, self, publication):
        try:
            return original(self, publication)
        except session.PositionLost:
            self.position = publication.position
            return True

    around(session.Subscription, "advance", advance)


# Publications


@mutant
def every_third_publication_is_lost():
    from tiderace.protocol.session import Subscription

    def advance(original, self, publication):
        return original(self, publication) and publication.position.offset % 3 > 0

    around(Subscription, "advance", advance)


@mutant
def every_publication_comes_twice():
    from tiderace.topics.fanout import dispatcher

    def write_all(original, *args):
        original(*args)
        original(*args)

    around(dispatcher, "write_all", write_all)


@mutant
def commands_of_a_message_are_reversed():
    from tiderace.protocol.codec import JSONCodec

    around(JSONCodec, "decode", lambda original, *args: original(*args)[::-1])


@mutant
def publications_overtake_the_reply():
    from tiderace.protocol.session import Subscription

    def build_reply(original, self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        self.send_buffered()
        return result

    around(Subscription, "build_reply", build_reply)


@mutant
def publications_are_lost_while_a_subscription_begins():
    from tiderace.topics.fanout.dispatcher import ActiveSubscription

    def send_buffered(self):
        for each in self.commit():
            if hasattr(each, "position"):
                self.advance(each)

    ActiveSubscription.send_buffered = send_buffered


@mutant
def unsubscribing_keeps_pushing_joins():
    from tiderace.topics.client.subscriptions import ClientSubscriptions
    from tiderace.topics.names import events_group

    def end(original, self, subscription):
        subscription.groups.discard(events_group(subscription.channel))
        original(self, subscription)

    around(ClientSubscriptions, "_end", end)


@mutant
def unsubscribing_keeps_delivering():
    from tiderace.protocol.messages import Empty
    from tiderace.topics.client.subscriptions import ClientSubscriptions

    async def unsubscribe(self, request):
        return Empty()

    ClientSubscriptions.unsubscribe = unsubscribe


# Asking


def _asking(**changed: Any) -> None:
    from tiderace.topics.client.commands import COMMANDS

    original = COMMANDS["history"]

    def history(context, request):
        for name, value in changed.items():
            setattr(request, name, value)
        return original(context, request)

    COMMANDS["history"] = history


@mutant
def history_is_never_reversed():
    _asking(reverse=False)


@mutant
def history_has_no_beginning():
    _asking(since=None)


@mutant
def presence_is_empty():
    from tiderace.presence.tracker import PresenceTracker

    async def members(self, *args):
        return {}

    PresenceTracker.members = members


@mutant
def joins_are_not_pushed():
    from tiderace.topics.fanout import dispatcher

    dispatcher._dispatch_event = lambda *args: None


# Who may what


@mutant
def a_bad_token_closes_with_another_code():
    from tiderace.protocol import codes

    codes.CLOSE_INVALID_TOKEN = codes.CLOSE_SERVER_ERROR


@mutant
def positions_are_accepted_unsigned():
    from tiderace.history import Position

    # ``positions`` of the package is its function.
    positions = import_module("tiderace.topics.positions")

    def read(original, topic, position):
        epoch = position.epoch.split(".")[0]
        return Position(epoch, position.offset), True

    around(positions, "_read", read)


@mutant
def a_signed_position_is_good_for_earlier_offsets():
    # ``positions`` of the package is its function.
    positions = import_module("tiderace.topics.positions")

    def read(original, topic, position):
        place, _ = original(topic, position)
        return place, place.epoch != position.epoch

    around(positions, "_read", read)


@mutant
def a_signed_position_is_good_for_every_topic():
    # ``positions`` of the package is its function.
    positions = import_module("tiderace.topics.positions")

    around(positions, "_mac", lambda original, topic, *rest: original("", *rest))


@mutant
def expired_tokens_are_good():
    from jwt.api_jwt import PyJWT

    PyJWT._validate_exp = lambda self, *args, **kwargs: None


@mutant
def signatures_are_not_checked():
    from jwt.api_jws import PyJWS

    PyJWS._verify_signature = lambda self, *args, **kwargs: None


@mutant
def a_token_is_good_for_every_topic():
    from tiderace.security import keys
    from tiderace.topics import identity

    def read(original, token, *, user_id, channel):
        said = keys.decode(token).get("channel", channel)
        return original(token, user_id=user_id, channel=said)

    around(identity, "read_subscription_token", read)


@mutant
def every_client_may_subscribe():
    from tiderace.topics.client import context

    async def refusal(*args, **kwargs):
        return None

    context.refusal = refusal


@mutant
def signatures_of_keys_with_an_id_are_not_checked():
    from tiderace.security import keys

    def claims(original, jwt, token, key):
        if key.id:
            return jwt.decode(token, options={"verify_signature": False})
        return original(jwt, token, key)

    around(keys, "_claims", claims)


@mutant
def a_topic_that_requires_a_token_takes_clients_without():
    from tiderace.topics.client import subscriptions

    def authorize(original, context, topic, token):
        topic.require_token = False
        return original(context, topic, token)

    around(subscriptions, "authorize", authorize)


@mutant
def a_signed_name_is_good_for_a_shorter_one():
    from tiderace.topics import identity

    def read(original, token, **kwargs):
        signed = original(token, **kwargs)
        return signed._replace(topic=token.partition("--")[0])

    around(identity, "read_signed_name", read)


def _without_hook(action: str) -> None:
    from tiderace.topics import permissions

    permissions._HOOKS[permissions.Action(action)] = "no method has this name"


@mutant
def can_read_history_is_not_called():
    _without_hook("history")


@mutant
def can_see_presence_is_not_called():
    _without_hook("presence")


@mutant
def a_client_whose_connect_was_refused_may_go_on():
    from tiderace.protocol.session import Session

    def refuse_connect(self, *, temporary):
        self.connected = True

    Session.refuse_connect = refuse_connect


@mutant
def a_connection_outlives_the_token_of_its_refresh():
    from tiderace.topics.client.client import TopicClient

    async def refresh(original, self, request):
        self._restart_expiry = lambda: self._timers.cancel_timer("expiry")
        return await original(self, request)

    around(TopicClient, "_refresh", refresh)


@mutant
def a_subscription_outlives_the_token_of_its_refresh():
    from tiderace.topics.client.subscriptions import ClientSubscriptions

    async def refresh(original, self, request):
        result = await original(self, request)
        self._timers.cancel_timer(f"sub:{request.channel}")
        return result

    around(ClientSubscriptions, "refresh", refresh)


@mutant
def a_connection_outlives_its_token():
    from tiderace.topics.client.client import TopicClient

    TopicClient._restart_expiry = lambda self: None


@mutant
def a_subscription_outlives_its_token():
    from tiderace.topics.client.subscriptions import ClientSubscriptions

    ClientSubscriptions._start_expiry = lambda self, *args: None


# Liveness and limits


@mutant
def pings_come_ten_times_too_late():
    from tiderace.topics.client.heartbeat import Heartbeat

    def init(original, self, interval, patience, loop):
        original(self, interval * 10, patience, loop)

    around(Heartbeat, "__init__", init)


@mutant
def pings_over_http_need_no_answer():
    from tiderace.topics.client.client import TopicClient

    def check_answer(original, self):
        if not self.transport.emulated:
            original(self)

    around(TopicClient, "_check_answer", check_answer)


@mutant
def a_slow_command_makes_pongs_late():
    from tiderace.topics.client.client import TopicClient

    def check_answer(original, self):
        self._reader.waiting = True
        original(self)

    around(TopicClient, "_check_answer", check_answer)


@mutant
def a_client_that_leaves_during_a_command_is_not_noticed():
    from tiderace.topics.client.reader import ClientReader

    around(ClientReader, "_check", lambda original, self, count: None)


@mutant
def there_are_no_pings():
    from tiderace.topics.client.client import TopicClient

    TopicClient.next_ping = lambda self: None


@mutant
def pings_need_no_answer():
    from tiderace.protocol.session import Session

    def next_ping(original, self):
        frame = original(self)
        self.pong_due = False
        return frame

    around(Session, "next_ping", next_ping)


@mutant
def any_number_of_bytes_may_wait():
    from tiderace.topics.fanout.outbox import ClientOutbox

    def init(original, self, *args, limit, **kwargs):
        original(self, *args, limit=2**60, **kwargs)

    around(ClientOutbox, "__init__", init)


@mutant
def messages_may_be_of_any_length():
    from tiderace.protocol.session import Session

    def init(original, self, *args, frame_size, **kwargs):
        original(self, *args, frame_size=2**60, **kwargs)

    around(Session, "__init__", init)


@mutant
def the_server_has_no_limit_for_messages():
    from tiderace.topics.transports import websocket

    websocket._MAX_SIZE = "what no server says"


@mutant
def a_repeated_key_does_not_wait():
    from tiderace.runtime.single_flight import SingleFlight

    async def do(self, key, work):
        await work()

    SingleFlight.do = do


@mutant
def another_port_is_the_same_origin():
    from tiderace.security import page_origins

    page_origins.may_be_own_page = lambda *args: True


@mutant
def an_unknown_session_takes_commands():
    from tiderace.topics.transports import emulation

    async def deliver(*args):
        return emulation.ACCEPTED

    emulation.deliver = deliver


@mutant
def any_user_may_use_a_session():
    from tiderace.topics.transports import emulation

    def feed(original, transport, payload):
        return original(transport, {**payload, "user": transport.user_id})

    around(emulation, "_feed", feed)
