"""The pytest plugin: the fixture ``topics``. pytest loads it wherever Tiderace is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiderace.testing.topics.testbed import TopicsTestbed

# Fixtures of pytest-django for the database, which must outlive the clients of a test.
_DATABASE_FIXTURES = ("transactional_db", "db")


@pytest.fixture
def topics(request: pytest.FixtureRequest) -> Iterator[TopicsTestbed]:
    """Fresh layers, captured publications and clients of topics."""
    from tiderace.testing.topics.testbed import TopicsTestbed

    for name in _DATABASE_FIXTURES:
        if name in request.fixturenames:
            request.getfixturevalue(name)
    with TopicsTestbed() as testbed:
        yield testbed
