"""Finished parts of HTTP responses, which an application writes past ``send``."""

from __future__ import annotations

import asyncio
import copy
import pickle
import socket
import weakref

import httpx
import pytest

from support.clients.raw_websocket import LOOPS, RawServer
from support.waiting import until, wait_until
from tiderace.server import HttpProtocol, WebSocketProtocol
from tiderace.server.parts import ResponseParts

# More than the system buffers of both ends of a connection take, which grow to some MB.
LARGE = bytes(64_000_000)


@pytest.fixture(scope="module", params=LOOPS)
def server(request):
    with RawServer(WebSocketProtocol, loop=request.param, http=HttpProtocol) as running:
        yield running


async def start(send, *headers):
    await send({"type": "http.response.start", "status": 200, "headers": [*headers]})


async def end(send):
    await send({"type": "http.response.body"})


def url_of(server, application):
    return f"http://127.0.0.1:{server.port}{server.serve(application)}"


def test_the_parts_of_a_response_arrive_in_order_before_its_end(server):
    async def application(scope, receive, send):
        await start(send)
        writer = scope["extensions"]["tiderace.parts"].open()
        for number in range(5):
            writer.write(writer.text_frame(b"%d," % number))
            await asyncio.sleep(0)
        writer.write(writer.binary_frame(b"last"))
        await writer.close()
        await end(send)

    assert httpx.get(url_of(server, application)).text == "0,1,2,3,4,last"


async def test_one_part_is_written_to_many_responses(server):
    writers = []

    async def application(scope, receive, send):
        await start(send)
        writer = scope["extensions"]["tiderace.parts"].open()
        writers.append(writer)
        if len(writers) == 3:
            assert writer.write_all(writers, writer.text_frame(b"to all")) == []
        await until(lambda: len(writers) == 3)
        await writer.close()
        await end(send)

    url = url_of(server, application)
    async with httpx.AsyncClient() as client:
        answers = await asyncio.gather(*(client.get(url) for _ in range(3)))

    assert [answer.text for answer in answers] == ["to all"] * 3


def test_parts_for_a_client_that_reads_slowly_are_queued(server):
    read = []

    async def application(scope, receive, send):
        await start(send)
        writer = scope["extensions"]["tiderace.parts"].open()
        writer.write(writer.text_frame(LARGE))
        await until(lambda: writer.congested)
        writer.write(writer.text_frame(b"the end"))
        read.append(writer.buffered)
        await writer.close()
        await end(send)

    url = url_of(server, application)
    with httpx.stream("GET", url) as answer:
        wait_until(lambda: read, what="a full buffer")
        body = answer.read()

    assert read[0] > len(b"the end")
    assert body == LARGE + b"the end"


def test_a_client_that_leaves_ends_the_wait_for_it(server):
    ended = []

    async def application(scope, receive, send):
        await start(send)
        writer = scope["extensions"]["tiderace.parts"].open()
        writer.write(writer.text_frame(LARGE))
        await until(lambda: writer.congested)
        ended.append("waits")
        await writer.close()
        ended.append("left")

    path = server.serve(application)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(lambda: ended, what="a full buffer")

    wait_until(lambda: ended[1:] == ["left"], what="the end of the wait")


def test_a_connection_serves_the_next_request_after_parts(server):
    async def application(scope, receive, send):
        await start(send)
        writer = scope["extensions"]["tiderace.parts"].open()
        writer.write(writer.text_frame(b"part"))
        await writer.close()
        await end(send)

    url = url_of(server, application)
    with httpx.Client() as client:
        answers = [client.get(url) for _ in range(2)]
        ports = {
            answer.extensions["network_stream"].get_extra_info("client_addr")
            for answer in answers
        }

    assert [answer.text for answer in answers] == ["part", "part"]
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("method", "header"),
    [
        ("HEAD", (b"x-nothing", b"special")),
        ("GET", (b"content-length", b"0")),
        ("GET", (b"Content-Encoding", b"identity")),
    ],
)
def test_no_parts_are_written_to_a_response_that_is_not_sent_as_it_is(
    server, method, header
):
    opened = []

    async def application(scope, receive, send):
        await start(send, header)
        opened.append(scope["extensions"]["tiderace.parts"].open())
        await end(send)

    httpx.request(method, url_of(server, application))

    wait_until(lambda: opened == [None], what="the call")


def test_no_parts_are_written_before_a_response_and_after_it(server):
    opened = []

    async def application(scope, receive, send):
        parts = scope["extensions"]["tiderace.parts"]
        opened.append(parts.open())
        await start(send)
        await end(send)
        opened.append(parts.open())

    httpx.get(url_of(server, application))

    wait_until(lambda: opened == [None, None], what="both calls")


def test_a_copy_of_the_scope_has_the_same_writer_and_another_process_none(server):
    found = []

    async def application(scope, receive, send):
        parts = scope["extensions"]["tiderace.parts"]
        found.append(copy.deepcopy(scope["extensions"])["tiderace.parts"] is parts)
        found.append(pickle.loads(pickle.dumps(parts)))
        await start(send)
        await end(send)

    httpx.get(url_of(server, application))

    wait_until(lambda: found == [True, None], what="both copies")


def test_a_connection_is_freed_while_an_application_keeps_its_parts():
    class Connection:
        pass

    connection = Connection()
    parts = connection.parts = ResponseParts(connection)
    freed = weakref.ref(connection)

    del connection

    assert freed() is None
    assert parts.open() is None
