"""Tests of the communicators."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from unittest import mock

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from asgiref.testing import ApplicationCommunicator as AsgirefCommunicator
from django.contrib.auth.models import Group

import tiderace.testing
from tiderace.consumer import AsyncConsumer
from tiderace.generic.websocket import (
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from tiderace.testing import (
    ApplicationCommunicator,
    HttpCommunicator,
    WebsocketCommunicator,
)


class Echo(AsyncWebsocketConsumer):
    """Sends back what it gets."""

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data, bytes_data=bytes_data)


class JsonEcho(JsonWebsocketConsumer):
    """Sends back the JSON it gets."""

    def receive_json(self, content):
        self.send_json(content)


async def silent(scope, receive, send):
    """Accepts, and never says anything."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


# WebSockets: what Channels documents


async def test_connect_returns_true_when_the_socket_is_accepted():
    socket = WebsocketCommunicator(Echo.as_asgi(), "/ws/")

    assert await socket.connect() == (True, None)

    await socket.disconnect()


async def test_connect_returns_the_subprotocol_the_consumer_chose():
    class Consumer(AsyncWebsocketConsumer):
        async def connect(self):
            await self.accept(subprotocol=self.scope["subprotocols"][1])

    socket = WebsocketCommunicator(Consumer(), "/", subprotocols=["v1", "v2"])

    assert await socket.connect() == (True, "v2")

    await socket.disconnect()


async def test_a_subprotocol_that_was_not_offered_is_an_assertion_error():
    class Consumer(AsyncWebsocketConsumer):
        async def connect(self):
            await self.accept(subprotocol="v3")

    socket = WebsocketCommunicator(Consumer(), "/", subprotocols=["v1", "v2"])

    with pytest.raises(AssertionError, match="'v3', which was not offered"):
        await socket.connect()

    await socket.disconnect()


@pytest.mark.parametrize(("given", "told"), [(4003, 4003), (None, 1000)])
async def test_connect_returns_the_code_of_a_refusal(given, told):
    class Consumer(AsyncWebsocketConsumer):
        async def connect(self):
            await self.close(code=given)

    socket = WebsocketCommunicator(Consumer(), "/")

    assert await socket.connect() == (False, told)

    await socket.disconnect()


async def test_connect_keeps_the_headers_of_the_response():
    class Consumer(AsyncWebsocketConsumer):
        async def connect(self):
            await self.accept(headers=[(b"x-room", b"tea")])

    async with WebsocketCommunicator(Consumer(), "/") as socket:
        assert list(socket.response_headers) == [(b"x-room", b"tea")]


async def test_connect_returns_the_status_of_a_denial_response():
    async def application(scope, receive, send):
        await send(
            {"type": "websocket.http.response.start", "status": 401, "headers": []}
        )
        await send({"type": "websocket.http.response.body", "body": b"no"})

    socket = WebsocketCommunicator(application, "/")

    assert await socket.connect() == (False, 401)
    assert (await socket.receive_output())["body"] == b"no"


async def test_the_scope_has_the_unquoted_path_and_the_query_string():
    socket = WebsocketCommunicator(silent, "/caf%C3%A9/?a=b&c", headers=[(b"h", b"v")])

    assert socket.scope == {
        "type": "websocket",
        "path": "/café/",
        "query_string": b"a=b&c",
        "headers": [(b"h", b"v")],
        "subprotocols": [],
    }


async def test_a_spec_version_is_a_key_of_the_scope():
    assert (
        WebsocketCommunicator(silent, "/", spec_version="2.3").scope["spec_version"]
        == "2.3"
    )


async def test_a_path_that_is_not_a_string_is_refused():
    with pytest.raises(TypeError, match="Expected str, got <class 'bytes'>"):
        WebsocketCommunicator(silent, b"/ws/")


async def test_text_and_bytes_come_back_as_they_were_sent():
    async with WebsocketCommunicator(Echo(), "/") as socket:
        await socket.send_to(text_data="tea")
        await socket.send_to(bytes_data=b"\x00")

        assert await socket.receive_from() == "tea"
        assert await socket.receive_from() == b"\x00"


