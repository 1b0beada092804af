"""Centrifugo, a real-time server in Go with the same protocol: its program and settings.

It is measured where the environment variable ``CENTRIFUGO`` has the path of its program:

    go install github.com/centrifugal/centrifugo/v6@v6.9.1
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

__all__ = ["command", "program", "variables", "version"]

# Like the topics of the sites: a history of a hundred publications, or none.
_HISTORY = {"history_size": 100, "history_ttl": "3600s", "force_recovery": True}
_NAMESPACES = {"kept": _HISTORY, "room": _HISTORY, "passing": {}}


def program() -> str | None:
    """Return the path of its program, if it is named and there."""
    path = os.environ.get("CENTRIFUGO", "")
    return path if os.access(path, os.X_OK) and Path(path).is_file() else None


def command(path: str, folder: Path, port: int, ping: float) -> list[str]:
    """Write the settings of a server and return the command that starts it.

    Args:
        path: of the program.
        folder: where the settings are written.
        port: where to listen.
        ping: seconds between two pings.
    """
    settings = {
        "http_server": {"address": "127.0.0.1", "port": port},
        "http_api": {"insecure": True},
        "log": {"level": "error"},
        "client": {
            # Clients need no token and have all permissions, like AllowAny in the sites.
            "insecure": True,
            "allowed_origins": ["*"],
            "ping_interval": f"{ping}s",
            "pong_timeout": f"{min(ping, 8) / 2}s",
        },
        "channel": {
            "namespaces": [
                {"name": name, **options} for name, options in _NAMESPACES.items()
            ]
        },
        "uni_sse": {"enabled": True},
        "http_stream": {"enabled": True},
    }
    file = folder / f"bench-centrifugo-{port}.json"
    folder.mkdir(exist_ok=True)
    file.write_text(json.dumps(settings))
    return [path, "--config", str(file)]


def variables(redis_url: str | None) -> dict[str, Any]:
    """Return the environment of its processes: one core each, as all servers have."""
    engine = {} if redis_url is None else {"CENTRIFUGO_ENGINE_REDIS_ADDRESS": redis_url}
    kind = "memory" if redis_url is None else "redis"
    return {"CENTRIFUGO_ENGINE_TYPE": kind, **engine}


@functools.cache
def version(path: str) -> str:
    """Return the version with which the program was built, as Go has noted it there."""
    found = re.search(rb"centrifugo/v\d+\tv([\d.]+)", Path(path).read_bytes())
    return found[1].decode() if found else "unknown"
