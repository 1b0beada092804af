"""gunicorn's worker for it: ``gunicorn -k tiderace.server.gunicorn.UvicornWorker``.

It knows the package ``uvicorn-worker`` and which protocol class to name there.
"""

from __future__ import annotations

from typing import Any, ClassVar

try:
    import uvicorn_worker  # type: ignore[import-not-found,unused-ignore]
except ImportError as error:
    raise ImportError(
        "the gunicorn worker needs uvicorn-worker, which is not installed; "
        "install it with: pip install gunicorn uvicorn-worker"
    ) from error

from tiderace.server.protocol import WebSocketProtocol

__all__ = ["UvicornWorker"]


class UvicornWorker(uvicorn_worker.UvicornWorker):  # type: ignore[misc,unused-ignore]
    """``uvicorn_worker.UvicornWorker`` with WebSockets served by Tiderace's class.

    To set more of uvicorn's options, subclass it and extend ``CONFIG_KWARGS``.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        **uvicorn_worker.UvicornWorker.CONFIG_KWARGS,
        "ws": WebSocketProtocol,
        "ws_per_message_deflate": False,
    }
