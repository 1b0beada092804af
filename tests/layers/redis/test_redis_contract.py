"""The public contract of a channel layer, standalone, with Sentinel and with a cluster."""

from __future__ import annotations

from functools import partial

import pytest

from support.contracts.broker_contract import BrokerContract
from tiderace.layers.redis import RedisChannelLayer


class RedisContract(BrokerContract):
    """A subclass has the fixture ``host``."""

    @pytest.fixture
    def new_layer(self, host, prefix):
        return partial(RedisChannelLayer, hosts=[host], prefix=prefix)


class TestStandalone(RedisContract):
    @pytest.fixture
    def host(self, redis_url):
        return redis_url


class TestSentinel(RedisContract):
    @pytest.fixture
    def host(self, sentinel):
        return sentinel.host


class TestCluster(RedisContract):
    @pytest.fixture
    def host(self, cluster):
        return cluster.host
