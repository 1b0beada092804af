"""The frames that a page sends, and their validation."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

TEXT_LENGTH = 2_000
FRAME_LENGTH = 16_384

_CLIENT_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
# Control characters except tab and newline; many databases refuse NUL.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LARGEST_ID = 2**63 - 1


class FrameError(Exception):
    """A frame is refused; the page gets ``answer``, and stays connected.

    Args:
        code: one word for the reason.
        detail: a sentence.
        more: ``client_id``, the id of the refused message, and ``retry_after``, seconds
            after which the page may send the frame again.
    """

    def __init__(self, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.answer = {"type": "error", "code": code, "detail": detail, **more}


def read(content: object) -> dict[str, Any]:
    """Return the validated fields of decoded JSON.

    These are ``type``, and of ``message`` the ``id`` that the page chose and the ``text``,
    of ``since`` the ``id`` of the last message that the page has; ``typing`` and the
    heartbeat ``ping`` have none.

    Raises:
        FrameError: when it is not an object, its ``type`` is unknown, or a field
            is missing, of the wrong type or too long.
    """
    if not isinstance(content, dict):
        raise FrameError("bad-frame", "a frame is a JSON object with a type")
    match content.get("type"):
        case "message":
            return _message(content)
        case "since":
            seen = content.get("id")
            if type(seen) is not int or not 0 <= seen <= _LARGEST_ID:
                raise FrameError("bad-id", "since needs the id of a message, or 0")
            return {"type": "since", "id": seen}
        case "typing" | "ping" as kind:
            return {"type": kind}
        case None:
            raise FrameError("bad-frame", "the frame has no type")
        case other:
            shown = str(other)[:40]
            raise FrameError(
                "unknown-type",
                f"unknown type {shown!a}; known are message, ping, since, typing",
            )


def _message(content: dict[str, Any]) -> dict[str, Any]:
    client_id = content.get("id")
    if not isinstance(client_id, str) or not _CLIENT_ID.fullmatch(client_id):
        raise FrameError(
            "bad-id", "a message needs an id of 8 to 64 letters, digits and hyphens"
        )
    refused = partial(FrameError, client_id=client_id)
    text = content.get("text")
    if not isinstance(text, str):
        raise refused("bad-text", "a message needs a text, as a string")
    # A lone surrogate is valid JSON but cannot be encoded or stored.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _CONTROL.sub("", text.replace("\r\n", "\n")).strip()
    if not text:
        raise refused("empty", "the message is empty")
    if len(text) > TEXT_LENGTH:
        detail = f"the message has {len(text)} characters; at most {TEXT_LENGTH} fit"
        raise refused("too-long", detail)
    return {"type": "message", "id": client_id, "text": text}
