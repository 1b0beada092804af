"""The npm client ``centrifuge`` in Node, over every transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.process import ConformanceProcess
from support.clients.sdk_javascript import names, run_in_node
from support.servers.demo_process import DemoProcess

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
def results(server: ConformanceProcess, request: pytest.FixtureRequest) -> Results:
    return run_in_node(http=server.http, transport=request.param)


@pytest.fixture(scope="module", params=TRANSPORTS)
def demo_results(demo: DemoProcess, request: pytest.FixtureRequest) -> Results:
    visitor = demo.visitor().log_in("alice")
    try:
        return run_in_node(
            http=demo.url,
            transport=request.param,
            group="demo",
            cookie=visitor.cookies,
        )
    finally:
        visitor.close()


@pytest.mark.parametrize("name", names("scenarios"))
def test_a_scenario_passes_with_the_conformance_server(
    results: Results, name: str
) -> None:
    assert results[name] is None, results[name]


@pytest.mark.parametrize("name", names("demoScenarios"))
def test_a_scenario_passes_with_the_demo(demo_results: Results, name: str) -> None:
    assert demo_results[name] is None, demo_results[name]
