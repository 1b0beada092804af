"""Parses a WebSocket's opening request, and builds the responses (RFC 6455, 4); no I/O."""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import unquote

import msgspec

Headers = Iterable[tuple[bytes, bytes]]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = b"13"
_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-accept: %b"
)
# The headers of the handshake; repeated ones are read as one list (RFC 9110, 5.3).
_HANDSHAKE = frozenset(
    {b"sec-websocket-key", b"sec-websocket-protocol", b"sec-websocket-version"}
)
# The largest request, in bytes and headers.
MAX_SIZE = 64 * 1024
MAX_HEADERS = 256


class HandshakeRefused(Exception):
    """The request opens no WebSocket, and is to be answered with ``status``."""

    def __init__(
        self, status: int, reason: str, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers or []


class Request(msgspec.Struct, frozen=True):
    """An opening request: path, raw path and query string, headers and the WebSocket's fields."""

    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    key: bytes
    subprotocols: list[str]


def read_request(head: bytes) -> Request:
    """Parse a request, from its first line to the empty one; header names in lower case.

    Raises:
        HandshakeRefused: 405 for another method than GET, 426 for another version than
            13, 431 for more than 64 KiB or 256 headers, 400 without a key of 16 bytes or
            for a request that cannot be parsed.
    """
    return _read(head)[0]


def _read(head: bytes) -> tuple[Request, dict[bytes, bytes]]:
    """Return a request, and its headers by name; a repeated one is the last, or a list."""
    line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if len(head) > MAX_SIZE or len(lines) > MAX_HEADERS:
        raise HandshakeRefused(431, "the request is too long")
    method, _, rest = line.partition(b" ")
    target, _, _ = rest.rpartition(b" ")
    if method != b"GET":
        raise HandshakeRefused(405, "a WebSocket opens with GET", [(b"allow", b"GET")])
    raw_path, _, query_string = target.partition(b"?")
    path = _decode_path(raw_path, query_string)
    headers = [_known_headers.get(line) or _header(line) for line in lines]
    fields = dict(headers)
    if len(fields) < len(headers):
        for name in fields.keys() & _HANDSHAKE:
            fields[name] = b", ".join([value for n, value in headers if n == name])
    _check_version(fields.get(b"sec-websocket-version"))
    key = fields.get(b"sec-websocket-key", b"")
    _check_key(key)
    subprotocols: list[str] = []
    if offered := fields.get(b"sec-websocket-protocol"):
        names = offered.decode("latin-1").split(",")
        subprotocols = [name.strip() for name in names if name.strip()]
    return Request(path, raw_path, query_string, headers, key, subprotocols), fields


# A whole request without anything that only a full HTTP parser can judge, such as another
# version, an absolute address, folded lines or characters that RFC 9110 forbids.
_PLAIN = re.compile(
    rb"GET /[!-~]* HTTP/1\.1\r\n(?:[\w!#$%&'*+\-.^`|~]+:[\t -~\x80-\xff]*\r\n)+\r\n"
)
# Headers of a request with a body, or with a client that waits.
_BODY = frozenset({b"content-length", b"expect", b"transfer-encoding"})


def read_plain_request(data: bytes) -> tuple[Request, bytes] | None:
    """Parse what browsers send to open a WebSocket; return the request and what follows.

    None for everything else, valid or not: it needs a full HTTP parser.
    """
    if b"ebsocket" not in data and b"ebSocket" not in data:
        return None
    head = _PLAIN.match(data)
    if head is None:
        return None
    try:
        request, fields = _read(head[0])
    except HandshakeRefused:
        return None
    options = fields.get(b"connection", b"").lower()
    if (
        fields.get(b"upgrade", b"").lower() != b"websocket"
        # Most browsers send nothing else.
        or (
            options != b"upgrade"
            and b"upgrade" not in [option.strip() for option in options.split(b",")]
        )
        or not _BODY.isdisjoint(fields)
    ):
        return None
    return request, data[head.end() :]


# Lines of headers that many clients send alike, parsed once and shared: browsers send
# about 1.5 KB of them, which each connection would keep in its scope.
_known_headers: dict[bytes, tuple[bytes, bytes]] = {}
_MAX_KNOWN = 512
_KNOWN_LENGTH = 256  # bytes of a line, so that clients cannot fill the memory
# Those whose values differ from client to client, or are secrets.
_own_headers = {
    name: name
    for name in (
        b"authorization",
        b"cookie",
        b"forwarded",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"x-forwarded-for",
        b"x-real-ip",
    )
}


def _header(line: bytes) -> tuple[bytes, bytes]:
    """Parse a header, and keep it if it may be the same for other clients."""
    name, _, value = line.partition(b":")
    name = name.lower()
    own = _own_headers.get(name)
    header = own or name, value.strip(b" \t")
    if own is None and len(line) <= _KNOWN_LENGTH:
        if len(_known_headers) >= _MAX_KNOWN:
            _known_headers.clear()
        _known_headers[line] = header
    return header


def accept_response(key: bytes, subprotocol: str | None, headers: Headers) -> bytes:
    """Build the 101 that makes the connection a WebSocket.

    Raises:
        ValueError: when a header or the subprotocol holds a line break.
    """
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    own = list(headers)
    if subprotocol:
        own.insert(0, (b"sec-websocket-protocol", subprotocol.encode("latin-1")))
    return _lines(_ACCEPTED % binascii.b2a_base64(digest, newline=False), own)


def http_response(
    status: int, headers: Headers, body: bytes, *, whole: bool = True
) -> bytes:
    """Build a response that refuses the handshake, and so ends the connection.

    Unless ``whole``, more of the body follows, up to the end of the connection.

    Raises:
        ValueError: when a header holds a line break.
    """
    headers = list(headers)
    names = {name.lower() for name, _ in headers}
    if b"content-type" not in names:
        headers.append((b"content-type", b"text/plain; charset=utf-8"))
    if whole and b"content-length" not in names:
        headers.append((b"content-length", str(len(body)).encode()))
    if b"connection" not in names:
        headers.append((b"connection", b"close"))
    return _head(status, headers) + body


def _head(status: int, headers: Headers) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return _lines(f"HTTP/1.1 {status} {phrase}".encode(), headers)


def _lines(start: bytes, headers: Headers) -> bytes:
    """Return the first lines of a response with the lines of its headers."""
    lines = [start]
    for name, value in headers:
        line = b"%b: %b" % (name, value)
        if b"\r" in line or b"\n" in line:
            raise ValueError(f"the header {name!r} holds a line break: {value!r}")
        lines.append(line)
    return b"\r\n".join([*lines, b"\r\n"])


def _decode_path(raw_path: bytes, query_string: bytes) -> str:
    target = (raw_path + query_string).decode("latin-1")
    if not target.isascii() or not target.isprintable():
        raise HandshakeRefused(400, "the address is not ASCII; percent-encode it")
    if b"%" not in raw_path:
        return raw_path.decode()
    try:
        return unquote(raw_path.decode(), errors="strict")
    except UnicodeDecodeError:
        raise HandshakeRefused(400, "the path, percent-decoded, is not UTF-8") from None


def _check_version(version: bytes | None) -> None:
    if version != _VERSION:
        sent = (version or b"none").decode("latin-1")
        raise HandshakeRefused(
            426,
            f"the WebSocket version must be 13, not {sent}",
            [(b"sec-websocket-version", _VERSION), (b"upgrade", b"websocket")],
        )


def _check_key(key: bytes) -> None:
    try:
        nonce = binascii.a2b_base64(key, strict_mode=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise HandshakeRefused(
            400, "there must be one Sec-WebSocket-Key, of 16 bytes in base64"
        )
