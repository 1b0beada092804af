"""Fixtures of the whole suite: Redis servers, each started once, and a site to drain.

``REDIS_URL`` names another server for the tests that only need one (it is not emptied;
every test has a prefix of its own). Tests that hurt a server start their own.
"""

from __future__ import annotations

import os
import uuid

import pytest

pytest.register_assert_rewrite(
    "support.contracts.presence_contract",
    "support.contracts.process_contract",
    "support.contracts.sweeping_contract",
)
pytest_plugins = ["support.run_rules", "tiderace.pytest_plugin"]

from support.servers.brokers import Cluster, SentinelSetup, Server  # noqa: E402
from support.servers.drain_server import drain_site  # noqa: E402, F401
from tiderace.layers import InMemoryChannelLayer, channel_layers  # noqa: E402
from tiderace.runtime.lifespan import process_lifespan  # noqa: E402


@pytest.fixture(scope="session")
def shared_server():
    """The server that tests share and leave alone; None when ``REDIS_URL`` names one."""
    if os.environ.get("REDIS_URL"):
        yield None
        return
    with Server() as server:
        yield server


@pytest.fixture
def redis_url(shared_server):
    """The address of a server, empty unless ``REDIS_URL`` names it."""
    if shared_server is None:
        yield os.environ["REDIS_URL"]
        return
    yield shared_server.url
    shared_server.flush()


@pytest.fixture
def own_lifespan(monkeypatch):
    """Forget the hooks that this test, or an app it installs, adds to the process."""
    monkeypatch.setattr(process_lifespan, "startup", [*process_lifespan.startup])
    monkeypatch.setattr(process_lifespan, "shutdown", [*process_lifespan.shutdown])


@pytest.fixture
def layer():
    """Make a new memory layer the default one."""
    layer = InMemoryChannelLayer()
    before = channel_layers.set("default", layer)
    yield layer
    channel_layers.backends.pop("default", None)
    if before is not None:
        channel_layers.set("default", before)


@pytest.fixture
def prefix():
    """A prefix for keys that no other test uses."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def own_server():
    """A server of this test's own, to be cut, paused, killed and emptied."""
    with Server() as server:
        yield server


@pytest.fixture
def durable_server():
    """The same with an append-only file: what it took it has after ``restart()``."""
    with Server(append_only=True) as server:
        yield server


@pytest.fixture(scope="session")
def shared_sentinel():
    """A primary, a replica and one sentinel with a password; nobody fails over here."""
    with SentinelSetup() as setup:
        yield setup


@pytest.fixture
def sentinel(shared_sentinel):
    """The shared Sentinel set-up, emptied afterwards."""
    yield shared_sentinel
    shared_sentinel.primary().flush()


@pytest.fixture
def own_sentinel():
    """A Sentinel set-up of this test's own, to ``fail_over()``."""
    with SentinelSetup() as setup:
        yield setup


@pytest.fixture(scope="session")
def shared_cluster():
    """Three nodes of a cluster that tests leave alone."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster):
    """The shared cluster, emptied afterwards."""
    yield shared_cluster
    shared_cluster.flush()
