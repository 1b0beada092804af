"""gunicorn's worker for it: ``gunicorn -k tiderace.server.gunicorn.UvicornWorker``.

It knows the package ``uvicorn-worker`` and which protocol class to name there.
"""

from __future__ import annotations

import importlib.util
import signal
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

if importlib.util.find_spec("uvicorn_worker"):
    from uvicorn_worker import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        UvicornWorker as _Worker,
    )
elif not TYPE_CHECKING:

    class _Worker:
        """Stands in for a package that is not there, to say so when it is needed."""

        CONFIG_KWARGS: ClassVar[dict[str, Any]] = {}

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ImportError(
                "the gunicorn worker needs uvicorn-worker, which is not installed; "
                "install it with: pip install gunicorn uvicorn-worker"
            )


__all__ = ["UvicornWorker"]


class UvicornWorker(_Worker):  # type: ignore[misc,unused-ignore]
    """``uvicorn_worker.UvicornWorker`` with WebSockets served by Tiderace's class.

    To set more of uvicorn's options, subclass it and extend ``CONFIG_KWARGS``.

    Raises:
        ImportError: when ``uvicorn-worker`` is not installed.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        **_Worker.CONFIG_KWARGS,
        "ws": "tiderace.server:WebSocketProtocol",
        "ws_per_message_deflate": False,
    }

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at once, which gunicorn asks for with SIGQUIT and uvicorn calls SIGINT.

        The worker of ``uvicorn-worker`` (0.4) only notes it, and is killed in the end.
        """
        super().handle_exit(sig, frame)
        signal.raise_signal(signal.SIGINT)
