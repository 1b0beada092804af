"""The Lua scripts of the broker over Redis, and the commands that run them.

A script is one step at the server, whoever else writes there. It knows the files of the
``lua`` folder, and no connection, no key and no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

__all__ = ["SCRIPTS", "Script"]

# What others begin with: whoever calls the function of that name gets it put before.
_SHARED = {"tell": "tell", "run": "run", "presence_room": "presence/room"}


class Script:
    """A Lua script of the ``lua`` folder, sent by its hash once the server has it."""

    def __init__(self, name: str) -> None:
        folder = resources.files("tiderace.layers.redis") / "lua"
        self.text = (folder / f"{name}.lua").read_bytes()
        for function, shared in _SHARED.items():
            if f"{function}(".encode() in self.text:
                self.text = (folder / f"{shared}.lua").read_bytes() + self.text
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()

    def by_sha(self, keys: Sequence[Any], arguments: Sequence[Any]) -> tuple[Any, ...]:
        """The command that runs it at a server that has it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def whole(self, keys: Sequence[Any], arguments: Sequence[Any]) -> tuple[Any, ...]:
        """The command that runs it anywhere, and lets the server have it."""
        return ("EVAL", self.text, len(keys), *keys, *arguments)


SCRIPTS: Mapping[str, Script] = {
    name: Script(name)
    for name in (
        "ack",
        "announce",
        "heartbeat",
        "join",
        "presence/confirm",
        "presence/due",
        "presence/add",
        "presence/remove",
        "presence/members",
        "presence/reap",
        "presence/refresh",
        "presence/stats",
        "publish",
        "push",
        "read",
        "refresh",
        "report",
        "read_after",
        "take_token",
        "take",
    )
}
"""All of them by name."""
