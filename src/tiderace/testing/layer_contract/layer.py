"""The contract of a channel layer, whole; its parts are the rooms beside.

It adds nothing to them but how they are used.
"""

from __future__ import annotations

from tiderace.testing.layer_contract.channels import ChannelsContract
from tiderace.testing.layer_contract.contents import ContentsContract
from tiderace.testing.layer_contract.event_loops import LoopsContract
from tiderace.testing.layer_contract.groups import GroupsContract
from tiderace.testing.layer_contract.names import NamesContract

__all__ = ["LayerContract"]


class LayerContract(
    ChannelsContract,
    NamesContract,
    ContentsContract,
    GroupsContract,
    LoopsContract,
):
    """What every channel layer does; to be subclassed by a test class.

    The subclass gives two fixtures: ``make_layer``, a function that makes a layer with
    the options ``expiry``, ``group_expiry``, ``capacity`` and ``channel_capacity``, and
    ``layer``, one with its defaults. It also says in ``advance`` how time passes.

    Attributes:
        expiry: seconds after which messages expire in these tests; a layer whose
            ``advance`` really waits sets it low.
        group_expiry: the same for memberships; longer than ``expiry``.
        patience: seconds to wait for what must come, before the test fails.
    """
