"""The guide's code as written: a site of its shapes, slips included, keeps its promises.

First one consumer at a time with communicators, then the whole site under uvicorn.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from asgiref.sync import async_to_sync
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging
from django.contrib.auth.models import AnonymousUser
from django.core.cache import cache
from django.urls import path
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sites.guide_site.board import consumers, groups, journal, tasks
from sites.guide_site.celery import app as celery_app
from support.servers.asgi_process import TESTS, AsgiProcess
from tiderace.auth import AuthMiddlewareStack
from tiderace.layers import channel_layers, get_channel_layer
from tiderace.routing import ProtocolTypeRouter, URLRouter
from tiderace.testing import WebsocketCommunicator


@pytest.fixture(autouse=True)
def _fresh():
    channel_layers.backends = {}
    cache.clear()
    journal.entries.clear()


class Visit:
    """``async with Visit(consumer) as socket``: connected, and disconnected at the end."""

    def __init__(self, consumer, path="/ws/", *, room=None, user=None, **options):
        self.socket = WebsocketCommunicator(consumer.as_asgi(), path, **options)
        self.socket.scope["client"] = ["127.0.0.1", 50000]
        if user is not None:
            self.socket.scope["user"] = user
        if room is not None:
            self.socket.scope["url_route"] = {"args": (), "kwargs": {"room_name": room}}

    async def __aenter__(self):
        assert (await self.socket.connect())[0]
        return self.socket

    async def __aexit__(self, kind, error, trace):
        if kind is None:
            await self.socket.disconnect()


def person(name, number=1, *, department=1, team=1, is_staff=False):
    return SimpleNamespace(
        id=number,
        username=name,
        is_authenticated=True,
        is_anonymous=False,
        is_staff=is_staff,
        department=SimpleNamespace(id=department),
        team=SimpleNamespace(id=team),
    )


# The life cycle

ECHOES = [
    consumers.HighLevelEcho,
    consumers.LowLevelEcho,
    consumers.SyncEcho,
    consumers.OverridingEcho,
]


@pytest.mark.parametrize("consumer", ECHOES)
async def test_each_style_of_consumer_answers(consumer):
    async with Visit(consumer) as socket:
        await socket.send_to(text_data="hello")

        assert await socket.receive_from() == "heard: hello"


@pytest.mark.parametrize("consumer", ECHOES)
async def test_each_style_ends_with_its_socket_stop_raised_or_not(consumer):
    socket = WebsocketCommunicator(consumer.as_asgi(), "/ws/")
    await socket.connect()

    await socket.disconnect(code=1001)

    assert socket.future.done()
    assert [code for _, code in journal.entries] == [1001]


async def test_an_accept_event_may_carry_headers():
    async with Visit(consumers.SyncEcho) as socket:
        assert socket.response_headers == [[b"set-cookie", b"seat=window"]]


async def test_a_close_event_may_carry_code_and_reason():
    async with Visit(consumers.SyncEcho) as socket:
        await socket.send_to(text_data="enough")

        assert await socket.receive_output() == {
            "type": "websocket.close",
            "code": 4000,
            "reason": "the token is stale",
        }


async def test_text_and_binary_are_told_apart():
    async with Visit(consumers.Files) as socket:
        await socket.send_to(text_data="letters")
        await socket.send_to(bytes_data=b"\x00bits")

        assert await socket.receive_from() == "letters"
        assert await socket.receive_from() == b"\x00bits"


async def test_one_of_the_offered_subprotocols_is_chosen():
    socket = WebsocketCommunicator(
        consumers.Files.as_asgi(), "/ws/", subprotocols=["carrier-pigeon", "chat"]
    )

    assert await socket.connect() == (True, "chat")
    await socket.disconnect()


# The scope


async def test_without_middleware_the_user_is_anonymous():
    async with Visit(consumers.WhoAmI, "/ws/who/?room=abc") as socket:
        said = await socket.receive_from()

        assert said == "AnonymousUser /ws/who/ room=abc 127.0.0.1"
        assert isinstance(socket.scope["user"], AnonymousUser)
        assert "session" not in socket.scope


@pytest.mark.parametrize(("query", "room"), [("?room=tea", "tea"), ("", "hall")])
async def test_the_query_string_can_be_parsed(query, room):
    async with Visit(consumers.QueryRoom, f"/ws/{query}") as socket:
        assert await socket.receive_from() == room


async def test_a_visitor_who_is_no_member_is_refused_before_accept():
    socket = WebsocketCommunicator(consumers.MembersOnly.as_asgi(), "/ws/")

    assert await socket.connect() == (False, 4001)


async def test_a_visitor_who_is_no_member_is_closed_after_accept_with_a_reason():
    async with Visit(consumers.ShownOut) as socket:
        assert await socket.receive_output() == {
            "type": "websocket.close",
            "code": 4001,
            "reason": "who are you?",
        }


@pytest.mark.django_db(transaction=True)
async def test_the_stack_routes_by_path_and_brings_user_and_session():
    application = ProtocolTypeRouter(
        {
            "websocket": AuthMiddlewareStack(
                URLRouter([path("ws/who/", consumers.WhoAmI.as_asgi())])
            )
        }
    )
    socket = WebsocketCommunicator(
        application, "/ws/who/", headers=[(b"cookie", b"sessionid=unknown")]
    )
    socket.scope["client"] = ["127.0.0.1", 50000]

    assert (await socket.connect())[0]
    assert await socket.receive_from() == "AnonymousUser /ws/who/  127.0.0.1"
    await socket.disconnect()


# The layer by hand


def test_a_sent_message_is_received_by_a_list_of_one_name():
    layer = get_channel_layer()

    async_to_sync(layer.send)("trial", {"type": "trial.message", "text": "Hello!"})

    assert async_to_sync(layer.receive)(["trial"]) == {
        "type": "trial.message",
        "text": "Hello!",
    }


# Rooms


async def test_a_room_passes_messages_to_all_with_name():
    async with (
        Visit(groups.Room, room="tea", user=person("ada")) as ada,
        Visit(groups.Room, room="tea") as stranger,
    ):
        assert (await ada.receive_json_from())["message"] == "Anonymous came in"
        await ada.send_json_to({"type": "chat_message", "message": "hi"})

        for socket in (ada, stranger):
            said = await socket.receive_json_from()
            assert (said["type"], said["username"], said["message"]) == (
                "chat_message",
                "ada",
                "hi",
            )


async def test_a_room_does_not_tell_people_of_themselves():
    async with Visit(groups.Room, room="tea", user=person("ada")) as ada:
        await ada.send_json_to({"type": "typing", "is_typing": True})

        assert await ada.receive_nothing()


async def test_a_room_tells_who_is_typing():
    async with (
        Visit(groups.Room, room="tea") as stranger,
        Visit(groups.Room, room="tea", user=person("ada")) as ada,
    ):
        await stranger.receive_json_from()
        await ada.send_json_to({"type": "typing", "is_typing": True})

        said = await stranger.receive_json_from()
        assert (said["type"], said["username"], said["is_typing"]) == (
            "typing",
            "ada",
            True,
        )


async def test_a_room_tells_who_left():
    async with Visit(groups.Room, room="tea") as stranger:
        async with Visit(groups.Room, room="tea", user=person("ada")):
            await stranger.receive_json_from()

        assert await stranger.receive_json_from() == {
            "type": "user_left",
            "username": "ada",
            "message": "ada went out",
        }


async def test_rooms_do_not_hear_each_other():
    async with (
        Visit(groups.Room, room="tea") as tea,
        Visit(groups.Room, room="coffee") as coffee,
    ):
        await tea.send_json_to({"message": "milk?"})
        await tea.receive_json_from()

        assert await coffee.receive_nothing()


async def test_a_room_is_empty_after_everybody_left():
    async with Visit(groups.Room, room="tea"):
        assert list(get_channel_layer().groups) == ["room_tea"]

    assert get_channel_layer().groups == {}


# Patterns of groups


async def test_several_groups_are_joined_after_accept():
    async with Visit(groups.Many) as socket:
        joined = (await socket.receive_json_from())["groups"]

        assert {"user_None", "users"} <= set(joined)
        for group in joined:
            await get_channel_layer().group_send(
                group, {"type": "notification_message", "message": group}
            )
            assert (await socket.receive_json_from())["message"] == group


async def test_a_group_made_for_an_occasion_works_at_once():
    async with Visit(groups.Passing) as socket:
        await socket.send_to(text_data="now")
        group = await socket.receive_from()
        await get_channel_layer().group_send(group, {"type": "announcement", "n": 1})

        assert (await socket.receive_json_from())["n"] == 1


@pytest.mark.parametrize(
    ("reach", "who"),
    [
        ("global", ["ada", "bob", "cyd"]),
        ("department", ["ada", "bob"]),
        ("team", ["ada"]),
        ("personal", ["ada"]),
        ("nobody", []),
    ],
)
async def test_an_announcement_reaches_its_part_of_the_hierarchy(reach, who):
    async with (
        Visit(groups.Hierarchy, user=person("ada", 1, department=1, team=1)) as ada,
        Visit(groups.Hierarchy, user=person("bob", 2, department=1, team=2)) as bob,
        Visit(groups.Hierarchy, user=person("cyd", 3, department=2, team=3)) as cyd,
    ):
        await ada.send_to(text_data=f"{reach}:cake")

        sockets = {"ada": ada, "bob": bob, "cyd": cyd}
        for name in who:
            assert (await sockets[name].receive_json_from())["message"] == "cake"
        for name in set(sockets) - set(who):
            assert await sockets[name].receive_nothing(timeout=0.02)


async def test_a_large_audience_is_spread_over_groups():
    joined = []
    async with (
        Visit(groups.Shards) as one,
        Visit(groups.Shards) as two,
        Visit(groups.Shards) as three,
    ):
        for socket in (one, two, three):
            await socket.send_to(text_data="crowd")
            joined.append(await socket.receive_from())

    assert joined == ["crowd", "crowd", "crowd_1"]


@pytest.mark.parametrize(("size", "how"), [(10, "plain"), (5000, "gzip")])
async def test_large_content_travels_as_hex_of_gzip(size, how):
    data = {"text": "x" * size}
    async with Visit(groups.Compressing) as socket:
        await socket.send_json_to(data)

        assert await socket.receive_json_from() == {"how": how, "data": data}


async def test_background_tasks_are_cancelled_and_groups_left_at_the_end():
    async with Visit(groups.Tidy):
        ((_, ticking),) = journal.entries
        assert sorted(get_channel_layer().groups) == ["tidy_a", "tidy_b"]

    await asyncio.wait([ticking], timeout=5)
    assert ticking.cancelled()
    assert get_channel_layer().groups == {}


async def test_the_layer_can_be_counted():
    async with Visit(groups.Statistics) as socket:
        stats = await socket.receive_json_from()

    assert stats == {"type": "stats", "data": {"total_channels": 1, "total_groups": 1}}


@pytest.mark.parametrize(
    ("group", "user", "answer"),
    [
        ("public_news", None, "joined"),
        ("admin_news", None, "error"),
        ("admin_news", person("root", is_staff=True), "joined"),
    ],
)
async def test_a_group_is_joined_only_with_permission(group, user, answer):
    async with Visit(groups.Guarded, user=user) as socket:
        await socket.send_to(text_data=group)

        assert (await socket.receive_json_from())["type"] == answer
        assert (group in get_channel_layer().groups) is (answer == "joined")


async def test_the_eleventh_message_of_a_minute_is_refused():
    async with Visit(groups.Limited) as socket:
        for number in range(10):
            await socket.send_to(text_data=str(number))
            assert await socket.receive_from() == str(number)
        await socket.send_to(text_data="one more")

        assert (await socket.receive_json_from())["message"] == "slow down"


# Pushing from a Celery worker


def _leave_logging_alone(**kwargs):
    pass


@pytest.fixture(scope="module")
def _celery_worker():
    """A worker in a thread of this process, its queue in memory."""
    # Whoever listens to this signal keeps the worker from configuring the logging of
    # the whole process, which other tests look at.
    setup_logging.connect(_leave_logging_alone)
    with start_worker(celery_app, pool="solo", perform_ping_check=False):
        yield


@pytest.mark.usefixtures("_celery_worker")
async def test_a_celery_task_reaches_a_connected_socket():
    async with Visit(groups.Many) as socket:
        await socket.receive_json_from()
        await asyncio.to_thread(tasks.backup_finished.delay)

        said = await socket.receive_json_from(timeout=10)
        assert said["message"] == "the nightly copy is complete"


@pytest.mark.usefixtures("_celery_worker")
async def test_a_celery_task_with_arguments_picks_its_group():
    async with Visit(groups.Many) as socket:
        await socket.receive_json_from()
        await asyncio.to_thread(tasks.note_activity.delay, 7, "upload")

        said = await socket.receive_json_from(timeout=10)
        assert (said["user_id"], said["activity"]) == (7, "upload")


# The whole site, on a real server


def manage(database, *arguments):
    env = {
        **os.environ,
        "PYTHONPATH": str(TESTS),
        "DJANGO_SETTINGS_MODULE": "sites.guide_site.settings",
        "GUIDE_SITE_DB": database,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "django", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("guide") / "db.sqlite3")
    manage(path, "migrate", "--run-syncdb", "--verbosity=0")
    return path


@pytest.fixture(scope="module")
def site(database):
    """The site under plain uvicorn; its settings are named by its asgi.py alone."""
    env = {"GUIDE_SITE_DB": database}
    with AsgiProcess("uvicorn", "sites.guide_site.asgi:application", env=env) as server:
        yield server


@pytest.fixture(scope="module")
def bare_site(database):
    env = {"GUIDE_SITE_DB": database}
    with AsgiProcess(
        "uvicorn", "sites.guide_site.bare_asgi:application", env=env
    ) as server:
        yield server


async def visit_page(site, page):
    """Fetch a page; return the cookie it set, if any."""

    def fetch():
        with urlopen(f"{site.http}/{page}", timeout=10) as answer:
            return (answer.headers["Set-Cookie"] or "").partition(";")[0]

    return await asyncio.to_thread(fetch)


@pytest.mark.parametrize("name", ["high", "low", "sync", "overriding"])
async def test_the_site_echoes_over_a_real_socket(site, name):
    async with connect(f"{site.ws}/ws/{name}/") as socket:
        await socket.send("hello")

        assert await socket.recv() == "heard: hello"


async def test_the_scope_has_what_the_guide_reads_from_it(site):
    async with connect(f"{site.ws}/ws/who/?room=abc") as socket:
        assert await socket.recv() == "AnonymousUser /ws/who/ room=abc 127.0.0.1"


async def test_without_the_auth_stack_the_user_is_anonymous_on_a_server(bare_site):
    async with connect(f"{bare_site.ws}/ws/who/") as socket:
        assert await socket.recv() == "AnonymousUser /ws/who/  127.0.0.1"


async def test_a_logged_in_user_is_known_by_the_session_cookie(site):
    cookie = await visit_page(site, "login/ada/")

    async with connect(
        f"{site.ws}/ws/members/", additional_headers={"Cookie": cookie}
    ) as socket:
        assert await socket.recv() == "welcome, ada"


async def test_a_stranger_gets_403_before_accept(site):
    with pytest.raises(InvalidStatus) as refusal:
        await connect(f"{site.ws}/ws/members/")

    assert refusal.value.response.status_code == 403


async def test_a_stranger_sees_code_and_reason_after_accept(site):
    async with connect(f"{site.ws}/ws/shown-out/") as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()

    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "who are you?")


@pytest.mark.parametrize("path", ["ws/unknown/", "ws/high", ""])
async def test_an_unknown_path_is_refused_and_is_no_server_error(site, path):
    with pytest.raises(InvalidStatus) as refusal:
        await connect(f"{site.ws}/{path}")

    assert refusal.value.response.status_code in {403, 404}


async def test_accept_headers_reach_a_real_client(site):
    async with connect(f"{site.ws}/ws/sync/") as socket:
        assert socket.response.headers["set-cookie"] == "seat=window"


async def test_a_chosen_subprotocol_reaches_a_real_client(site):
    async with connect(f"{site.ws}/ws/files/", subprotocols=["echo"]) as socket:
        assert socket.subprotocol == "echo"


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        ("notify/", "notification_message"),
        ("maintenance/", "maintenance_alert"),
        ("task/", "scheduled_notification"),
        ("post/", "new_message"),
        ("away/bob/", "user_status_change"),
    ],
)
async def test_views_tasks_and_signals_reach_the_sockets(site, page, kind):
    await visit_page(site, "login/bob/")
    async with connect(f"{site.ws}/ws/many/") as socket:
        await socket.recv()
        await visit_page(site, page)

        assert json.loads(await socket.recv())["type"] == kind


def test_the_health_check_command_finds_the_layer_well(database):
    assert "the layer is well" in manage(database, "check_channels")
