"""How messages look between processes: their format, encryption and compression.

It knows bytes and the options that shape them; how they travel, and to whom, it does not
know. Formats are asked for by name (``serializer_format`` of a layer) and more can be
registered::

    from tiderace.layers.serializers import BaseMessageSerializer, registry

    class CBORSerializer(BaseMessageSerializer):
        def as_bytes(self, message):
            return cbor2.dumps(message)

        def from_bytes(self, message):
            return cbor2.loads(message)

    registry.register_serializer("cbor", CBORSerializer)

What both formats of ours take, and what arrives instead of a tuple, a UUID or a date, is
said in ``tiderace.layers.encoding``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from tiderace.layers import compression, encoding

if TYPE_CHECKING:
    from cryptography.fernet import Fernet, MultiFernet

__all__ = [
    "BaseMessageSerializer",
    "JSONSerializer",
    "MissingSerializer",
    "MsgPackSerializer",
    "SerializerDoesNotExist",
    "SerializersRegistry",
    "registry",
]

# A token that is older than the layer keeps messages was held back or repeated by
# somebody; the margin is for clocks that differ.
_CLOCK_MARGIN = 10


class SerializerDoesNotExist(KeyError):
    """No serializer is registered for a format."""


class BaseMessageSerializer(ABC):
    """Turns messages into the bytes that travel, and back.

    Outgoing: ``as_bytes``, then compression, encryption, a random prefix; incoming the
    same backwards. Compressed messages are understood whatever the options here, so
    compression can be switched on or off process by process. A new encryption key is
    introduced at the end of the list everywhere, then moved to its head.

    Args:
        symmetric_encryption_keys: strings or bytes of any length. The first encrypts,
            all of them decrypt; None or empty means no encryption.
        random_prefix_length: random bytes in front of each message, for brokers that
            store equal messages once; below 1 there are none.
        expiry: seconds after which an encrypted message is refused (10 are added, since
            clocks differ); None accepts any age. Unencrypted ones carry no time.
        compress_above: messages of more bytes than this are compressed; None, the
            default, compresses none. What an attacker can put into a message beside a
            secret tells him about the secret by the length, encrypted or not.
        compression: ``"zlib"`` or ``"zstd"``.

    Raises:
        ValueError: for keys that are no list, for encryption without the package
            ``cryptography``, and for an unknown compression.
        ImportError: for a compression whose package is not installed.
    """

    # For subclasses with an __init__ of their own that forgets ours.
    random_prefix_length: int = 0
    expiry: float | None = None
    crypter: MultiFernet | None = None
    compress_above: int | None = None
    compression: str = "zlib"

    def __init__(
        self,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 0,
        expiry: float | None = None,
        *,
        compress_above: int | None = None,
        compression: str = "zlib",
    ) -> None:
        self.random_prefix_length = random_prefix_length
        self.expiry = expiry
        self.compress_above = compress_above
        self.compression = compression
        self._setup_encryption(symmetric_encryption_keys)
        if compress_above is not None:
            _require_compression(compress_above, compression)

    def _setup_encryption(
        self, symmetric_encryption_keys: Iterable[str | bytes] | None
    ) -> None:
        if not symmetric_encryption_keys:
            self.crypter = None
            return
        if isinstance(symmetric_encryption_keys, str | bytes):
            raise ValueError(
                "symmetric_encryption_keys must be a list of possible keys"
            )
        fernets = [self.make_fernet(key) for key in symmetric_encryption_keys]
        from cryptography.fernet import MultiFernet

        self.crypter = MultiFernet(fernets)

    def make_fernet(self, key: str | bytes) -> Fernet:
        """The cipher for one key, which may be any string.

        Raises:
            ValueError: without the package ``cryptography``.
        """
        try:
            from cryptography.fernet import Fernet
        except ImportError:
            raise ValueError(
                "Cannot run with encryption without 'cryptography' installed. "
                "Run: python -m pip install 'tiderace[crypto]'"
            ) from None
        secret = key.encode() if isinstance(key, str) else key
        return Fernet(base64.urlsafe_b64encode(hashlib.sha256(secret).digest()))

    @abstractmethod
    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """``message`` in this format.

        Raises:
            TypeError: for a message that the format cannot say.
        """

    @abstractmethod
    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """The message that ``as_bytes`` was given, as far as the format can say it."""

    def serialize(self, message: Any) -> bytes:
        """The bytes that travel for ``message``.

        Raises:
            TypeError: for a message that cannot be sent, naming the part at fault.
        """
        data = self.as_bytes(message)
        if self.compress_above is not None and len(data) > self.compress_above:
            data = compression.compress(data, self.compression)
        else:
            data = compression.plain(data)
        if self.crypter is not None:
            data = self.crypter.encrypt(data)
        if self.random_prefix_length > 0:
            # Not from `random`: forked processes share its state, and so prefixes.
            data = os.urandom(self.random_prefix_length) + data
        return data

    def deserialize(self, message: bytes) -> Any:
        """The message that travelled as these bytes.

        Raises:
            cryptography.fernet.InvalidToken: when no key fits, or it is too old.
            Exception: whatever the format raises for bytes that are none of its own.
        """
        if self.random_prefix_length > 0:
            message = message[self.random_prefix_length :]
        if self.crypter is not None:
            message = self.crypter.decrypt(message, self._ttl())
        return self.from_bytes(compression.expand(message))

    def _ttl(self) -> int | None:
        # Fernet counts whole seconds.
        return None if self.expiry is None else int(self.expiry) + _CLOCK_MARGIN


def _require_compression(above: int, algorithm: str) -> None:
    if isinstance(above, bool) or not isinstance(above, int) or above < 0:
        raise ValueError(
            f"compress_above is {above!r}; it is the size in bytes above which messages "
            "are compressed, such as 1024, or None for never"
        )
    compression.require(algorithm)


class MissingSerializer(BaseMessageSerializer):
    """Stands in for a serializer that cannot be had; raises ``exception`` when used."""

    exception: ClassVar[Exception | None] = None

    # Not in __init__: an abstract class would complain of its methods first.
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raise ``exception``."""
        raise cls.exception or SerializerDoesNotExist(cls.__name__)


