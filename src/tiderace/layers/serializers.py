"""The registry of serializers, which turn messages into bytes: format, compression, encryption.

The format msgpack is that of ``tiderace.layers.encoding``, where the values that a message
may have are listed. A layer's option ``serializer_format`` selects a serializer by name,
and more can be registered::

    from tiderace.layers.serializers import BaseMessageSerializer, registry

    class CBORSerializer(BaseMessageSerializer):
        def as_bytes(self, message):
            return cbor2.dumps(message)

        def from_bytes(self, message):
            return cbor2.loads(message)

    registry.register_serializer("cbor", CBORSerializer)
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from tiderace.json_compat import to_plain, well_formed_json
from tiderace.layers import compression, encoding
from tiderace.layers.random_bytes import random_bytes

if TYPE_CHECKING:
    from cryptography.fernet import Fernet, MultiFernet

# Seconds added to the expiry of a token, as the clocks of two machines differ. An older
# token was delayed or replayed.
_CLOCK_MARGIN = 10


# Seconds for which the history that is being read is kept.
_history_seconds: ContextVar[float] = ContextVar(
    "tiderace_history_seconds", default=0.0
)


@contextlib.contextmanager
def reading_history(seconds: float) -> Iterator[None]:
    """Accept encrypted messages that are up to ``seconds`` old, as those of a history."""
    token = _history_seconds.set(seconds)
    try:
        yield
    finally:
        _history_seconds.reset(token)


class SerializerDoesNotExist(KeyError):
    """No serializer is registered for a format."""


class BaseMessageSerializer(ABC):
    """Turns messages into bytes, and back.

    ``serialize`` calls ``as_bytes``, compresses, encrypts and adds a random prefix;
    ``deserialize`` does the reverse. Compressed messages are read whatever the options,
    so that compression can be switched on or off process by process. To change the
    encryption key, first append the new one to the list everywhere, then move it to the
    front, and remove the old one when the longest history has passed.

    Args:
        symmetric_encryption_keys: strings or bytes of any length. The first encrypts,
            all of them decrypt; None or empty means no encryption.
        random_prefix_length: random bytes in front of each message, for brokers that
            store equal messages once; below 1 there are none.
        expiry: seconds after which an encrypted message is refused (10 are added, since
            clocks differ); None accepts any age. One of a history is accepted for as
            long as that lasts. Unencrypted messages have no time.
        compress_above: size in bytes above which messages are compressed; None, the
            default, compresses none. Beware: when a message contains both a secret and
            text of an attacker, its compressed length gives the secret away, encrypted
            or not.
        compression: ``"zlib"`` or ``"zstd"``.

    Raises:
        ValueError: for keys that are not a list, for encryption without the package
            ``cryptography``, and for an unknown compression.
        ImportError: for a compression whose package is not installed.

    Attributes:
        carries_bytes: whether the format has bytes; else publications that are bytes
            are sent as base64.
    """

    carries_bytes: ClassVar[bool] = False

    # Defaults for subclasses whose __init__ does not call this one.
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
        """Return the cipher for one key, which may be any string.

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
        """Return ``message`` in this format.

        Raises:
            TypeError: for a message that the format does not support.
        """

    @abstractmethod
    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """Undo ``as_bytes``, as far as the format preserves values."""

    def serialize(self, message: Any) -> bytes:
        """Return the bytes to send for ``message``.

        Raises:
            TypeError: for a message that cannot be sent, with the value at fault.
        """
        data = self.as_bytes(message)
        if self.compress_above is not None and len(data) > self.compress_above:
            data = compression.compress(data, self.compression)
        else:
            data = compression.wrap(data)
        if self.crypter is not None:
            data = self.crypter.encrypt(data)
        if self.random_prefix_length > 0:
            data = random_bytes(self.random_prefix_length) + data
        return data

    def deserialize(self, message: bytes) -> Any:
        """Undo ``serialize``.

        Raises:
            cryptography.fernet.InvalidToken: when no key fits, or the message is too old.
            Exception: the format's own error for bytes in another format.
        """
        if self.random_prefix_length > 0:
            message = message[self.random_prefix_length :]
        if self.crypter is not None:
            message = self.crypter.decrypt(message, self._ttl())
        return self.from_bytes(compression.decompress(message))

    def _ttl(self) -> int | None:
        if self.expiry is None:
            return None
        # Fernet counts whole seconds.
        return int(max(self.expiry, _history_seconds.get())) + _CLOCK_MARGIN


