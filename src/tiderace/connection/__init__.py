"""One connection being served: its tasks, its mailbox, its outbox, its end.

It knows a consumer as something with handlers, a layer as the place messages come
from, and ASGI's ``receive`` and ``send``; what applications write stands in
``tiderace.consumer``.

A message of the client walks through it like this. The server's task reads it
(``reading``) and offers it to the mailbox, one at a time. The connection's own task
takes it out when nothing is before it (``turns``), looks at what it means for the
connection (``life``), and calls the consumer's handler, which answers by the outbox.

A message of the layer is put into the mailbox that the consumer's channel has there
(``channel``). Where its consumer has nothing else to do it is handled at once, where
it is delivered and as if in the connection's task, so that it costs no switch
(``Turns.take_now``); else it waits for its turn. Whatever is more to it than which
handler to call is decided in ``messages``.

What runs beside the handlers stands in ``background``, what is said of it all in
``report``.
"""

from __future__ import annotations

from tiderace.connection.connection import Connection
from tiderace.connection.served import Access, ConsumerProtocol, get_handler_name

__all__ = ["Access", "Connection", "ConsumerProtocol", "get_handler_name"]
