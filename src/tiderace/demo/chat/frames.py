"""What a page may say on its socket, read strictly.

Pure: decoded JSON in, a frame or a refusal out. It knows no socket, room or
database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = [
    "FRAME_LENGTH",
    "TEXT_LENGTH",
    "Ping",
    "Refused",
    "Say",
    "Since",
    "Typing",
    "read",
]

TEXT_LENGTH = 2_000
FRAME_LENGTH = 16_384

_CLIENT_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
# Everything below space but tab and newline, and delete: never text, and a
# NUL is cut off or refused by many databases.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LARGEST_ID = 2**63 - 1


class Refused(Exception):
    """The page is told ``code`` and ``detail``, and its socket lives on.

    ``client_id`` names the message that was refused, when there is one;
    ``retry_after`` (seconds) says that the same frame may be sent again then.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        client_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.client_id = client_id
        self.retry_after = retry_after

    def as_dict(self) -> dict[str, Any]:
        """Return the refusal as the browser is told it."""
        answer: dict[str, Any] = {
            "type": "error",
            "code": self.code,
            "detail": self.detail,
        }
        if self.client_id is not None:
            answer["client_id"] = self.client_id
        if self.retry_after is not None:
            answer["retry_after"] = round(self.retry_after, 2)
        return answer


@dataclass(frozen=True, slots=True)
class Say:
    """A message, under the id its page chose for it."""

    client_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Typing:
    """The person is writing right now."""


@dataclass(frozen=True, slots=True)
class Ping:
    """The page asks whether anybody is there; the answer is ``{"type": "pong"}``."""


@dataclass(frozen=True, slots=True)
class Since:
    """The page has seen everything up to this message id (0: nothing yet)."""

    seen: int


def read(content: object) -> Say | Typing | Since | Ping:
    """Return the frame in decoded JSON.

    Raises:
        Refused: when it is not an object, its ``type`` is unknown, or a field
            is missing, of the wrong type or too long.
    """
    if not isinstance(content, dict):
        raise Refused("bad-frame", "a frame is a JSON object with a type")
    match content.get("type"):
        case "message":
            return _say(content)
        case "typing":
            return Typing()
        case "since":
            return Since(_seen(content))
        case "ping":
            return Ping()
        case None:
            raise Refused("bad-frame", "the frame has no type")
        case other:
            shown = str(other)[:40]
            raise Refused(
                "unknown-type",
                f"unknown type {shown!a}; known are message, ping, since, typing",
            )


def _say(content: dict[str, Any]) -> Say:
    client_id = content.get("id")
    if not isinstance(client_id, str) or not _CLIENT_ID.fullmatch(client_id):
        raise Refused(
            "bad-id", "a message needs an id of 8 to 64 letters, digits and hyphens"
        )
    text = content.get("text")
    if not isinstance(text, str):
        raise Refused(
            "bad-text", "a message needs a text, as a string", client_id=client_id
        )
    # A lone surrogate is valid in JSON but is no character: nothing can store it.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _CONTROL.sub("", text.replace("\r\n", "\n")).strip()
    if not text:
        raise Refused("empty", "the message is empty", client_id=client_id)
    if len(text) > TEXT_LENGTH:
        raise Refused(
            "too-long",
            f"the message has {len(text)} characters; at most {TEXT_LENGTH} fit",
            client_id=client_id,
        )
    return Say(client_id, text)


def _seen(content: dict[str, Any]) -> int:
    seen = content.get("id")
    if type(seen) is not int or not 0 <= seen <= _LARGEST_ID:
        raise Refused("bad-id", "since needs the id of a message, or 0")
    return seen
