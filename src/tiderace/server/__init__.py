"""How Tiderace is served: a fast WebSocket protocol for uvicorn, and a server to develop on.

Importing it imports no server; the names below come when they are asked for, and need
the extra ``tiderace[server]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .outgoing import ReadyFrames
    from .protocol import WebSocketProtocol

__all__ = ["ReadyFrames", "WebSocketProtocol"]


def __getattr__(name: str) -> Any:
    if name == "WebSocketProtocol":
        from .protocol import WebSocketProtocol

        return WebSocketProtocol
    if name == "ReadyFrames":
        from .outgoing import ReadyFrames

        return ReadyFrames
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