@pytest.mark.parametrize("frame", [{}, {"text_data": "a", "bytes_data": b"b"}])
async def test_a_frame_is_text_or_bytes_and_not_empty(frame):
    socket = WebsocketCommunicator(silent, "/")

    with pytest.raises(AssertionError, match="exactly one of text_data or bytes_data"):
        await socket.send_to(**frame)


async def test_a_sync_json_consumer_answers_json():
    async with WebsocketCommunicator(JsonEcho(), "/") as socket:
        await socket.send_json_to({"cups": [1, 2]})

        assert await socket.receive_json_from() == {"cups": [1, 2]}


async def test_receiving_from_a_closed_socket_is_an_assertion_error():
    class Consumer(Echo):
        async def receive(self, text_data=None, bytes_data=None):
            await self.close()

    socket = WebsocketCommunicator(Consumer(), "/")
    await socket.connect()
    await socket.send_to(text_data="go")

    with pytest.raises(AssertionError, match=r"but was 'websocket\.close'"):
        await socket.receive_from()

    await socket.disconnect()


async def test_json_in_a_binary_frame_is_an_assertion_error():
    async with WebsocketCommunicator(Echo(), "/") as socket:
        await socket.send_to(bytes_data=b"{}")

        with pytest.raises(AssertionError, match="JSON data is not a text frame"):
            await socket.receive_json_from()


@pytest.mark.parametrize("frame", [{}, {"text": "a", "bytes": b"b"}])
async def test_a_frame_from_the_application_has_text_or_bytes(frame):
    async def application(scope, receive, send):
        await send({"type": "websocket.send", **frame})

    with pytest.raises(AssertionError, match="exactly one of 'text' or 'bytes'"):
        await WebsocketCommunicator(application, "/").receive_from()


async def test_a_frame_whose_other_key_is_none_is_a_frame():
    async def application(scope, receive, send):
        await send({"type": "websocket.send", "text": None, "bytes": b"b"})

    assert await WebsocketCommunicator(application, "/").receive_from() == b"b"


async def test_receive_nothing_is_true_of_a_silent_application():
    async with WebsocketCommunicator(silent, "/") as socket:
        assert await socket.receive_nothing(timeout=0.02) is True


async def test_receive_nothing_is_false_with_an_unread_event_and_keeps_it():
    async with WebsocketCommunicator(Echo(), "/") as socket:
        await socket.send_to(text_data="tea")

        assert await socket.receive_nothing() is False
        assert await socket.receive_from() == "tea"


# Running out of time


async def test_a_timed_out_receive_cancels_the_application():
    socket = WebsocketCommunicator(silent, "/")
    await socket.connect()

    with pytest.raises(asyncio.TimeoutError):
        await socket.receive_from(timeout=0.01)

    assert socket.future.cancelled()


async def test_after_a_timed_out_receive_disconnect_raises_cancelled_error():
    socket = WebsocketCommunicator(silent, "/")
    await socket.connect()
    with pytest.raises(asyncio.TimeoutError):
        await socket.receive_from(timeout=0.01)

    with pytest.raises(asyncio.CancelledError):
        await socket.disconnect()


async def test_a_timed_out_receive_can_leave_the_application_running():
    socket = WebsocketCommunicator(Echo(), "/", cancel_on_timeout=False)
    await socket.connect()

    with pytest.raises(asyncio.TimeoutError):
        await socket.receive_from(timeout=0.01)

    await socket.send_to(text_data="still here")
    assert await socket.receive_from() == "still here"
    await socket.disconnect()


# An application that fails


async def test_a_timeout_of_none_is_no_limit():
    socket = WebsocketCommunicator(Echo.as_asgi(), "/")

    assert await socket.connect(timeout=None) == (True, None)

    await socket.send_to(text_data="tea")
    assert await socket.receive_from(timeout=None) == "tea"
    await socket.disconnect(timeout=None)


