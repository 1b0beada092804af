"""Tests of tickets and tokens for consumers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from support.clients.asgi_client import Client
from support.servers.asgi_process import SERVERS, AsgiProcess
from support.waiting import settle
from tiderace.auth import AuthMiddlewareStack
from tiderace.exceptions import TokenInvalid
from tiderace.generic.http import AsyncHttpConsumer
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.security import bearer
from tiderace.security.bearer import TicketAuthMiddleware, TokenAuthMiddleware
from tiderace.topics.tokens import (
    connection_token,
    read_connection_token,
    subscription_token,
    ticket,
)

DENIAL = {"websocket.http.response": {}}
GOOD = "tiderace.ticket.good"


class Tickets(TicketAuthMiddleware):
    """Takes every ticket that ends in ``good``, and notes what it was asked."""

    def __init__(self, inner, **options):
        super().__init__(inner, **options)
        self.asked = []

    async def authenticate(self, text, *, only_once):
        self.asked.append((text, only_once))
        if not text.endswith("good"):
            raise TokenInvalid("it does not end in good")
        return SimpleNamespace(name="ada"), None


class Site:
    """Accepts, says who is there, and keeps the scope it was served with."""

    def __init__(self, subprotocol=None):
        self.scope = None
        self.subprotocol = subprotocol

    async def __call__(self, scope, receive, send):
        self.scope = scope
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        while (event := await receive())["type"] != "websocket.disconnect":
            if event["type"] == "websocket.connect":
                await send(
                    {"type": "websocket.accept", "subprotocol": self.subprotocol}
                )
            else:
                await send({"type": "websocket.send", "text": event["text"]})


def protocols(*offered):
    text = ", ".join(offered).encode()
    return {
        "subprotocols": list(offered),
        "headers": [(b"host", b"x"), (b"sec-websocket-protocol", text)],
    }


# Where a ticket may stand


async def test_a_ticket_subprotocol_is_never_echoed():
    site = Site()
    client = Client(Tickets(site), **protocols("tiderace", GOOD))
    await client.connect()

    assert site.scope["user"].name == "ada"
    assert site.scope["subprotocols"] == ["tiderace"]
    assert client.sent[0]["subprotocol"] == "tiderace"
    assert GOOD not in repr(site.scope)
    assert GOOD not in repr(client.scope)
    await client.leave()


async def test_the_subprotocol_of_the_application_is_accepted():
    site = Site("chat")
    client = Client(Tickets(site), **protocols("chat", GOOD, "tiderace"))
    await client.connect()

    assert client.sent[0]["subprotocol"] == "chat"
    assert dict(site.scope["headers"])[b"sec-websocket-protocol"] == b"chat, tiderace"
    await client.leave()


async def test_a_ticket_as_the_only_subprotocol_is_not_echoed_and_logs_a_warning(
    caplog,
):
    site = Site()
    offer = protocols(GOOD)
    offer["headers"].append((b"origin", b"https://example.com"))
    client = Client(Tickets(site), **offer)
    await client.connect()

    assert client.sent[0]["subprotocol"] is None
    assert b"sec-websocket-protocol" not in dict(site.scope["headers"])
    assert "new WebSocket(url, ['tiderace', ticket])" in caplog.text
    assert GOOD not in caplog.text
    await client.leave()


async def test_a_ticket_in_the_authorization_header_is_accepted():
    site = Site()
    headers = [(b"authorization", b"Ticket " + GOOD.encode())]
    client = Client(Tickets(site), headers=headers)
    await client.connect()

    assert site.scope["user"].name == "ada"
    await client.leave()


async def test_another_authorization_scheme_is_ignored():
    site = Site()
    middleware = Tickets(site)
    client = Client(middleware, headers=[(b"authorization", b"Bearer " + b"good")])
    await client.connect()

    assert middleware.asked == []
    assert "user" not in site.scope
    await client.leave()


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (b"ticket=%s", b""),
        (b"a=1&ticket=%s&b=%%20", b"a=1&b=%20"),
        (b"ticket=%s&ticket=other", b""),
    ],
)
async def test_a_ticket_is_removed_from_the_query(query, left):
    site = Site()
    middleware = Tickets(site)
    client = Client(middleware, query_string=query % GOOD.encode())
    await client.connect()

    assert middleware.asked == [(GOOD, True)]
    assert site.scope["query_string"] == left
    assert client.scope["query_string"] == left
    await client.leave()


async def test_a_subprotocol_takes_precedence_over_a_query_and_both_are_removed():
    site = Site()
    middleware = Tickets(site)
    client = Client(middleware, query_string=b"ticket=bad", **protocols("x", GOOD))
    await client.connect()

    assert middleware.asked == [(GOOD, False)]
    assert site.scope["query_string"] == b""
    await client.leave()


async def test_an_http_request_can_use_a_ticket():
    site = Site()
    client = Client(Tickets(site), type="http", query_string=b"ticket=good")
    await client.end()

    assert site.scope["user"].name == "ada"


# Refusals


@pytest.mark.parametrize("extensions", [{}, DENIAL], ids=["plain", "denial"])
async def test_a_bad_ticket_refuses_the_handshake(extensions, caplog):
    site = Site()
    client = Client(
        Tickets(site), query_string=b"ticket=hush-hush", extensions=extensions
    )
    client.say("websocket.connect")
    await client.end()

    if extensions:
        assert client.sent[0]["status"] == 401
    else:
        assert client.sent == [{"type": "websocket.close"}]
    assert site.scope is None
    assert "it does not end in good" in caplog.text
    assert "hush" not in caplog.text
    assert "hush" not in repr(client.sent)


async def test_a_bad_ticket_refuses_a_request():
    site = Site()
    client = Client(Tickets(site), type="http", query_string=b"ticket=")
    await client.end()

    assert client.sent[0]["status"] == 401
    assert site.scope is None


async def test_a_disconnected_client_is_not_refused():
    client = Client(Tickets(Site()), query_string=b"ticket=bad")
    await client.leave()

    assert client.sent == []


async def test_a_connection_without_a_ticket_is_anonymous_unless_one_is_required():
    free, strict = Site(), Site()
    client = Client(Tickets(free))
    await client.connect()
    await client.leave()
    refused = Client(Tickets(strict, required=True), extensions=DENIAL)
    refused.say("websocket.connect")
    await refused.end()

    assert "user" not in free.scope
    assert strict.scope is None
    assert refused.sent[0]["status"] == 401


async def test_other_types_of_connection_are_passed_through():
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    await Tickets(inner, required=True)({"type": "lifespan"}, None, None)

    assert seen == ["lifespan"]


# The first message


@pytest.mark.parametrize("message", ['{"ticket": "x-good"}', "x-good", " x-good\n"])
async def test_the_first_message_can_be_the_ticket(message):
    site = Site()
    client = Client(Tickets(site, first_message=True), extensions=DENIAL)
    await client.connect()
    assert site.scope is None

    client.text(message)
    client.text("hello")
    await client.until("websocket.send")

    assert site.scope["user"].name == "ada"
    assert site.scope["extensions"] == {}
    assert client.kinds == ["websocket.accept", "websocket.send"]
    assert client.texts == ["hello"]
    await client.leave()


async def test_the_subprotocol_is_accepted_before_the_first_message():
    client = Client(Tickets(Site(), first_message=True), subprotocols=["a", "tiderace"])
    await client.connect()

    assert client.sent[0]["subprotocol"] == "tiderace"
    await client.leave()


@pytest.mark.parametrize(
    "message",
    [
        "bad",
        '{"ticket": "bad"}',
        '{"ticket": 7}',
        "{}",
        "{",
        '{"a":' * 3000,
        "",
        "x" * 9000,
    ],
    ids=range(8),
)
async def test_another_first_message_closes_the_socket(message):
    site = Site()
    client = Client(Tickets(site, first_message=True))
    await client.connect()

    client.text(message)
    await client.end()

    assert client.sent[-1]["code"] == 4401
    assert site.scope is None


async def test_a_binary_first_message_closes_the_socket():
    client = Client(Tickets(Site(), first_message=True))
    await client.connect()

    client.say("websocket.receive", bytes=b"good")
    await client.end()

    assert client.sent[-1]["code"] == 4401


async def test_a_missing_first_message_closes_the_socket(caplog):
    client = Client(Tickets(Site(), first_message=True, timeout=0.01))
    await client.connect()
    await client.end()

    assert client.sent[-1]["code"] == 4401
    assert "did not come in time" in caplog.text


async def test_a_first_message_that_came_while_the_loop_was_blocked_is_in_time():
    client = Client(Tickets(Site(), first_message=True, timeout=0.05))
    await client.connect()
    time.sleep(0.4)  # noqa: ASYNC251
    # The timers that are due run, and then the sockets are read.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await client.leave()

    assert client.kinds == ["websocket.accept"]


async def test_a_client_that_disconnects_before_the_first_message_starts_no_consumer():
    site = Site()
    early = Client(Tickets(site, first_message=True))
    await early.leave()
    late = await Client(Tickets(site, first_message=True)).open()
    await late.leave()

    assert (site.scope, early.sent, late.kinds) == (None, [], ["websocket.accept"])


async def test_a_consumer_that_refuses_after_the_first_message_closes_with_4403():
    async def refuse(scope, receive, send):
        await receive()
        await send({"type": "websocket.close"})

    client = Client(Tickets(refuse, first_message=True))
    await client.connect()
    client.text("good")
    await client.end()

    assert client.sent[-1]["code"] == 4403


async def test_a_consumer_that_closes_later_closes_with_its_own_code():
    async def close(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000})

    client = Client(Tickets(close, first_message=True))
    await client.connect()
    client.text("good")
    await client.end()

    assert client.sent[-1]["code"] == 4000


# Real tickets, tokens and users


class WhoAmI(AsyncWebsocketConsumer):
    async def connect(self):
        await self.accept()
        auth = self.scope["auth"]
        await self.send(f"{self.scope['user']} {auth and auth.info}")


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def user(transactional_db):
    return User.objects.create_user("ada", password="lovelace")


def app(middleware=TokenAuthMiddleware):
    return middleware(AuthMiddlewareStack(WhoAmI.as_asgi()))


def with_token(token):
    return protocols("tiderace", f"tiderace.token.{token}")


async def answer(**scope):
    client = await Client(app(), **scope).open()
    await client.until("websocket.send")
    await client.leave()
    return client.texts[0]


async def refused(**scope):
    client = Client(app(), extensions=DENIAL, **scope)
    client.say("websocket.connect")
    await client.end()
    return client.sent[0]["type"], client.sent[0].get("status")


NO = ("websocket.http.response.start", 401)


async def test_a_ticket_authenticates_its_user_once(user):
    one = await sync_to_async(ticket)(user)

    assert await answer(query_string=b"ticket=" + one.encode()) == "ada None"
    assert await refused(query_string=b"ticket=" + one.encode()) == NO


async def test_a_ticket_for_several_uses_is_refused_in_a_url(user):
    several = await sync_to_async(ticket)(user, once=False)

    assert await refused(query_string=b"ticket=" + several.encode()) == NO
    assert await answer(**protocols("tiderace", several)) == "ada None"


async def test_a_token_authenticates_its_user(user):
    token = connection_token(user, info={"seat": 4})
    header = [(b"authorization", b"bearer " + token.encode())]

    assert await answer(**with_token(token)) == "ada {'seat': 4}"
    assert await answer(headers=header) == "ada {'seat': 4}"


async def test_a_token_can_be_the_first_message(user):
    made = TokenAuthMiddleware(WhoAmI.as_asgi(), first_message=True)
    client = await Client(made).open()
    client.text(json.dumps({"token": connection_token(user)}))
    await client.until("websocket.send")

    assert client.texts == ["ada None"]
    await client.leave()


async def test_a_token_is_refused_in_a_url(user):
    token = connection_token(user).encode()

    assert await refused(query_string=b"ticket=" + token) == NO


async def test_a_token_without_a_user_is_anonymous(user):
    assert await answer(**with_token(connection_token(None))) == "AnonymousUser None"


async def test_a_token_of_a_deactivated_user_is_refused(user):
    token = connection_token(user)
    await User.objects.aupdate(is_active=False)

    assert await refused(**with_token(token)) == NO


async def test_a_subscription_token_is_refused_to_connect(user):
    token = subscription_token(user, "room:tea")

    assert await refused(**with_token(token)) == NO


async def test_ticket_middleware_refuses_tokens(user):
    site = Site()
    header = [(b"authorization", b"Bearer " + connection_token(user).encode())]
    client = Client(TicketAuthMiddleware(site, required=True), headers=header)
    client.say("websocket.connect")
    await client.end()

    assert site.scope is None


async def test_a_socket_ends_with_its_token(user, monkeypatch):
    token = connection_token(user, ttl=600)
    now = time.time()
    client = await Client(app(), **with_token(token)).open()
    await client.until("websocket.send")
    assert "websocket.close" not in client.kinds
    await client.leave()

    # Half a second before its end.
    later = SimpleNamespace(time=lambda: now + 599.95)
    monkeypatch.setattr(bearer, "time", later)
    client = await Client(app(), **with_token(token)).open()
    closed = await client.until("websocket.close")

    assert (closed["code"], closed["reason"]) == (4401, "expired")
    await client.leave(4401)


async def test_nothing_is_sent_after_a_token_has_expired(user, monkeypatch):
    async def talkative(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await done.wait()
        await send({"type": "websocket.send", "text": "late"})

    done = asyncio.Event()
    now = time.time()
    monkeypatch.setattr(bearer, "time", SimpleNamespace(time=lambda: now + 700))
    token = connection_token(user, ttl=600)
    client = await Client(TokenAuthMiddleware(talkative), **with_token(token)).open()
    await client.until("websocket.close")
    done.set()
    await client.end()

    assert client.kinds == ["websocket.accept", "websocket.close"]


async def test_a_close_that_fails_at_the_end_of_a_token_is_no_error(user, monkeypatch):
    done = asyncio.Event()

    async def patient(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await done.wait()

    now = time.time()
    monkeypatch.setattr(bearer, "time", SimpleNamespace(time=lambda: now + 599.95))
    token = connection_token(user, ttl=600)
    client = await Client(TokenAuthMiddleware(patient), **with_token(token)).open()
    client.fail_with = OSError("gone")
    loop = asyncio.get_running_loop()
    loop.call_later(0.1, done.set)
    await client.end()

    assert client.kinds == ["websocket.accept"]


def request(token):
    headers = [(b"authorization", b"Bearer " + token.encode())]
    return {"type": "http", "method": "GET", "headers": headers}


@pytest.fixture
def last_half_second(user, monkeypatch):
    """A token whose end comes half a second later, for the middleware."""
    token = connection_token(user, ttl=600)
    end = read_connection_token(token).expires_at
    monkeypatch.setattr(bearer, "time", SimpleNamespace(time=lambda: end - 0.5))
    return token


async def test_a_streamed_response_ends_with_its_token(last_half_second):
    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            await asyncio.sleep(0.01)

    client = Client(TokenAuthMiddleware(endless), **request(last_half_second))
    client.say("http.request", body=b"")
    await client.end()

    assert client.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_a_consumer_ends_with_the_token_of_its_request(last_half_second):
    class Feed(AsyncHttpConsumer):
        async def handle(self, body):
            await self.send_headers()
            await self.send_body(b"1", more_body=True)
            await asyncio.Event().wait()

        async def disconnect(self):
            ended.append(True)

    ended = []
    app = TokenAuthMiddleware(Feed.as_asgi())
    client = Client(app, **request(last_half_second))
    client.say("http.request", body=b"")
    await client.end()

    assert ended == [True]
    assert client.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_nothing_follows_the_end_of_a_response(last_half_second):
    async def stubborn(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await asyncio.Event().wait()
        finally:
            await send({"type": "http.response.body", "body": b"late"})

    client = Client(TokenAuthMiddleware(stubborn), **request(last_half_second))
    await client.end()

    assert client.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_a_request_that_waits_past_its_token_gets_401(last_half_second):
    async def waiting(scope, receive, send):
        await asyncio.Event().wait()

    client = Client(TokenAuthMiddleware(waiting), **request(last_half_second))
    await client.end()

    assert [event.get("status") for event in client.sent] == [401, None]


async def test_a_finished_response_is_left_alone(last_half_second):
    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        await asyncio.Event().wait()

    client = Client(TokenAuthMiddleware(answer), **request(last_half_second))
    await client.end()

    assert client.sent[-1]["body"] == b"done"


async def test_a_token_within_the_leeway_still_gets_an_answer(user, monkeypatch):
    async def answer(scope, receive, send):
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    token = connection_token(user, ttl=600)
    now = time.time()
    monkeypatch.setattr(bearer, "time", SimpleNamespace(time=lambda: now + 602))
    client = Client(TokenAuthMiddleware(answer), **request(token))
    await client.end()

    assert client.sent[0]["status"] == 200


async def test_no_secret_reaches_the_log(user, caplog):
    caplog.set_level(logging.DEBUG)
    one = await sync_to_async(ticket)(user)
    token = connection_token(user)
    await answer(query_string=b"ticket=" + one.encode())
    await refused(query_string=b"ticket=" + one.encode())
    await refused(query_string=b"ticket=" + token.encode())
    await refused(**with_token(token[:-4] + "AAAA"))
    await settle()

    said = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert one[20:40] not in said
    assert token.split(".")[1][:20] not in said


@pytest.mark.parametrize("as_message", [True, False])
async def test_no_frame_of_a_traceback_has_the_token(user, as_message):
    async def broken(scope, receive, send):
        raise ZeroDivisionError

    token = connection_token(user)
    app = TokenAuthMiddleware(broken, first_message=True)
    client = Client(app, **({} if as_message else with_token(token)))
    client.say("websocket.connect")
    if as_message:
        client.text(token)
    trace = traceback.TracebackException.from_exception(
        await client.error(), capture_locals=True
    )
    frames = [each for each in trace.stack if each.filename == bearer.__file__]

    assert frames
    assert token not in repr([each.locals for each in frames])


# Real servers


@pytest.mark.servers
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_accepts_a_ticket_and_its_subprotocol_and_logs_no_secret(server):
    secret = "tiderace.ticket.hush-good"
    with AsgiProcess(server, "sites.ticket_site:application") as process:
        with connect(process.ws, subprotocols=["tiderace", secret]) as socket:
            socket.send("?")
            first = json.loads(socket.recv(timeout=10))
            chosen = socket.subprotocol
        with connect(f"{process.ws}/?a=1&ticket={secret}") as socket:
            socket.send("?")
            second = json.loads(socket.recv(timeout=10))
        with pytest.raises(InvalidStatus) as caught:
            connect(f"{process.ws}/?ticket=hush-bad")
        log = process.output()

    assert (chosen, first["protocols"]) == ("tiderace", ["tiderace"])
    assert second["query"] == "a=1"
    assert "hush" not in repr([first, second])
    assert caught.value.response.status_code in (401, 403)
    assert "hush" not in log
