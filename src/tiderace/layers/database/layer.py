"""The channel layer over a database: PostgreSQL, or a SQLite file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.connection import ConnectionDoesNotExist

from tiderace.exceptions import InvalidChannelLayerError
from tiderace.layers.broker import GROUP_MAX_BYTES, Retention
from tiderace.layers.database.broker import DatabaseBroker
from tiderace.layers.database.sqlite.vendor import SqliteVendor
from tiderace.layers.database.vendor import Vendor
from tiderace.layers.local import DropLog
from tiderace.layers.options import refuse_unknown_options
from tiderace.layers.pubsub.layer import PubSubLayer
from tiderace.layers.serializers import make_serializer


class DatabaseChannelLayer(PubSubLayer):
    """The channel layer between processes that share a database.

    On PostgreSQL 14 or newer it connects the processes of all machines. It needs
    psycopg 3 (extra ``postgres``) and the tables of the app
    ``tiderace.layers.database``. A process opens two connections, and one that listens.

    On SQLite it connects the processes of one machine. It has a file of its own beside
    the site's, which it creates: it needs no migration, and the site's writes do not
    wait for it. A commit survives the end of every process. A power cut may lose the last
    commits; subscribers are told so.

    Args:
        using: the database in ``DATABASES``, of PostgreSQL or SQLite unless ``path`` is
            given.
        path: the SQLite file of the layer; by default beside the site's, named
            ``<name>.tiderace.sqlite3``. It must be on a local disk.
        prefix: the beginning of every name in the tables.
        expiry: seconds a message waits for its reader, and in which a process that
            was cut off misses nothing; 60.
        group_expiry: seconds a named channel stays in a group; one day. Sockets stay
            until they leave or end, however old.
        capacity: unread messages per channel; 100.
        channel_capacity: capacities by glob pattern of the full channel name.
        symmetric_encryption_keys: the first encrypts, all of them decrypt.
        serializer_format: ``"msgpack"``, ``"json"`` or one that is registered.
        publish_timeout: seconds a call waits for a database that is away or busy; 5.
        group_capacity: messages of a group kept for processes that are cut off.
        group_max_bytes: bytes of a group's messages that are kept, histories included.
        lease: seconds after which a process that was killed no longer counts.
        notify_dsn: PostgreSQL's connection string for the connection that listens,
            where ``DATABASES`` leads to a pooler; the layer polls where it cannot listen.
        compress_above: messages of more bytes are compressed; None for none.
        compression: the algorithm.

    Raises:
        TypeError: for any other option, with the nearest known one.
        InvalidChannelLayerError: for a database that the layer cannot use.
    """

    def __init__(
        self,
        using: str = DEFAULT_DB_ALIAS,
        path: str | Path | None = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        serializer_format: str = "msgpack",
        *,
        publish_timeout: float = 5.0,
        group_capacity: int = 10_000,
        group_max_bytes: int = GROUP_MAX_BYTES,
        lease: float = 30.0,
        notify_dsn: str = "",
        compress_above: int | None = None,
        compression: str = "zlib",
        **unknown: Any,
    ) -> None:
        refuse_unknown_options(self, unknown)
        self.using = using
        self.prefix = prefix
        vendor = make_vendor(using, path, notify_dsn)
        serializer = make_serializer(
            serializer_format,
            compress_above,
            expiry=expiry,
            symmetric_encryption_keys=symmetric_encryption_keys,
            random_prefix_length=0,
            compression=compression,
        )
        super().__init__(
            [
                DatabaseBroker(
                    vendor,
                    prefix=prefix,
                    publish_timeout=publish_timeout,
                    max_bytes=group_max_bytes,
                    # Registered serializers may have none.
                    crypter=getattr(serializer, "crypter", None),
                )
            ],
            index_of=_first,
            serializer=serializer,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            keep=Retention(group_capacity, expiry),
            lease=lease,
            drop_log=DropLog(),
        )

    def __str__(self) -> str:
        return f"{type(self).__name__}(using={self.using!r})"


def _first(name: str) -> int:
    """Return the index of the broker for a name: 0, as there is one broker."""
    return 0


def make_vendor(using: str, path: str | Path | None, notify_dsn: str) -> Vendor:
    """Return the vendor of a database of the project.

    Raises:
        InvalidChannelLayerError: when the layer cannot use it.
    """
    try:
        engine = connections[using].vendor
    except ConnectionDoesNotExist:
        known = ", ".join(map(repr, connections.settings))
        raise InvalidChannelLayerError(
            f"the channel layer uses the database {using!r}, which is not in DATABASES "
            f"(there are {known}); correct its option 'using'"
        ) from None
    if engine == "sqlite" or path is not None:
        return SqliteVendor(using, None if path is None else Path(path))
    if engine == "postgresql":
        # psycopg is an extra.
        from tiderace.layers.database.postgresql import PostgresVendor

        return PostgresVendor(using, notify_dsn=notify_dsn)
    raise InvalidChannelLayerError(
        f"the channel layer cannot use the database {using!r}, of the vendor {engine!r}: "
        "if all processes are on one machine, give its option 'path' for a SQLite file "
        "of its own; else take tiderace.layers.redis.RedisChannelLayer"
    )
