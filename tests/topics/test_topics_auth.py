"""The user of a topic client, the expiry of tokens, and revocation."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import jwt
import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.sessions.backends.db import SessionStore

from support.clients.wire_client import WireClient
from tiderace.auth import AuthMiddlewareStack, login, logout
from tiderace.db import database_sync_to_async
from tiderace.runtime.threads import ConnectionThread
from tiderace.topics import (
    AllowAny,
    HasPerm,
    History,
    IsAuthenticated,
    Presence,
    Topic,
    TopicsEndpoint,
    apresence,
    apublish,
)
from tiderace.topics.tokens import (
    connection_token,
    signed_topic,
    subscription_token,
    ticket,
)

SECRET = "a secret that is long enough for HS256"


@pytest.fixture(autouse=True)
def site(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }
    settings.TIDERACE = {
        "TOKEN_KEYS": [{"algorithm": "HS256", "key": SECRET}],
        "TOPICS": {"USERS": "claims"},
    }


@pytest.fixture
def app(own_topics):
    class Open(Topic):
        pattern = "open:<slug:name>"
        permission_classes = [AllowAny]
        history = History()

    class Secret(Topic):
        pattern = "secret:<slug:name>"
        require_token = True

        history = History()
        presence = Presence.PER_CONNECTION
        push_joins = True

        async def can_publish(self, user):
            return True

    class Both(Topic):
        pattern = "both:<slug:name>"
        require_token = True
        permission_classes = [AllowAny]

    class Mine(Topic):
        pattern = "mine:<str:user>"
        permission_classes = [IsAuthenticated]

        async def can_subscribe(self, user):
            return str(user.pk) == self.kwargs["user"]

        @classmethod
        def topics_for(cls, user):
            return [f"mine:{user.pk}"] if user.is_authenticated else []

    class Staff(Topic):
        pattern = "staff"
        permission_classes = [HasPerm("auth.view_user")]

    return TopicsEndpoint.as_asgi()


def token(key=SECRET, algorithm="HS256", **claims):
    return jwt.encode({"sub": "7", **claims}, key, algorithm=algorithm)


def person(pk="7"):
    return SimpleNamespace(pk=pk, is_authenticated=True, is_active=True)


# By session


async def test_a_visitor_without_a_session_needs_no_thread(own_topics, monkeypatch):
    class Open(Topic):
        pattern = "open:<slug:name>"
        permission_classes = [AllowAny]
        history = History()

        async def can_publish(self, user):
            return True

    jobs = []
    submit = ConnectionThread.submit

    def record(thread, function, /, *args, **kwargs):
        jobs.append(function)
        return submit(thread, function, *args, **kwargs)

    monkeypatch.setattr(ConnectionThread, "submit", record)

    async with WireClient(AuthMiddlewareStack(TopicsEndpoint.as_asgi())) as client:
        await client.subscribe("open:a")
        await client.done("publish", channel="open:a", data=1)

    assert jobs == []


# By token


async def test_a_token_identifies_the_user(app):
    async with WireClient(app, connect={"token": token()}) as client:
        assert list(client.connected["connect"]["subs"]) == ["mine:7"]


async def test_the_reply_contains_the_ttl_of_the_token(app):
    async with WireClient(
        app, connect={"token": token(exp=int(time.time()) + 100)}
    ) as client:
        result = client.connected["connect"]

        assert result["expires"] is True
        assert 98 <= result["ttl"] <= 100


@pytest.mark.parametrize("expiry", [9_999_999_999, 1e300])
async def test_the_ttl_of_a_token_that_expires_late_has_31_bits(app, expiry):
    # Protobuf has 32 bits for it, and no more.
    async with WireClient(app, connect={"token": token(exp=expiry)}) as client:
        assert client.connected["connect"]["ttl"] == 2**31 - 1


async def test_an_expired_token_is_an_error_so_that_a_fresh_one_is_fetched(app):
    async with WireClient(
        app, connect={"token": token(exp=int(time.time()) - 100)}
    ) as client:
        assert client.connected["error"]["code"] == 109


async def test_a_client_with_a_token_that_is_not_valid_yet_may_try_again(app):
    later = token(nbf=int(time.time()) + 100)
    async with WireClient(app, connect={"token": later}) as client:
        assert client.connected["error"]["temporary"]

    async with WireClient(app, connect={"token": token()}) as client:
        later = token(nbf=int(time.time()) + 100, channel="open:a")
        reply = await client.ask("subscribe", channel="open:a", token=later)
        assert reply["error"]["temporary"]


@pytest.mark.parametrize(
    "wrong",
    [
        "nonsense",
        "a.b.c",
        token(key="another secret that is long enough"),
        jwt.encode({"sub": "7"}, None, algorithm="none"),
        token(channel="open:a"),
        token() + "x",
        "x" * 20_000,
    ],
    ids=["text", "dots", "key", "none", "kind", "tampered", "long"],
)
async def test_an_invalid_token_closes_the_connection_for_good(app, wrong, caplog):
    async with WireClient(app, connect=None) as client:
        await client.say({"id": 1, "connect": {"token": wrong}})

        assert (await client.closed())[0] == 3500
    assert wrong not in caplog.text


async def test_a_line_break_in_a_topic_name_forges_no_line_of_the_log(app, caplog):
    caplog.set_level("INFO", "tiderace.topics")
    name = "mine:x\nERROR forged\x1b[2J"

    async with WireClient(app) as client:
        await client.refused("subscribe", channel=name, token="nonsense")

    assert "forged" in caplog.text
    assert name not in caplog.text
    assert not any(line.startswith("ERROR forged") for line in caplog.text.split("\n"))


async def test_a_token_subscribes_to_its_topics(app):
    async with WireClient(
        app, connect={"token": token(sub="", channels=["secret:a"])}
    ) as client:
        assert list(client.connected["connect"]["subs"]) == ["secret:a"]
        await apublish("secret:a", 1)
        assert await client.publications(1) == [1]


async def test_a_subscription_from_the_server_recovers_too(app):
    connect = {"token": token(sub="", channels=["open:a"])}
    async with WireClient(app, connect=connect) as client:
        before = client.connected["connect"]["subs"]["open:a"]
    await apublish("open:a", 1)
    position = {"recover": True, "epoch": before["epoch"], "offset": 0}
    connect["subs"] = {"open:a": position}
    async with WireClient(app, connect=connect) as client:
        result = client.connected["connect"]["subs"]["open:a"]

        assert result["recovered"] is True
        assert [pub["data"] for pub in result["publications"]] == [1]


async def test_claims_of_a_client_about_its_subscriptions_are_ignored(app):
    connect = {"subs": {"open:a": {}, "secret:a": {}}}
    async with WireClient(app, connect=connect) as client:
        assert "subs" not in client.connected["connect"]


async def test_a_connection_is_refreshed_with_a_newer_token(app):
    connect = {"token": token(exp=int(time.time()) + 50)}
    async with WireClient(app, connect=connect) as client:
        newer = token(exp=int(time.time()) + 500)
        result = await client.done("refresh", token=newer)

        assert 490 <= result["ttl"] <= 500


async def test_a_newer_token_of_another_user_closes_the_connection(app):
    async with WireClient(app, connect={"token": token()}) as client:
        await client.say({"id": 2, "refresh": {"token": token(sub="8")}})

        assert (await client.closed())[0] == 3500


async def test_an_expired_newer_token_is_an_error(app):
    async with WireClient(app, connect={"token": token()}) as client:
        old = token(exp=int(time.time()) - 60)

        assert await client.refused("refresh", token=old) == 109


async def test_a_connection_whose_token_expired_is_closed(app, monkeypatch):
    monkeypatch.setattr("tiderace.topics.client.timers._GRACE", -9.5)
    connect = {"token": connection_token(person(), ttl=10)}
    async with WireClient(app, connect=connect) as client:
        assert "connect" in client.connected
        assert await client.closed() == (3005, "connection expired")


# For one topic


async def test_a_topic_that_requires_a_token_refuses_a_client_without_one(app):
    async with WireClient(app, connect={"token": token()}) as client:
        assert await client.refused("subscribe", channel="secret:a") == 103
        await client.subscribe(
            "secret:a", token=subscription_token(person(), "secret:a")
        )


@pytest.mark.parametrize(
    ("made_for", "code"),
    [
        ({"sub": "7", "channel": "secret:b"}, 103),
        ({"sub": "8", "channel": "secret:a"}, 103),
        ({"sub": "7"}, 103),
        ({"sub": "7", "channel": "secret:a", "exp": 1}, 109),
    ],
    ids=["topic", "user", "kind", "expired"],
)
async def test_a_token_for_another_purpose_is_refused(app, made_for, code):
    wrong = jwt.encode(made_for, SECRET, algorithm="HS256")
    async with WireClient(app, connect={"token": token()}) as client:
        assert (
            await client.refused("subscribe", channel="secret:a", token=wrong) == code
        )


async def test_a_signed_topic_name_allows_to_subscribe(app):
    async with WireClient(app) as client:
        signed = signed_topic("secret:a")
        assert (
            await client.refused("subscribe", channel="secret:b", token=signed) == 103
        )
        forged = signed[:-1] + ("0" if signed[-1] != "0" else "1")
        assert (
            await client.refused("subscribe", channel="secret:a", token=forged) == 103
        )
        await client.subscribe("secret:a", token=signed)


async def test_a_topic_name_signed_for_one_user_is_refused_for_others(app):
    signed = signed_topic("secret:a", user=person("8"))
    async with WireClient(app, connect={"token": token()}) as client:
        assert (
            await client.refused("subscribe", channel="secret:a", token=signed) == 103
        )
    async with WireClient(app, connect={"token": token(sub="8")}) as client:
        await client.subscribe("secret:a", token=signed)


async def test_a_subscription_is_refreshed_with_a_newer_token(app):
    async with WireClient(app, connect={"token": token()}) as client:
        made = subscription_token(person(), "secret:a", ttl=50)
        result = await client.subscribe("secret:a", token=made)
        assert 45 <= result["ttl"] <= 50
        newer = subscription_token(person(), "secret:a", ttl=500)
        result = await client.done("sub_refresh", channel="secret:a", token=newer)

        assert 490 <= result["ttl"] <= 500


async def test_a_subscription_whose_token_expired_ends_alone(app, monkeypatch):
    monkeypatch.setattr("tiderace.topics.client.timers._GRACE", -9.5)
    made = subscription_token(person(), "secret:a", ttl=10)
    async with WireClient(app, connect={"token": token()}) as client:
        await client.subscribe("secret:a", token=made)
        push = await client.push("unsubscribe")

        assert push["unsubscribe"]["code"] == 2501
        assert await client.quiet()


async def test_a_subscription_ends_with_its_signed_name(app, monkeypatch):
    monkeypatch.setattr("tiderace.topics.client.timers._GRACE", -9.5)
    name = signed_topic("secret:a", ttl=10)
    async with WireClient(app, connect={"token": token()}) as client:
        result = await client.subscribe("secret:a", token=name)
        assert 8 <= result["ttl"] <= 10
        push = await client.push("unsubscribe")

        assert push["unsubscribe"]["code"] == 2501


async def test_a_newer_signed_name_renews_a_subscription(app):
    async with WireClient(app, connect={"token": token()}) as client:
        await client.subscribe("secret:a", token=signed_topic("secret:a", ttl=50))
        newer = signed_topic("secret:a", ttl=500)
        result = await client.done("sub_refresh", channel="secret:a", token=newer)

        assert 490 <= result["ttl"] <= 500


async def test_a_refreshed_subscription_ends_with_its_newer_token(app, monkeypatch):
    monkeypatch.setattr("tiderace.topics.client.timers._GRACE", -9.5)
    made = subscription_token(person(), "secret:a", ttl=500)
    newer = subscription_token(person(), "secret:a", ttl=10)
    async with WireClient(app, connect={"token": token()}) as client:
        await client.subscribe("secret:a", token=made)
        await client.done("sub_refresh", channel="secret:a", token=newer)

        assert (await client.push("unsubscribe"))["unsubscribe"]["code"] == 2501


async def test_a_refreshed_connection_ends_with_its_newer_token(app, monkeypatch):
    monkeypatch.setattr("tiderace.topics.client.timers._GRACE", -9.5)
    made = connection_token(person(), ttl=500)
    async with WireClient(app, connect={"token": made}) as client:
        newer = connection_token(person(), ttl=10)
        await client.done("refresh", token=newer)

        assert (await client.closed())[0] == 3005


async def test_a_required_token_is_required_besides_permissions(app):
    async with WireClient(app) as client:
        assert await client.refused("subscribe", channel="both:a") == 103
        signed = signed_topic("both:a")
        await client.subscribe("both:a", token=signed)


async def test_a_signed_name_is_refused_for_the_beginning_of_it(app):
    async with WireClient(app) as client:
        signed = signed_topic("secret:a--b")

        assert (
            await client.refused("subscribe", channel="secret:a", token=signed) == 103
        )


async def test_refreshing_an_unknown_subscription_is_a_bad_request(app):
    async with WireClient(app, connect={"token": token()}) as client:
        assert await client.refused("sub_refresh", channel="secret:a", token="x") == 107


# Headers of connect


async def test_a_client_cannot_send_the_headers_of_a_proxy(app):
    seen = {}

    class Endpoint(TopicsEndpoint):
        async def user_info(self, user, scope):
            seen["scope"] = scope

    claimed = {
        "Authorization": "Bearer x",
        "X-Forwarded-For": "1.2.3.4",
        "X-Remote-User": "admin",
        "Cookie": "sessionid=stolen",
        "Origin": "https://elsewhere",
    }
    async with WireClient(Endpoint.as_asgi(), connect={"headers": claimed}):
        names = [name for name, _ in seen["scope"]["headers"]]

    assert b"authorization" in names
    assert not {b"x-forwarded-for", b"x-remote-user", b"cookie", b"origin"} & set(names)


# With users of the database


@pytest.fixture
def users(settings, transactional_db):
    settings.TIDERACE = {"TOKEN_KEYS": [{"algorithm": "HS256", "key": SECRET}]}
    return get_user_model().objects


@pytest.fixture
def ada(users):
    return users.create_user("ada", password="x")


async def test_the_user_of_a_token_must_exist_and_be_active(app, users, ada):
    async with WireClient(app, connect={"token": connection_token(ada)}) as client:
        assert "connect" in client.connected
    ada.is_active = False
    await ada.asave()
    for made in (connection_token(ada), token(sub="999"), token(sub="nobody")):
        async with WireClient(app, connect=None) as client:
            await client.say({"id": 1, "connect": {"token": made}})
            assert (await client.closed())[0] == 3500


async def test_a_ticket_connects_once(app, ada):
    made = ticket(ada)
    async with WireClient(app, connect={"token": made}) as client:
        assert list(client.connected["connect"]["subs"]) == [f"mine:{ada.pk}"]
    async with WireClient(app, connect=None) as client:
        await client.say({"id": 1, "connect": {"token": made}})
        assert (await client.closed())[0] == 3500


async def logged_in(client, user):
    scope = client.socket.scope
    scope["session"] = SessionStore()
    await login(scope, user, backend="django.contrib.auth.backends.ModelBackend")
    await database_sync_to_async(scope["session"].save)()


async def test_logging_out_closes_the_connection_for_good(app, ada):
    client = WireClient(app)
    await logged_in(client, ada)
    async with client:
        await logout(client.socket.scope)

        assert await client.closed() == (3503, "logged out")


async def test_a_user_that_is_deactivated_is_closed_for_good(app, ada):
    client = WireClient(app)
    await logged_in(client, ada)
    async with client:
        ada.is_active = False
        await ada.asave()

        assert await client.closed() == (3503, "deactivated")


async def test_a_password_change_closes_older_connections(app, ada):
    async with WireClient(app, connect={"token": connection_token(ada)}) as client:
        ada.set_password("y")
        await ada.asave()

        assert await client.closed() == (3503, "password changed")


async def test_a_removed_permission_for_presence_ends_the_joins(app, ada):
    class Hall(Topic):
        pattern = "hall"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

        async def can_see_presence(self, user):
            return await user.ahas_perm("auth.view_user")

    permission = await Permission.objects.aget(codename="view_user")
    await ada.user_permissions.aadd(permission)
    async with WireClient(app, connect={"token": connection_token(ada)}) as client:
        await client.subscribe("hall", join_leave=True)
        await client.push("join")
        # Checked after the hall, so that its end shows when the check is over.
        await client.subscribe("staff")
        await ada.user_permissions.aremove(permission)
        await client.push("unsubscribe")

        async with WireClient(app) as other:
            await other.subscribe("hall")
        await apublish("hall", 1)

        assert (await client.push())["pub"]["data"] == 1


async def test_a_permission_for_presence_that_returns_begins_the_joins_again(app, ada):
    class Hall(Topic):
        pattern = "hall"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

        async def can_see_presence(self, user):
            return await user.ahas_perm("auth.view_user")

    permission = await Permission.objects.aget(codename="view_user")
    async with WireClient(app, connect={"token": connection_token(ada)}) as client:
        await client.subscribe("hall", join_leave=True)

        await ada.user_permissions.aadd(permission)
        push = await client.push("changed")
        async with WireClient(app) as other:
            await other.subscribe("hall")
            joined = await client.push("join")

    assert push == {"channel": "hall", "changed": {}}
    assert joined["join"]["info"]["client"] == other.id


async def test_a_permission_that_is_removed_while_a_client_subscribes_ends_the_joins(
    app, ada
):
    checks, checking, go_on = [], asyncio.Event(), asyncio.Event()

    class Hall(Topic):
        pattern = "hall"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

        async def can_see_presence(self, user):
            allowed = await user.ahas_perm("auth.view_user")
            checks.append(allowed)
            if allowed:
                checking.set()
                await go_on.wait()
            else:
                go_on.set()
            return allowed

    permission = await Permission.objects.aget(codename="view_user")
    await ada.user_permissions.aadd(permission)
    async with WireClient(app, connect={"token": connection_token(ada)}) as client:
        subscribing = asyncio.create_task(client.subscribe("hall", join_leave=True))
        await checking.wait()
        await ada.user_permissions.aremove(permission)
        await subscribing
        async with WireClient(app) as other:
            await other.subscribe("hall")
        await apublish("hall", 1)

        assert (await client.push())["pub"]["data"] == 1
    assert checks == [True, False]


async def test_may_receive_is_called_again_when_permissions_change(app, ada):
    class Desk(Topic):
        pattern = "desk"
        permission_classes = [AllowAny]

        async def may_receive(self, user, tags):
            return "secret" not in tags or await user.ahas_perm("auth.view_user")

    permission = await Permission.objects.aget(codename="view_user")
    await ada.user_permissions.aadd(permission)
    async with WireClient(app, connect={"token": connection_token(ada)}) as client:
        await client.subscribe("desk")
        await apublish("desk", 1, tags={"secret": "x"})
        assert await client.publications(1) == [1]
        # Checked after the desk, so that its end shows when the check is over.
        await client.subscribe("staff")

        await ada.user_permissions.aremove(permission)
        await client.push("unsubscribe")
        await apublish("desk", 2, tags={"secret": "x"})
        await apublish("desk", 3)

        assert await client.publications(1) == [3]


async def test_a_removed_permission_ends_its_subscriptions(app, ada):
    permission = await Permission.objects.aget(codename="view_user")
    await ada.user_permissions.aadd(permission)
    async with WireClient(app, connect={"token": connection_token(ada)}) as client:
        await client.subscribe("staff")
        await client.subscribe("open:a")
        await ada.user_permissions.aremove(permission)
        push = await client.push("unsubscribe")

        assert push["channel"] == "staff"
        assert push["unsubscribe"] == {"code": 2003, "reason": "permission denied"}
        await apublish("open:a", 1)
        assert await client.publications(1) == [1]


@pytest.mark.parametrize("broken", ["can_subscribe", "can_see_presence"])
async def test_a_permission_that_fails_when_it_is_checked_again_ends_its_subscription(
    app, ada, broken, caplog
):
    class Hall(Topic):
        pattern = "hall"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

    permission = await Permission.objects.aget(codename="view_user")
    await ada.user_permissions.aadd(permission)
    async with WireClient(app, connect={"token": connection_token(ada)}) as client:
        await client.subscribe("hall", join_leave=True)
        await client.push("join")
        await client.subscribe("staff")

        async def fail(self, user):
            raise RuntimeError("a bug of the application")

        setattr(Hall, broken, fail)
        await ada.user_permissions.aremove(permission)
        ended = [await client.push("unsubscribe") for _ in range(2)]

    codes = {push["channel"]: push["unsubscribe"]["code"] for push in ended}
    assert codes == {"hall": 2500, "staff": 2003}
    assert "a permission of 'hall' failed" in caplog.text


# What a token grants


async def test_the_info_of_a_subscription_token_is_seen_by_others(app):
    granted = subscription_token(person("7"), "secret:a", info={"seat": 4})
    watching = subscription_token(person("8"), "secret:a")
    connect = {"token": connection_token(person("7"), info={"name": "Ada"})}
    async with (
        WireClient(app, connect={"token": connection_token(person("8"))}) as other,
        WireClient(app, connect=connect) as client,
    ):
        await other.subscribe("secret:a", token=watching)
        await client.subscribe("secret:a", token=granted)
        await client.done("publish", channel="secret:a", data="hi")
        ada = {
            "user": "7",
            "client": client.id,
            "conn_info": {"name": "Ada"},
            "chan_info": {"seat": 4},
        }

        while (joined := (await other.push("join"))["join"]["info"])["user"] != "7":
            pass
        assert joined == ada
        assert (await client.push("pub"))["pub"]["info"] == ada
        members = await other.done("presence", channel="secret:a")
        assert members["presence"][client.id] == ada
        [info] = [each for each in await apresence("secret:a") if each.user_id == "7"]
        assert (info.info, info.chan_info) == ({"name": "Ada"}, {"seat": 4})


async def test_a_client_subscribed_by_a_token_may_read_and_publish(app):
    granted = subscription_token(person(), "secret:a")
    async with WireClient(app, connect={"token": token()}) as client:
        await client.subscribe("secret:a", token=granted)
        await client.done("publish", channel="secret:a", data="hi")

        history = await client.done("history", channel="secret:a", limit=1)
        assert [each["data"] for each in history["publications"]] == ["hi"]
        assert list((await client.done("presence", channel="secret:a"))["presence"])


async def test_the_options_of_topics_in_a_connection_token_are_used(app):
    subs = {"secret:a": {"info": {"seat": 4}, "data": "welcome"}}
    async with WireClient(app, connect={"token": token(subs=subs)}) as client:
        assert client.connected["connect"]["subs"]["secret:a"]["data"] == "welcome"
        members = await client.done("presence", channel="secret:a")
        assert members["presence"][client.id]["chan_info"] == {"seat": 4}


@pytest.mark.parametrize("options", [{"override": {"presence": True}}, "all", None])
async def test_a_token_with_unknown_options_of_topics_is_invalid(app, options):
    async with WireClient(app, connect=None) as client:
        wrong = token(subs={"secret:a": options})
        await client.say({"id": 1, "connect": {"token": wrong}})

        assert (await client.closed())[0] == 3500
