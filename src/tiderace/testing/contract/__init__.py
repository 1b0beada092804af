"""The contract of a channel layer as tests, for our layers and for yours.

    from tiderace.testing.contract import LayerContract

    class TestMyLayer(LayerContract):
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

It knows a layer by its public methods alone. It needs pytest with an asyncio plugin in
automatic mode (``asyncio_mode = "auto"``) to run, but nothing to be imported.
"""

from __future__ import annotations

from .layer import LayerContract
from .mailboxes import LocalDeliveryContract

__all__ = ["LayerContract", "LocalDeliveryContract"]
