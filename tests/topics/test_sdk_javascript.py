"""Another client of the protocol, npm's centrifuge, in Node and over every transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.process import ConformanceProcess
from support.demo_process import DemoProcess
from support.sdk_javascript import names, play_in_node

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

TRANSPORTS = ["websocket", "websocket_protobuf", "http_stream", "sse"]

Results = dict[str, str | None]


@pytest.fixture(scope="module")
def server() -> Iterator[ConformanceProcess]:
    with ConformanceProcess() as process:
        yield process


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo")) as process:
        yield process


@pytest.fixture(scope="module", params=TRANSPORTS)
def played(server: ConformanceProcess, request: pytest.FixtureRequest) -> Results:
    return play_in_node(http=server.http, transport=request.param)


@pytest.fixture(scope="module", params=TRANSPORTS)
def played_on_the_demo(demo: DemoProcess, request: pytest.FixtureRequest) -> Results:
    return play_in_node(http=demo.url, transport=request.param, group="demo")


@pytest.mark.parametrize("name", names("scenarios"))
def test_with_the_conformance_server(played: Results, name: str) -> None:
    assert played[name] is None, played[name]


@pytest.mark.parametrize("name", names("onTheDemo"))
def test_with_the_demo(played_on_the_demo: Results, name: str) -> None:
    assert played_on_the_demo[name] is None, played_on_the_demo[name]
