"""The topics of the chat site, declared for the tests of this folder alone."""

from __future__ import annotations

import pytest

from tiderace.topics.topic import declared


@pytest.fixture(autouse=True, scope="module")
def chat_topics():
    from sites.chat_site import Inbox, Room

    for topic in (Room, Inbox):
        declared.add(topic)
    yield
    for topic in (Room, Inbox):
        declared.remove(topic)