def _require_compression(above: int, algorithm: str) -> None:
    if isinstance(above, bool) or not isinstance(above, int) or above < 0:
        raise ValueError(
            f"compress_above is {above!r}; it is the size in bytes above which messages "
            "are compressed, such as 1024, or None for never"
        )
    compression.require_algorithm(algorithm)


class MissingSerializer(BaseMessageSerializer):
    """Takes the place of a serializer that is not available; raises ``exception``."""

    exception: ClassVar[Exception | None] = None

    # Not __init__: a TypeError about the abstract methods would be raised before it.
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raise ``exception``."""
        raise cls.exception or SerializerDoesNotExist(cls.__name__)


class JSONSerializer(BaseMessageSerializer):
    """Serializes messages as JSON in UTF-8, which is readable in Redis and other languages.

    Bytes cannot be sent; keys and aware datetimes arrive as strings.
    """

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """Return ``message`` as JSON; other arguments are those of ``json.dumps``."""
        if args or kwargs:
            return json.dumps(message, *args, **kwargs).encode()
        return encoding.encode_with(_json, message)

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """Parse JSON; other arguments are those of ``json.loads``."""
        return json.loads(message, *args, **kwargs)


def _json(message: Any) -> bytes:
    try:
        data = _encoder.encode(message).encode()
    except TypeError:  # of a key that msgpack takes, such as a NumPy scalar; or again
        data = _encoder.encode(_to_json_value(message)).encode()
    return well_formed_json(data) if rb"\ud" in data else data


def _to_json_value(value: Any) -> Any:
    """Return what to write in place of a value that JSON does not have."""
    if isinstance(value, _BINARY):
        raise TypeError("JSON has no bytes; the format msgpack has")
    # Nested bytes are left as they are, and passed to this function again.
    return msgspec.to_builtins(value, builtin_types=_BINARY, enc_hook=to_plain)


_BINARY = (bytes, bytearray, memoryview)
# check_circular=False: a message that contains itself fails as it does in msgpack.
_encoder = json.JSONEncoder(default=_to_json_value, check_circular=False)


class MsgPackSerializer(BaseMessageSerializer):
    """Serializes messages as msgpack: the default, small and fast."""

    carries_bytes: ClassVar[bool] = True

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """Return ``message`` as msgpack; takes no other arguments."""
        return encoding.encode(message, *args, **kwargs)

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """Parse msgpack; takes no other arguments."""
        return encoding.decode(message, *args, **kwargs)


class SerializersRegistry:
    """Serializer classes by the name of their format."""

    def __init__(self) -> None:
        self._registry: dict[str, type[Any]] = {}

    def register_serializer(self, format: str, serializer_class: type[Any]) -> None:  # noqa: A002
        """Register a class under the name ``format``; it replaces an earlier one.

        Raises:
            AssertionError: for something that is neither a subclass of
                ``BaseMessageSerializer`` nor a class with ``serialize`` and
                ``deserialize``.
        """
        is_serializer = isinstance(serializer_class, type) and (
            issubclass(serializer_class, BaseMessageSerializer)
            or all(hasattr(serializer_class, name) for name in _METHODS)
        )
        if not is_serializer:
            raise AssertionError(
                f"{serializer_class!r} cannot be the serializer of format {format!r}; "
                "register a class that has the methods serialize and deserialize, such "
                "as a subclass of BaseMessageSerializer"
            )
        self._registry[format] = serializer_class

    def get_serializer(self, format: str, *args: Any, **kwargs: Any) -> Any:  # noqa: A002
        """Return a new serializer for ``format``, made with the other arguments.

        Raises:
            SerializerDoesNotExist: when no class is registered under that name.
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


def make_serializer(
    serializer_format: str, compress_above: int | None, **options: Any
) -> Any:
    """Return the serializer that a layer's options describe.

    Raises:
        SerializerDoesNotExist: when no class is registered for the format.
    """
    compression = options.pop("compression")
    if compress_above is not None:
        # Otherwise left out, so that serializers without it can be registered.
        options.update(compress_above=compress_above, compression=compression)
    return registry.get_serializer(serializer_format, **options)
