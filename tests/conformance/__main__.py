"""Serve the conformance site: ``python -m conformance --port 8000``."""

from __future__ import annotations

import argparse

import uvicorn

__all__ = ["main"]


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--ws", default="tiderace.server:WebSocketProtocol", help="uvicorn's option"
    )
    options = parser.parse_args()
    uvicorn.run(
        "conformance.asgi:application",
        host=options.host,
        port=options.port,
        ws=options.ws,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
