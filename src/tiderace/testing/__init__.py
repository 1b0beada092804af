"""Test tools: clients of topics and captured publications, communicators, a live server.

What needs Django's test framework is imported at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tiderace.testing.application import ApplicationCommunicator
from tiderace.testing.http import HttpCommunicator
from tiderace.testing.websocket import WebsocketCommunicator

if TYPE_CHECKING:
    from tiderace.testing.live import ChannelsLiveServerTestCase
    from tiderace.testing.topics.blocking_client import SubscribedTopic, TopicsClient
    from tiderace.testing.topics.client import AsyncTopicsClient
    from tiderace.testing.topics.mixin import TopicsTestMixin
    from tiderace.testing.topics.refusals import Refusal, assert_refused
    from tiderace.testing.topics.subscribed_topic import (
        AsyncSubscribedTopic,
        ReceivedPublication,
        ReceivedWhisper,
    )
    from tiderace.testing.topics.testbed import CapturedPublication, TopicsTestbed

__all__ = [
    "ApplicationCommunicator",
    "AsyncSubscribedTopic",
    "AsyncTopicsClient",
    "CapturedPublication",
    "ChannelsLiveServerTestCase",
    "HttpCommunicator",
    "ReceivedPublication",
    "ReceivedWhisper",
    "Refusal",
    "SubscribedTopic",
    "TopicsClient",
    "TopicsTestMixin",
    "TopicsTestbed",
    "WebsocketCommunicator",
    "assert_refused",
]

_MODULES = {
    "AsyncSubscribedTopic": "topics.subscribed_topic",
    "AsyncTopicsClient": "topics.client",
    "CapturedPublication": "topics.testbed",
    "ChannelsLiveServerTestCase": "live",
    "ReceivedPublication": "topics.subscribed_topic",
    "ReceivedWhisper": "topics.subscribed_topic",
    "Refusal": "topics.refusals",
    "SubscribedTopic": "topics.blocking_client",
    "TopicsClient": "topics.blocking_client",
    "TopicsTestMixin": "topics.mixin",
    "TopicsTestbed": "topics.testbed",
    "assert_refused": "topics.refusals",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"tiderace.testing.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
