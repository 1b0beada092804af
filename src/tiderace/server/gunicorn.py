"""The worker class for gunicorn: ``gunicorn -k tiderace.server.gunicorn.UvicornWorker``."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, ClassVar

try:
    from uvicorn_worker import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        UvicornWorker as _BaseWorker,
    )
except ImportError as error:
    raise ImportError(
        "the gunicorn worker needs uvicorn-worker, which is not installed; "
        "install it with: pip install gunicorn uvicorn-worker"
    ) from error


class UvicornWorker(_BaseWorker):  # type: ignore[misc,unused-ignore]
    """``uvicorn_worker.UvicornWorker`` with Tiderace's protocol classes.

    To set more of uvicorn's options, subclass it and extend ``CONFIG_KWARGS``.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        **_BaseWorker.CONFIG_KWARGS,
        "http": "tiderace.server:HttpProtocol",
        "ws": "tiderace.server:WebSocketProtocol",
        "ws_per_message_deflate": False,
    }

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at once on gunicorn's SIGQUIT, which for uvicorn is SIGINT.

        The worker of ``uvicorn-worker`` (0.4) only stores the signal, and is killed in
        the end.
        """
        super().handle_exit(sig, frame)
        signal.raise_signal(signal.SIGINT)
