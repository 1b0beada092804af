"""Test tools: talk to an application without a server, or run a real one for a test.

The communicators need neither a server nor Django's test runner; the live-server test
case is imported at first use, for it brings Django's test framework with it.
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
