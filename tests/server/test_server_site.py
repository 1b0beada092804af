"""A whole Channels project on our protocol class, chosen as a stranger would choose it.

The project and what is expected of it are those of ``test_servers``; here it runs with
``uvicorn --ws tiderace.server:WebSocketProtocol``.
"""

from __future__ import annotations

import pytest
from test_servers import (
    APPLICATION,
    Site,
    stop_with_a_client,
    test_a_client_without_subprotocols_is_accepted_without_one,
    test_a_group_message_reaches_both_clients,
    test_a_lost_connection_disconnects_once_and_leaves_the_group,
    test_a_path_without_a_route_is_refused_and_is_no_server_error,
    test_a_refusal_before_accept_is_403,
    test_an_error_in_a_handler_closes_with_1011_and_disconnects_once,
    test_an_error_in_connect_refuses_the_handshake,
    test_sync_and_async_consumers_share_a_group,
    test_text_and_binary_frames_come_back,
    test_the_chosen_subprotocol_reaches_the_client,
    test_the_consumers_close_code_reaches_the_client,
)

from support.servers.asgi_process import AsgiProcess

__all__ = [
    "test_a_client_without_subprotocols_is_accepted_without_one",
    "test_a_group_message_reaches_both_clients",
    "test_a_lost_connection_disconnects_once_and_leaves_the_group",
    "test_a_path_without_a_route_is_refused_and_is_no_server_error",
    "test_a_refusal_before_accept_is_403",
    "test_an_error_in_a_handler_closes_with_1011_and_disconnects_once",
    "test_an_error_in_connect_refuses_the_handshake",
    "test_sync_and_async_consumers_share_a_group",
    "test_text_and_binary_frames_come_back",
    "test_the_chosen_subprotocol_reaches_the_client",
    "test_the_consumers_close_code_reaches_the_client",
]

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


class OurUvicorn(AsgiProcess):
    """uvicorn from the command line, with one flag more."""

    def _line(self, application: str) -> list[str]:
        line = super()._line(application)
        return [*line, "--ws", "tiderace.server:WebSocketProtocol"]


def launch(directory):
    journal = directory / "journal"
    journal.touch()
    env = {"SERVERS_SITE_JOURNAL": str(journal)}
    return OurUvicorn("uvicorn", APPLICATION, env=env), journal


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    process, journal = launch(tmp_path_factory.mktemp("server"))
    with process as server:
        yield Site(server, journal)


async def test_sigterm_closes_with_1012_and_disconnects_consumers(tmp_path):
    process, journal = launch(tmp_path)
    with process as server:
        site = Site(server, journal)

        assert await stop_with_a_client(site) == 1012
        assert [word for word, _ in site.lines("stop")] == ["disconnect"]
