"""Serves one connection with one consumer.

- ``connection``: the life of a connection, from its first event to its clean-up.
- ``inbox``: reads the client's events and the channel's messages into a mailbox.
- ``dispatcher``: takes them out, and runs the consumer's handlers one at a time.
- ``eager``: the fast path, on which an idle consumer handles a message without a task
  switch.
- ``handlers``: calls a handler and treats its errors; which methods a message may call.
- ``background``: the tasks beside the handlers.
- ``log``: what is logged and counted.

An event of the client passes through the server's task (``inbox``), the mailbox and
the connection's own task (``dispatcher``) to the handler, which answers through the
outbox (``tiderace.delivery.outbox``). A message of the layer is put into the same
mailbox, or handled there at once (``eager``).
"""

from __future__ import annotations

from tiderace.connection.background import BackgroundTasks
from tiderace.connection.connection import Connection
from tiderace.connection.handlers import Access, Handlers, get_handler_name

__all__ = ["Access", "BackgroundTasks", "Connection", "Handlers", "get_handler_name"]
