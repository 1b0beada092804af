"""Stand-in for the top package ``channels``; its other modules are aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiderace import DEFAULT_CHANNEL_LAYER
from tiderace.compat.finder import import_submodule

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["DEFAULT_CHANNEL_LAYER", "__version__"]

# The version of Channels whose API is offered.
__version__ = "4.3.2"


def __getattr__(name: str) -> ModuleType:
    return import_submodule("channels", name)
