"""The contract of streams with a memory as tests, for layers with that extension.

    from tiderace.testing.contract import LayerContract
    from tiderace.testing.contract_streams import StreamsContract

    class TestMyLayer(StreamsContract, LayerContract):
        ...  # the fixtures and ``advance``, as for ``LayerContract`` alone

It knows a layer by its public methods alone, and needs what ``LayerContract`` needs.
"""

from __future__ import annotations

from .basis import Ear
from .streams import StreamsContract

__all__ = ["Ear", "StreamsContract"]
