"""The contract of a channel layer as tests, for our layers and for yours.

    from tiderace.testing.layer_contract import LayerContract, StreamsContract

    class TestMyLayer(StreamsContract, LayerContract):
        @pytest.fixture
        def make_layer(self, broker):
            return lambda **options: MyLayer(broker, **options)

        @pytest.fixture
        async def layer(self, make_layer):
            layer = make_layer()
            yield layer
            await layer.close()

        async def advance(self, seconds):
            await broker.let_time_pass(seconds)

``StreamsContract`` is for layers with the extension ``"streams"``. The suites use the
layer's public methods alone. They need pytest with an asyncio plugin in automatic mode
(``asyncio_mode = "auto"``); importing them needs nothing.
"""

from __future__ import annotations

from tiderace.testing.layer_contract.layer import LayerContract
from tiderace.testing.layer_contract.mailboxes import LocalDeliveryContract
from tiderace.testing.layer_contract.stream_base import RecordingListener
from tiderace.testing.layer_contract.streams import StreamsContract

__all__ = [
    "LayerContract",
    "LocalDeliveryContract",
    "RecordingListener",
    "StreamsContract",
]