class JSONSerializer(BaseMessageSerializer):
    """Messages as JSON in UTF-8: readable in Redis, for readers in any language.

    Bytes cannot be sent; keys arrive as strings, an aware datetime too.
    """

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """``message`` as JSON; arguments are those of ``json.dumps``."""
        if args or kwargs:
            return json.dumps(message, *args, **kwargs).encode()
        try:
            return _json(message)
        except (TypeError, ValueError, RecursionError) as error:
            raise encoding.explained(message, error, _json) from None

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """The message; arguments are those of ``json.loads``."""
        return json.loads(message, *args, **kwargs)


def _json(message: Any) -> bytes:
    return _encoder.encode(message).encode()


def _json_value(value: Any) -> Any:
    """What to write instead of a value that JSON does not know."""
    if isinstance(value, _BINARY):
        raise TypeError("JSON has no bytes; the format msgpack has")
    # Left as they are, nested bytes come back here.
    return msgspec.to_builtins(value, builtin_types=_BINARY, enc_hook=encoding.plain)


_BINARY = (bytes, bytearray, memoryview)
# A message that contains itself then fails as it does in msgpack.
_encoder = json.JSONEncoder(default=_json_value, check_circular=False)


class MsgPackSerializer(BaseMessageSerializer):
    """Messages as msgpack: the default, small and fast."""

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """``message`` as msgpack; takes no further arguments."""
        return encoding.encode(message, *args, **kwargs)

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """The message; takes no further arguments."""
        return encoding.decode(message, *args, **kwargs)


class SerializersRegistry:
    """Serializers by the name of their format."""

    def __init__(self) -> None:
        self._registry: dict[str, type[Any]] = {}

    def register_serializer(self, format: str, serializer_class: type[Any]) -> None:  # noqa: A002
        """Let ``format`` name ``serializer_class``; a later one replaces an earlier.

        Raises:
            AssertionError: for something that is no subclass of
                ``BaseMessageSerializer`` and has not both ``serialize`` and
                ``deserialize``.
        """
        able = isinstance(serializer_class, type) and (
            issubclass(serializer_class, BaseMessageSerializer)
            or all(hasattr(serializer_class, name) for name in _METHODS)
        )
        if not able:
            raise AssertionError(
                f"{serializer_class!r} cannot be the serializer of format {format!r}; "
                "register a class that has the methods serialize and deserialize, such "
                "as a subclass of BaseMessageSerializer"
            )
        self._registry[format] = serializer_class

    def get_serializer(self, format: str, *args: Any, **kwargs: Any) -> Any:  # noqa: A002
        """A serializer for ``format``, made with the other arguments.

        Raises:
            SerializerDoesNotExist: when nothing is registered under that name.
        """
        try:
            serializer_class = self._registry[format]
        except KeyError:
            error = SerializerDoesNotExist(format)
            error.add_note(f"registered formats: {', '.join(map(str, self._registry))}")
            raise error from None
        return serializer_class(*args, **kwargs)


_METHODS = ("serialize", "deserialize")

registry: SerializersRegistry = SerializersRegistry()
registry.register_serializer("json", JSONSerializer)
registry.register_serializer("msgpack", MsgPackSerializer)
