"""The contract of streams with JSON and with the pub/sub layer."""

from __future__ import annotations

from functools import partial

import pytest

from support.contracts.broker_contract import RealTime
from tiderace.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer
from tiderace.testing.layer_contract import StreamsContract


class TestJson(RealTime, StreamsContract):
    @pytest.fixture
    def new_layer(self, redis_url, prefix):
        return partial(
            RedisChannelLayer,
            hosts=[redis_url],
            prefix=prefix,
            serializer_format="json",
        )

    async def test_a_broadcast_is_a_json_publication_of_the_stream(self, layer):
        """The format JSON has no bytes: only text is broadcast."""
        await layer.stream_read("stream", keep=self.keep)
        await layer.group_broadcast("stream", '{"a": 1}')
        await layer.group_broadcast("stream", "no JSON")
        with pytest.raises(TypeError, match="JSON has no bytes"):
            await layer.group_broadcast("stream", bytes_data=b"\x00")

        assert await self.read_data(layer) == ['{"a": 1}', '"no JSON"']


class TestPubSubName(RealTime, StreamsContract):
    @pytest.fixture
    def new_layer(self, redis_url, prefix):
        return partial(
            RedisPubSubChannelLayer,
            hosts=[redis_url],
            prefix=prefix,
            symmetric_encryption_keys=["secret"],
            compress_above=50,
        )

    async def test_an_invalid_group_name_is_refused_by_every_stream_method(self, layer):
        """Every string is a valid name there."""
        with pytest.raises(TypeError):
            await layer.stream_read(7, keep=self.keep)

    async def test_any_value_arrives_as_json(self, layer):
        await layer.stream_read("stream", keep=self.keep)
        for value in (7, "text", [1, None]):
            await layer.group_send("stream", value)

        assert await self.read_data(layer) == ["7", '"text"', "[1,null]"]
