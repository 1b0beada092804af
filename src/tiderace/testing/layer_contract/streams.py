"""The contract of streams, whole; its parts are the rooms beside.

It adds nothing to them but a name.
"""

from __future__ import annotations

from tiderace.testing.layer_contract.stream_groups import GroupStreamsContract
from tiderace.testing.layer_contract.stream_listeners import ListeningContract
from tiderace.testing.layer_contract.stream_positions import PositionsContract
from tiderace.testing.layer_contract.stream_reading import ReadingContract

__all__ = ["StreamsContract"]


class StreamsContract(
    PositionsContract, ReadingContract, ListeningContract, GroupStreamsContract
):
    """What every layer with the extension ``"streams"`` does.

    Attributes:
        expiry: see ``LayerContract``.
        patience: see ``LayerContract``.
        keep: what the streams of these tests keep, unless they say otherwise.
    """
