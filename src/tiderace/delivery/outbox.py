"""The outgoing side of one socket: what was said to the client, and whether it still can be.

It is the only one that calls the server's ``send`` for its connection. It knows ASGI
events by their type alone, and no consumer.
"""

from __future__ import annotations

from tiderace import metrics
from tiderace.asgi import Event, Send

__all__ = ["Outbox"]


class Outbox:
    """Sends a connection's events in order, and knows what state they have led to.

    Back-pressure is the server's: ``send`` returns when the server has taken the
    event, which is at once while the client keeps up. An event for a client that is
    gone, or after our own close, has nobody to reach: it is counted in
    ``metrics.SENDS_AFTER_CLOSE`` and dropped, so that a group message which crosses a
    goodbye on its way is no error. Not guaranteed: that what ``send`` has taken is
    ever seen by the client.
    """

    __slots__ = ("_send", "accepted", "closed", "leaving", "lost")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.accepted = False
        self.closed = False
        # The disconnect event has been read, but not handled yet; then the client is
        # lost.
        self.leaving = False
        self.lost = False

    @property
    def open(self) -> bool:
        """Whether a WebSocket was accepted and, as far as known here, is still there."""
        return self.accepted and not self.closed and not self.lost

    async def send(self, event: Event) -> None:
        """Hand ``event`` to the server.

        Raises:
            RuntimeError: whatever the server raises for an event out of order, such
                as a message before the socket was accepted.
        """
        kind = event.get("type")
        if self.lost or (self.closed and kind in ("websocket.send", "websocket.close")):
            metrics.SENDS_AFTER_CLOSE.add()
            return
        if kind == "websocket.close":
            # Before the await: while the server is sending it, nothing may follow.
            self.closed = True
        try:
            await self._send(event)
        except (OSError, RuntimeError) as error:
            # OSError (ASGI 2.4) says that the client is gone; the disconnect event is
            # what ends the consumer. A server that has closed the socket itself may
            # call every event out of order from then on.
            if isinstance(error, RuntimeError) and not self.leaving:
                raise
            self.lost = True
            metrics.SENDS_AFTER_CLOSE.add()
            return
        if kind == "websocket.accept":
            self.accepted = True
            metrics.CONNECTIONS_ACCEPTED.add()
