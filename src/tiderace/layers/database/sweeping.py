"""Deletes expired rows in short transactions."""

from __future__ import annotations

import asyncio

from tiderace.layers.database.executor import Executor
from tiderace.layers.database.retention import StreamRetention
from tiderace.layers.database.stream_changes import delete_entries
from tiderace.layers.database.vendor import Cursor

_ROWS = 200  # deleted from one table by one transaction
_MESSAGES = 1000  # deleted from one stream by one transaction

# Tables whose rows expire one by one: name, key, and the condition of expired rows.
_EXPIRING = (
    ("once", "subject, idempotency_key", "expires_ms <= %s"),
    ("queue", "id", "expires_ms <= %s"),
    ("bucket", "name", "full_ms <= %s"),
    ("presence_group", "name", "connections <= 0 AND ends_ms <= %s"),
)


async def sweep(executor: Executor) -> None:
    """Delete expired rows; without any, no transaction writes.

    Any process may do it at any time; several at once only repeat each other's work.

    Raises:
        LayerUnavailable: when the database could not be reached.
    """
    write = executor.write
    while True:
        streams, processes, tables = await executor.read(_find_due)
        if not (streams or processes or tables):
            return
        await asyncio.gather(
            *(write(_sweep_stream, each, lock=(f"stream {each}",)) for each in streams),
            *(
                write(_sweep_process, each, lock=(f"process {each}",))
                for each in processes
            ),
            *(write(_sweep_table, *each, lock=("sweep",)) for each in tables),
        )


def _find_due(
    cursor: Cursor,
) -> tuple[list[str], list[str], list[tuple[str, str, str]]]:
    """Return the streams to check, the processes that died, and tables to delete from."""
    now = cursor.now_ms
    streams = cursor.fetch(
        "SELECT subject FROM tiderace_layer_stream WHERE check_ms <= %s "
        f"ORDER BY check_ms LIMIT {_ROWS}",
        (now,),
    )
    processes = cursor.fetch(
        "SELECT name FROM tiderace_layer_process WHERE expires_ms <= %s LIMIT 20",
        (now,),
    )
    tables = [
        table
        for table in _EXPIRING
        if cursor.fetch(
            f"SELECT 1 FROM tiderace_layer_{table[0]} WHERE {table[2]} LIMIT 1",
            (now,),
        )
    ]
    return [name for (name,) in streams], [name for (name,) in processes], tables


def _sweep_stream(cursor: Cursor, subject: str) -> None:
    """Delete the messages of a stream that are not kept, and a stream that is not used."""
    now = cursor.now_ms
    rows = cursor.fetch(
        "SELECT last_number, used_ms, retention FROM tiderace_layer_stream "
        "WHERE subject = %s AND check_ms <= %s",
        (subject, now),
    )
    if not rows:
        return
    last, used_ms, text = rows[0]
    retention = StreamRetention.decode(text)
    is_unused = used_ms + retention.position_ttl_ms(last) <= now
    before = retention.mark[0]
    obsolete = last if is_unused else retention.expired(last, now)
    next_ms = now
    ((first,),) = cursor.fetch(
        "SELECT min(number) FROM tiderace_layer_entry WHERE subject = %s", (subject,)
    )
    if first is not None and first <= obsolete:
        upto = min(obsolete, first + _MESSAGES - 1)
        delete_entries(cursor, subject, upto)
        if upto < obsolete:
            # The marks are not stored, so the next call goes on from here.
            return
        first = None if upto >= last else upto + 1
    if is_unused:
        cursor.execute(
            "DELETE FROM tiderace_layer_stream WHERE subject = %s", (subject,)
        )
        return
    if first is None:
        next_ms = used_ms + retention.position_ttl_ms(last)
    elif before != last:
        next_ms = now + max(retention.keep_ms, 1000)
    else:
        next_ms = now + retention.ttl_ms
    cursor.execute(
        "UPDATE tiderace_layer_stream SET check_ms = %s, retention = %s "
        "WHERE subject = %s",
        (next_ms, retention.encode(), subject),
    )


def _sweep_process(cursor: Cursor, name: str) -> None:
    """Delete a process that has died, and its memberships."""
    if cursor.execute(
        "DELETE FROM tiderace_layer_process WHERE name = %s AND expires_ms <= %s",
        (name, cursor.now_ms),
    ):
        cursor.execute(
            "DELETE FROM tiderace_layer_membership WHERE process = %s", (name,)
        )


def _sweep_table(cursor: Cursor, name: str, key: str, expired: str) -> None:
    """Delete expired rows of a table."""
    cursor.execute(
        f"DELETE FROM tiderace_layer_{name} WHERE ({key}) IN "
        f"(SELECT {key} FROM tiderace_layer_{name} WHERE {expired} LIMIT {_ROWS})",
        (cursor.now_ms,),
    )