async def test_an_error_is_raised_by_a_receive_without_a_limit():
    class Failing(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            raise LookupError("tea is out")

    socket = WebsocketCommunicator(Failing.as_asgi(), "/")
    await socket.connect()

    await socket.send_to(text_data="tea")

    with pytest.raises(LookupError, match="tea is out"):
        await socket.receive_from(timeout=None)


async def test_an_error_of_a_handler_is_raised_instead_of_its_close():
    class Consumer(Echo):
        async def receive(self, text_data=None, bytes_data=None):
            raise ValueError("bad tea")

    socket = WebsocketCommunicator(Consumer(), "/")
    await socket.connect()
    await socket.send_to(text_data="tea")

    with pytest.raises(ValueError, match="bad tea"):
        await socket.receive_from()


async def test_an_error_is_raised_again_by_every_later_use():
    async def application(scope, receive, send):
        raise ValueError("no tea")

    communicator = ApplicationCommunicator(application, {"type": "x"})
    for _ in range(2):
        with pytest.raises(ValueError, match="no tea"):
            await communicator.receive_output()
    with pytest.raises(ValueError, match="no tea"):
        await communicator.send_input({"type": "y"})


async def test_the_error_of_a_receive_states_that_the_application_has_ended():
    async def application(scope, receive, send):
        pass

    with pytest.raises(TimeoutError, match=r"within 0\.01 s: it has ended"):
        await ApplicationCommunicator(application, {"type": "x"}).receive_output(0.01)


async def test_an_error_of_a_sync_handler_is_raised():
    class Consumer(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            raise ValueError("bad tea")

    socket = WebsocketCommunicator(Consumer(), "/")
    await socket.connect()
    await socket.send_to(text_data="tea")

    with pytest.raises(ValueError, match="bad tea"):
        await socket.receive_output()


async def test_an_error_is_raised_by_disconnect_too():
    class Consumer(AsyncWebsocketConsumer):
        async def disconnect(self, code):
            raise ValueError(f"left with {code}")

    socket = WebsocketCommunicator(Consumer(), "/")
    await socket.connect()

    with pytest.raises(ValueError, match="left with 4001"):
        await socket.disconnect(code=4001)


async def test_an_error_is_raised_before_the_timeout():
    async def application(scope, receive, send):
        raise ValueError("no tea")

    with pytest.raises(ValueError, match="no tea"):
        await asyncio.wait_for(
            ApplicationCommunicator(application, {"type": "x"}).receive_output(3600), 5
        )


async def test_a_timeout_error_of_the_application_is_raised():
    async def application(scope, receive, send):
        raise TimeoutError("the kettle is slow")

    with pytest.raises(TimeoutError, match="the kettle is slow"):
        await ApplicationCommunicator(application, {"type": "x"}).receive_output()


async def test_a_frame_sent_before_the_error_is_received_first():
    class Consumer(Echo):
        async def receive(self, text_data=None, bytes_data=None):
            await self.send(text_data="first")
            raise ValueError("bad tea")

    socket = WebsocketCommunicator(Consumer(), "/")
    await socket.connect()
    await socket.send_to(text_data="tea")

    assert await socket.receive_from() == "first"
    with pytest.raises(ValueError, match="bad tea"):
        await socket.receive_from()


async def test_an_intended_close_with_1011_is_returned():
    class Consumer(Echo):
        async def receive(self, text_data=None, bytes_data=None):
            await self.close(code=1011)

    socket = WebsocketCommunicator(Consumer(), "/")
    await socket.connect()
    await socket.send_to(text_data="tea")

    event = await socket.receive_output(timeout=0.05)

    assert (event["type"], event["code"]) == ("websocket.close", 1011)
    await socket.disconnect()


# Waiting for one event among others


async def three_sends(scope, receive, send):
    """Accepts and sends one, two, three."""
    await receive()
    await send({"type": "websocket.accept"})
    for text in ("one", "two", "three"):
        await send({"type": "websocket.send", "text": text})
    await receive()


async def test_wait_for_returns_the_event_and_keeps_the_others_in_order():
    async with WebsocketCommunicator(three_sends, "/") as socket:
        event = await socket.wait_for(
            "websocket.send", where=lambda event: event["text"] == "two"
        )

        assert event["text"] == "two"
        assert await socket.receive_from() == "one"
        assert await socket.receive_from() == "three"


async def test_wait_for_waits_for_the_event():
    async with WebsocketCommunicator(Echo(), "/") as socket:
        waiting = asyncio.ensure_future(socket.wait_for(type="websocket.send"))
        await socket.send_to(text_data="tea")

        assert (await waiting)["text"] == "tea"


async def test_a_timeout_of_wait_for_lists_the_unread_events_and_cancels_nothing():
    async with WebsocketCommunicator(three_sends, "/") as socket:
        with pytest.raises(
            TimeoutError, match=r"'websocket.close'.*\['websocket.send'"
        ):
            await socket.wait_for("websocket.close", timeout=0.01)

        assert await socket.receive_from() == "one"
        assert not socket.future.done()


async def test_wait_for_raises_the_error_of_an_application_that_failed():
    async def application(scope, receive, send):
        raise ValueError("no tea")

    with pytest.raises(ValueError, match="no tea"):
        await WebsocketCommunicator(application, "/").wait_for("websocket.accept")


# Filling the scope


async def test_user_session_and_url_route_are_keys_of_the_scope():
    found = {}

    async def application(scope, receive, send):
        found.update(scope)
        await silent(scope, receive, send)

    socket = WebsocketCommunicator(
        application,
        "/",
        user="alice",
        session={"cart": 1},
        url_route={"kwargs": {"room": "tea"}},
    )
    async with socket:
        pass

    assert found["user"] == "alice"
    assert found["session"] == {"cart": 1}
    assert found["url_route"] == {"args": (), "kwargs": {"room": "tea"}}


async def test_login_sets_the_user_in_the_scope():
    socket = WebsocketCommunicator(silent, "/")

    socket.login("alice")

    assert socket.scope["user"] == "alice"


async def test_login_after_connecting_is_refused():
    async with WebsocketCommunicator(silent, "/") as socket:
        with pytest.raises(RuntimeError, match="comes too late"):
            socket.login("alice")


async def test_a_scope_changed_before_connecting_reaches_the_consumer():
    class Consumer(AsyncWebsocketConsumer):
        async def connect(self):
            await self.accept()
            await self.send(text_data=self.scope["user"])

    socket = WebsocketCommunicator(Consumer(), "/")
    socket.scope["user"] = "alice"

    async with socket:
        assert await socket.receive_from() == "alice"


# As a context manager


async def test_leaving_the_block_disconnects_and_waits_for_the_consumer():
    codes = []

    class Consumer(AsyncWebsocketConsumer):
        async def disconnect(self, code):
            codes.append(code)

    async with WebsocketCommunicator(Consumer(), "/"):
        pass

    assert codes == [1000]


async def test_entering_the_block_of_a_refused_socket_raises():
    class Consumer(AsyncWebsocketConsumer):
        async def connect(self):
            await self.close(code=4003)

    with pytest.raises(ConnectionRefusedError, match="'/tea/' with 4003"):
        async with WebsocketCommunicator(Consumer(), "/tea/"):
            pass


async def test_the_error_of_the_block_takes_precedence():
    class Consumer(AsyncWebsocketConsumer):
        async def disconnect(self, code):
            raise ValueError("of the consumer")

    with pytest.raises(KeyError, match="of the block"):
        async with WebsocketCommunicator(Consumer(), "/"):
            raise KeyError("of the block")


async def test_an_unread_error_is_raised_at_the_end_of_the_block():
    failed = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        failed.set()
        raise ValueError("bad tea")

    async def use():
        async with WebsocketCommunicator(application, "/") as socket:
            await socket.send_to(text_data="tea")
            await failed.wait()

    with pytest.raises(ValueError, match="bad tea"):
        await use()


# Where the application runs


async def test_context_variables_of_the_test_do_not_reach_the_application():
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("of the test")
    found = []

    async def application(scope, receive, send):
        found.append(variable.get())

    await ApplicationCommunicator(application, {"type": "x"}).wait()

    assert found == ["unset"]


async def test_sync_code_runs_in_the_thread_of_the_tests_own_context():
    names = []

    class Consumer(WebsocketConsumer):
        def connect(self):
            names.append(threading.current_thread().name)
            self.accept()

    async with ThreadSensitiveContext():
        mine = await sync_to_async(lambda: threading.current_thread().name)()
        async with WebsocketCommunicator(Consumer(), "/"):
            pass

    assert names == [mine]


async def test_close_old_connections_can_be_patched():
    with mock.patch("tiderace.db.close_old_connections"):
        async with WebsocketCommunicator(JsonEcho(), "/") as socket:
            await socket.send_json_to(1)

            assert await socket.receive_json_from() == 1


async def test_a_communicator_has_the_methods_of_asgirefs():
    class Consumer(AsyncConsumer):
        async def tea_wanted(self, event):
            await self.send({"type": "tea.served"})

    communicator = ApplicationCommunicator(Consumer(), {"type": "channel"})
    await communicator.send_input({"type": "tea.wanted"})

    assert isinstance(communicator, AsgirefCommunicator)
    assert await communicator.receive_output() == {"type": "tea.served"}
    communicator.stop()


# HTTP


async def respond(scope, receive, send):
    """Answers with what it was asked, in two parts."""
    request = await receive()
    await send({"type": "http.response.start", "status": 201})
    asked = f"{scope['method']} {scope['path']} {scope['query_string'].decode()} "
    await send(
        {"type": "http.response.body", "body": asked.encode(), "more_body": True}
    )
    await send({"type": "http.response.body", "body": request["body"]})


async def test_a_request_is_answered_with_status_headers_and_the_whole_body():
    communicator = HttpCommunicator(respond, "post", "/t%20a/?x=1", body=b"tea")

    response = await communicator.get_response()

    assert response == {"status": 201, "headers": [], "body": b"POST /t a/ x=1 tea"}


async def test_the_request_is_sent_once():
    communicator = HttpCommunicator(respond, "GET", "/")

    await communicator.get_response()

    assert communicator.sent_request is True


async def test_a_body_that_is_not_bytes_is_refused():
    with pytest.raises(AssertionError, match="must be bytes"):
        HttpCommunicator(respond, "POST", "/", body="tea")


async def test_a_response_without_a_start_is_an_assertion_error():
    async def application(scope, receive, send):
        await send({"type": "http.response.body", "body": b""})

    with pytest.raises(AssertionError, match=r"expected 'http\.response\.start'"):
        await HttpCommunicator(application, "GET", "/").get_response()


# Importing


def test_the_communicators_need_neither_a_server_nor_settings():
    code = (
        "import sys; from tiderace.testing import WebsocketCommunicator as W; "
        "W(None.__class__, '/'); "
        "print([m for m in ('uvicorn', 'daphne', 'twisted') if m in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "[]"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Tea'"):
        tiderace.testing.Tea  # noqa: B018


@pytest.mark.django_db(transaction=True)
async def test_sync_code_runs_in_the_tests_thread_with_an_in_memory_database():
    class Consumer(WebsocketConsumer):
        def connect(self):
            self.accept()
            self.send(str(threading.get_ident()))

    async with WebsocketCommunicator(Consumer(), "/") as socket:
        seen = await socket.receive_from()

    assert seen == str(await sync_to_async(threading.get_ident)())


@pytest.mark.django_db(transaction=True)
async def test_consumers_can_write_concurrently_with_an_in_memory_database():
    class Consumer(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            Group.objects.create(name=text_data)
            self.send(text_data)

    names = [str(number) for number in range(20)]
    sockets = [WebsocketCommunicator(Consumer.as_asgi(), "/") for _ in names]
    for socket, name in zip(sockets, names, strict=True):
        await socket.connect()
        await socket.send_to(name)

    assert [await socket.receive_from() for socket in sockets] == names
    assert await Group.objects.acount() == 20
    for socket in sockets:
        await socket.disconnect()
