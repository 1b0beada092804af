"""Protocols for uvicorn, of which that for WebSockets is fast, and a server for development.

Importing the package does not import uvicorn; the protocols are imported at their first
use, and need the extra ``tiderace[server]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tiderace.server.writer import ServerFrameWriter

if TYPE_CHECKING:
    from tiderace.server.http import HttpProtocol
    from tiderace.server.protocol import WebSocketProtocol

__all__ = ["HttpProtocol", "ServerFrameWriter", "WebSocketProtocol"]


def __getattr__(name: str) -> Any:
    module = {"HttpProtocol": "http", "WebSocketProtocol": "protocol"}.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
