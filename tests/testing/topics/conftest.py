"""The topics of the chat site, declared for the tests of this folder alone."""

from __future__ import annotations

import pytest

from sites.chat_site import TOPICS
from tiderace.topics.declaration.topic import declared

# Declared again by the fixture: an import declares them for all tests of the process.
for topic in TOPICS:
    declared.remove(topic)


@pytest.fixture(autouse=True, scope="module")
def chat_topics():
    for topic in TOPICS:
        declared.add(topic)
    yield
    for topic in TOPICS:
        declared.remove(topic)
