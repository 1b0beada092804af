"""The Lua scripts of the ``lua`` folder: each runs as one atomic step at the server.

A script's keys and arguments have the names that its own statements
``local ... = unpack(KEYS)`` and ``local ... = unpack(ARGV)`` give them, in that order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "lua"

# Functions that scripts call, each in `lua/shared`; the first ones call others.
_SHARED = (
    "append",
    "find_earlier",
    "presence_group",
    "history_start",
    "load_state",
    "now_ms",
    "publish_message",
    "replication_id",
    "save_state",
    "take_token",
)

_UNPACKED = re.compile(rb"local ([\w,\s]+?) = unpack\((KEYS|ARGV)\b")


class Script:
    """A Lua script, run by its hash once the server has it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (_FOLDER / f"{name}.lua").read_bytes()
        for function in _SHARED:
            if f"{function}(".encode() in self.text:
                shared = _FOLDER / "shared" / f"{function}.lua"
                self.text = shared.read_bytes() + self.text
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        self.keys: list[str] = []
        self.arguments: list[str] = []
        for names, kind in _UNPACKED.findall(self.text):
            known = self.keys if kind == b"KEYS" else self.arguments
            known += [each.strip() for each in names.decode().split(",")]
        self._select = _getter((*self.keys, *self.arguments))

    def parameters(
        self,
        values: Mapping[str, Any],
        more_keys: Sequence[Any],
        more_arguments: Sequence[Any],
    ) -> list[Any]:
        """Return the number of keys, the keys and the arguments, as EVAL takes them.

        Args:
            values: the keys and arguments by name. Keys, and the last arguments, are left
                out if they are None.
            more_keys: keys without a name, after the others.
            more_arguments: arguments without a name, after the others.

        Raises:
            TypeError: when a name is missing or unknown.
        """
        if len(values) != len(self.keys) + len(self.arguments):
            raise self._wrong_names(values)
        try:
            # itemgetter is in C: this runs for every message that is published.
            found = list(self._select(values))
        except KeyError:
            raise self._wrong_names(values) from None
        count = len(self.keys)
        keys = [key for key in found[:count] if key is not None]
        keys += more_keys
        arguments = found[count:]
        while arguments and arguments[-1] is None:
            del arguments[-1]
        return [len(keys), *keys, *arguments, *more_arguments]

    def pack_start(self, keys: int, arguments: int) -> bytes:
        """Return the command without its parameters, in the protocol of Redis.

        Where a script runs often, packing the whole command each time takes as long as the
        rest of the call, so the parts that stay the same are packed once.

        Args:
            keys: the number of keys that follow.
            arguments: the number of arguments after them.
        """
        words = "EVALSHA", self.sha, str(keys)
        return f"*{len(words) + keys + arguments}\r\n".encode() + pack(*words)

    def _wrong_names(self, values: Mapping[str, Any]) -> TypeError:
        return TypeError(
            f"the script {self.name} takes {', '.join((*self.keys, *self.arguments))}; "
            f"given were {', '.join(values)}"
        )


def pack(*words: str | bytes) -> bytes:
    """Return words of a command in the protocol of Redis."""
    encoded = [each.encode() if isinstance(each, str) else each for each in words]
    return b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in encoded)


def _getter(
    names: Sequence[str],
) -> Callable[[Mapping[str, Any]], Iterable[Any]]:
    if len(names) > 1:
        return itemgetter(*names)
    # With one name itemgetter would return the value, not a tuple.
    return lambda values: [values[name] for name in names]


SCRIPTS: Mapping[str, Script] = {
    name: Script(name)
    for path in _FOLDER.rglob("*.lua")
    if not (name := path.relative_to(_FOLDER).with_suffix("").as_posix()).startswith(
        "shared/"
    )
}
"""The scripts by name."""
