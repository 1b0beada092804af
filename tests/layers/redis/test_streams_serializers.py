"""The contract of streams with JSON and with the pub/sub layer."""

from __future__ import annotations

import asyncio

import pytest

from tiderace.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer
from tiderace.testing.layer_contract import StreamsContract


class _Contract(StreamsContract):
    expiry = 0.4
    timeout = 20

    @pytest.fixture
    async def make_layer(self, redis_url, prefix):
        made = []

        def make(**options):
            layer = self.make(hosts=[redis_url], prefix=prefix, **options)
            made.append(layer)
            return layer

        yield make
        for layer in made:
            await layer.close()

    @pytest.fixture
    def layer(self, make_layer):
        return make_layer()

    async def advance(self, seconds):
        await asyncio.sleep(seconds)


class TestJson(_Contract):
    def make(self, **options):
        return RedisChannelLayer(serializer_format="json", **options)

    async def test_a_broadcast_is_a_json_publication_of_the_stream(self, layer):
        """The format JSON has no bytes: only text is broadcast."""
        await layer.stream_read("stream", keep=self.keep)
        await layer.group_broadcast("stream", '{"a": 1}')
        await layer.group_broadcast("stream", "no JSON")
        with pytest.raises(TypeError, match="JSON has no bytes"):
            await layer.group_broadcast("stream", bytes_data=b"\x00")

        assert await self.read_data(layer) == ['{"a": 1}', '"no JSON"']


class TestPubSubName(_Contract):
    def make(self, **options):
        return RedisPubSubChannelLayer(
            symmetric_encryption_keys=["secret"], compress_above=50, **options
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
