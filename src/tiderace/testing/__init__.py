"""Test tools: communicators without a server, and a test case with a live server.

The live-server test case is imported at first use: it imports Django's test framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiderace.testing.application import ApplicationCommunicator
from tiderace.testing.http import HttpCommunicator
from tiderace.testing.websocket import WebsocketCommunicator

if TYPE_CHECKING:
    from tiderace.testing.live import ChannelsLiveServerTestCase

__all__ = [
    "ApplicationCommunicator",
    "ChannelsLiveServerTestCase",
    "HttpCommunicator",
    "WebsocketCommunicator",
]


def __getattr__(name: str) -> Any:
    if name == "ChannelsLiveServerTestCase":
        from tiderace.testing.live import ChannelsLiveServerTestCase

        return ChannelsLiveServerTestCase
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
