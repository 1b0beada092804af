"""Logs and counts the errors and drops of one connection."""

from __future__ import annotations

import logging
from typing import Any

from tiderace import conf, metrics
from tiderace.asgi import Event, Scope, describe, log_fields, printable

logger = logging.getLogger("tiderace.consumer")


class _LoggedOnce(logging.Filter):
    """Leaves out a server's record of an error that was logged here already."""

    def __init__(self) -> None:
        super().__init__()
        for server in ("uvicorn.error", "hypercorn.error", "daphne.server"):
            logging.getLogger(server).addFilter(self)

    def add(self, error: Exception) -> None:
        """Leave out later records of ``error``."""
        # Most built-in exceptions cannot be referenced weakly.
        error.__dict__["tiderace_logged"] = True

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info and record.exc_info[1]
        return "tiderace_logged" not in getattr(error, "__dict__", ())


_logged_once = _LoggedOnce()


class ConnectionLog:
    """Writes log records of one connection, each with the same fields.

    Args:
        scope: the connection's scope.
        consumer: the qualified name of the consumer's class.

    Attributes:
        channel_name: the connection's channel; None until there is one.
    """

    __slots__ = ("_consumer", "_scope", "channel_name")

    def __init__(self, scope: Scope, consumer: str) -> None:
        self._scope = scope
        self._consumer = consumer
        self.channel_name: str | None = None

    def handler_failed_and_goes_on(self, error: Exception) -> None:
        """Log an error of a handler that ``on_error`` has not raised again."""
        metrics.CONSUMER_ERRORS.add()
        logger.warning(
            "%s goes on after %r (%s)",
            self._consumer,
            error,
            describe(self._scope),
            exc_info=error,
            extra=self._fields("handler_failed_and_goes_on"),
        )

    def failed(self, error: Exception) -> None:
        """Log the error that ends the connection; the server does not log it again."""
        metrics.CONSUMER_ERRORS.add()
        fields = self._fields("handler_failed")
        logger.error(
            "%s failed with %r and is closed (%s, user %s, channel %s)",
            self._consumer,
            error,
            describe(self._scope),
            fields["user_id"],
            fields["channel_name"],
            exc_info=error,
            extra=fields,
        )
        _logged_once.add(error)

    def unanswered(self, seconds: float) -> None:
        """Log that a client waits for an answer to its handshake."""
        logger.warning(
            "%s has neither accepted nor closed the WebSocket %g s after connect() "
            "returned, so the client waits; call accept() or close() in connect() (%s)",
            self._consumer,
            seconds,
            describe(self._scope),
            extra=self._fields("unanswered"),
        )

    def cut(self, what: str, limit: float | None) -> None:
        """Log that a handler is cancelled, since it goes on without its client."""
        logger.warning(
            "%s of %s goes on %g s after its connection ended and is cancelled (%s); "
            "shorten it, or raise TIDERACE['DISCONNECT_TIMEOUT']",
            what,
            self._consumer,
            limit,
            describe(self._scope),
            extra=self._fields("handler_cut"),
        )

    def left_behind(self, what: str) -> None:
        """Log that a cancelled handler has not ended."""
        logger.error(
            "%s of %s was cancelled and goes on, and is left behind (%s); let its "
            "CancelledError pass",
            what,
            self._consumer,
            describe(self._scope),
            extra=self._fields("handler_left_behind"),
        )

    def dropped(self, message: Event | str, reason: str) -> None:
        """Log a message of the layer that no handler may take."""
        metrics.MESSAGES_DROPPED_UNHANDLED.add()
        kind = message.get("type") if isinstance(message, dict) else message
        logger.warning(
            "%s dropped a message of type %r (%s); define the method for it, or check "
            "the type where it is sent (%s)",
            self._consumer,
            kind,
            reason,
            describe(self._scope),
            extra=self._fields("unhandled_message", message_type=kind),
        )

    def too_slow(self, code: int) -> None:
        """Log that the client reads too slowly, and is closed with ``code``."""
        metrics.SLOW_CLIENTS.add()
        logger.warning(
            "a client has left more than %d bytes unread and is closed with %d (%s)",
            conf.current().outbox_limit,
            code,
            describe(self._scope),
            extra=self._fields("slow_client", code=code),
        )

    def not_closed(self, error: Exception) -> None:
        """Log that the server has refused the close event."""
        logger.debug("could not close %s: %r", describe(self._scope), error)

    def disconnect_failed(self, error: Exception) -> None:
        """Log an error of the disconnect handler of a connection that had ended."""
        logger.error(
            "%s failed in its disconnect handler (%s)",
            self._consumer,
            describe(self._scope),
            exc_info=error,
            extra=self._fields("disconnect_handler_failed"),
        )

    def group_not_left(self, group: str, error: Exception) -> None:
        """Log that a channel could not leave a group of a layer without local delivery."""
        group = printable(group)
        logger.error(
            "could not leave group %s",
            group,
            exc_info=error,
            extra=self._fields("group_not_left", group=group),
        )

    def _fields(self, reason: str, **more: Any) -> dict[str, Any]:
        """Return the fields of a log record, as ``log_fields`` describes them."""
        return log_fields(
            self._scope,
            reason,
            channel_name=self.channel_name,
            consumer=self._consumer,
            **more,
        )
