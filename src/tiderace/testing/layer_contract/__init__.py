"""The contract of a channel layer as test classes to subclass.

::

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
            await broker.advance(seconds)

Every layer passes ``LayerContract``. Add ``StreamsContract`` for a layer with the
extension ``"streams"``, ``LocalDeliveryContract`` for one with ``attach`` and
``detach``. The tests use public methods of the layer only. They need pytest with an
asyncio plugin in automatic mode (``asyncio_mode = "auto"``); the import needs neither.
"""

from __future__ import annotations

from tiderace.testing.layer_contract.base import RecordingListener
from tiderace.testing.layer_contract.channels import ChannelsContract
from tiderace.testing.layer_contract.event_loops import EventLoopsContract
from tiderace.testing.layer_contract.groups import GroupsContract
from tiderace.testing.layer_contract.local_delivery import LocalDeliveryContract
from tiderace.testing.layer_contract.messages import MessagesContract
from tiderace.testing.layer_contract.names import NamesContract
from tiderace.testing.layer_contract.stream_groups import GroupStreamsContract
from tiderace.testing.layer_contract.stream_listeners import StreamListenersContract
from tiderace.testing.layer_contract.stream_positions import StreamPositionsContract
from tiderace.testing.layer_contract.stream_reading import StreamReadingContract

__all__ = [
    "LayerContract",
    "LocalDeliveryContract",
    "RecordingListener",
    "StreamsContract",
]


class LayerContract(
    ChannelsContract,
    NamesContract,
    MessagesContract,
    GroupsContract,
    EventLoopsContract,
):
    """The behaviour of every channel layer.

    A subclass defines two fixtures and a method: ``make_layer``, a function that makes
    a layer with the options ``expiry``, ``group_expiry``, ``capacity`` and
    ``channel_capacity``; ``layer``, a layer with the defaults; and ``advance``.

    Attributes:
        expiry: seconds after which messages expire in these tests; low where
            ``advance`` waits in real time.
        group_expiry: the same for memberships; longer than ``expiry``.
        timeout: seconds to wait for an expected message before the test fails.
    """


class StreamsContract(
    StreamPositionsContract,
    StreamReadingContract,
    StreamListenersContract,
    GroupStreamsContract,
):
    """The behaviour of every layer with the extension ``"streams"``.

    Fixtures and attributes as in ``LayerContract``.

    Attributes:
        keep: the retention of the streams, where a test needs no other.
    """
