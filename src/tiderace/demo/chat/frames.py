"""The frames that a page sends, and their validation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = [
    "FRAME_LENGTH",
    "TEXT_LENGTH",
    "CatchUp",
    "FrameError",
    "NewMessage",
    "Ping",
    "Typing",
    "read",
]

TEXT_LENGTH = 2_000
FRAME_LENGTH = 16_384

_CLIENT_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
# Control characters except tab and newline; many databases refuse NUL.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LARGEST_ID = 2**63 - 1


class FrameError(Exception):
    """A frame is refused; the page gets ``code`` and ``detail``, and stays connected.

    ``client_id`` is the id of the refused message, if any; after ``retry_after``
    seconds the page may send the frame again.
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
        """Return the error frame for the page."""
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
class NewMessage:
    """A message, with the id that the page chose."""

    client_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Typing:
    """The person is typing."""


@dataclass(frozen=True, slots=True)
class Ping:
    """A heartbeat; the reply is ``{"type": "pong"}``."""


@dataclass(frozen=True, slots=True)
class CatchUp:
    """A request for the messages after this id (0: all)."""

    seen: int


def read(content: object) -> NewMessage | Typing | CatchUp | Ping:
    """Return the frame of decoded JSON.

    Raises:
        FrameError: when it is not an object, its ``type`` is unknown, or a field
            is missing, of the wrong type or too long.
    """
    if not isinstance(content, dict):
        raise FrameError("bad-frame", "a frame is a JSON object with a type")
    match content.get("type"):
        case "message":
            return _new_message(content)
        case "typing":
            return Typing()
        case "since":
            return CatchUp(_seen(content))
        case "ping":
            return Ping()
        case None:
            raise FrameError("bad-frame", "the frame has no type")
        case other:
            shown = str(other)[:40]
            raise FrameError(
                "unknown-type",
                f"unknown type {shown!a}; known are message, ping, since, typing",
            )


def _new_message(content: dict[str, Any]) -> NewMessage:
    client_id = content.get("id")
    if not isinstance(client_id, str) or not _CLIENT_ID.fullmatch(client_id):
        raise FrameError(
            "bad-id", "a message needs an id of 8 to 64 letters, digits and hyphens"
        )
    text = content.get("text")
    if not isinstance(text, str):
        raise FrameError(
            "bad-text", "a message needs a text, as a string", client_id=client_id
        )
    # A lone surrogate is valid JSON but cannot be encoded or stored.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _CONTROL.sub("", text.replace("\r\n", "\n")).strip()
    if not text:
        raise FrameError("empty", "the message is empty", client_id=client_id)
    if len(text) > TEXT_LENGTH:
        raise FrameError(
            "too-long",
            f"the message has {len(text)} characters; at most {TEXT_LENGTH} fit",
            client_id=client_id,
        )
    return NewMessage(client_id, text)


def _seen(content: dict[str, Any]) -> int:
    seen = content.get("id")
    if type(seen) is not int or not 0 <= seen <= _LARGEST_ID:
        raise FrameError("bad-id", "since needs the id of a message, or 0")
    return seen
