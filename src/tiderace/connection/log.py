"""What is said of one connection: to the log, to the metrics, to ``on_error``.

It changes nothing about the connection, and knows no task and no mailbox.
"""

from __future__ import annotations

import logging
from typing import Any

from tiderace import conf, metrics
from tiderace.asgi import Event, describe, log_fields
from tiderace.connection.served import ConsumerProtocol

__all__ = ["ConnectionLog"]

logger = logging.getLogger("tiderace.consumer")


class ConnectionLog:
    """Speaks of one consumer's connection, every time with the same fields."""

    __slots__ = ("_consumer",)

    def __init__(self, consumer: ConsumerProtocol) -> None:
        self._consumer = consumer

    async def consult(self, error: Exception) -> None:
        """Let ``on_error`` decide what ``error`` means, and say so if it goes on.

        Raises:
            Exception: whatever ``on_error`` raises; the connection is to end.
        """
        consumer = self._consumer
        await consumer._consult(error)  # noqa: SLF001
        metrics.CONSUMER_ERRORS.add()
        logger.warning(
            "%s goes on after %r (%s)",
            self._name(),
            error,
            describe(consumer.scope),
            exc_info=error,
            extra=self._fields("handler_failed_and_goes_on"),
        )

    def failed(self, error: Exception) -> None:
        """The connection ends because of ``error``."""
        metrics.CONSUMER_ERRORS.add()
        fields = self._fields("handler_failed")
        # Without the traceback, which the server logs for what is raised to it.
        logger.error(
            "%s failed with %r and is closed (%s, user %s, channel %s)",
            self._name(),
            error,
            describe(self._consumer.scope),
            fields["user_id"],
            fields["channel_name"],
            extra=fields,
        )

    def dropped(self, message: Event | str, why: str) -> None:
        """A message of the layer found nobody who takes it."""
        metrics.MESSAGES_DROPPED_UNHANDLED.add()
        kind = message.get("type") if isinstance(message, dict) else message
        logger.warning(
            "%s dropped a message of type %r (%s); define the method for it, or check "
            "the type where it is sent (%s)",
            self._name(),
            kind,
            why,
            describe(self._consumer.scope),
            extra=self._fields("unhandled_message", message_type=kind),
        )

    def too_slow(self, code: int) -> None:
        """The client reads too slowly, and is closed with ``code``."""
        metrics.SLOW_CLIENTS.add()
        logger.warning(
            "a client has left more than %d bytes unread and is closed with %d (%s)",
            conf.current().outbox_limit,
            code,
            describe(self._consumer.scope),
            extra=self._fields("slow_client", code=code),
        )

    def not_closed(self, error: Exception) -> None:
        """The server would not take our close event."""
        logger.debug("could not close %s: %r", describe(self._consumer.scope), error)

    def disconnect_failed(self, error: Exception) -> None:
        """The disconnect handler failed on a connection that had failed before."""
        logger.error(
            "%s failed in its disconnect handler (%s)",
            self._name(),
            describe(self._consumer.scope),
            exc_info=error,
            extra=self._fields("disconnect_handler_failed"),
        )

    def group_not_left(self, group: str, error: Exception) -> None:
        """The layer of another project would not let a consumer leave ``group``."""
        logger.error(
            "could not leave group %s",
            group,
            exc_info=error,
            extra=self._fields("group_not_left", group=group),
        )

    def _name(self) -> str:
        return type(self._consumer).__qualname__

    def _fields(self, reason: str, **more: Any) -> dict[str, Any]:
        """What a log record about this connection has, see ``log_fields``."""
        return log_fields(
            self._consumer.scope,
            reason,
            channel_name=getattr(self._consumer, "channel_name", None),
            consumer=self._name(),
            **more,
        )
