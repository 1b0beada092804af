"""A fast WebSocket protocol for uvicorn, and a server for development.

Importing the package does not import uvicorn; ``WebSocketProtocol`` is imported at its
first use, and needs the extra ``tiderace[server]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiderace.server.writer import ServerFrameWriter

if TYPE_CHECKING:
    from tiderace.server.protocol import WebSocketProtocol

__all__ = ["ServerFrameWriter", "WebSocketProtocol"]


def __getattr__(name: str) -> Any:
    if name == "WebSocketProtocol":
        from tiderace.server.protocol import WebSocketProtocol

        return WebSocketProtocol
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
