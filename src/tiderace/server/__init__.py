"""How Tiderace is served: a fast WebSocket protocol for uvicorn, and a server to develop on.

Importing it imports no server; ``WebSocketProtocol`` comes when it is asked for, and
needs the extra ``tiderace[server]``.
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
