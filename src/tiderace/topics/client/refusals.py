"""The error replies for commands that fail, and their lines in the log."""

from __future__ import annotations

import logging
from types import TracebackType

from django.conf import settings

from tiderace.asgi import Scope, describe
from tiderace.exceptions import LayerUnavailable
from tiderace.protocol import codes
from tiderace.protocol.session import ConnectionEnded, Refused
from tiderace.topics.declaration.topic import Refuse, UnknownTopic

logger = logging.getLogger("tiderace.topics")


class errors_as_refusals:  # noqa: N801 (as those of contextlib)
    """Turn what a command raises into the error of its reply, and log it.

    A class, since a context manager from a generator takes as long as a whole short
    command.

    Args:
        name: the name of the command.
        scope: the scope of the connection.
        topic: the topic of the command, for the log; empty for none.

    Raises:
        Refused: to answer with an error. Its message contains the reason for developers
            only while ``DEBUG`` is on, and for test clients.
        ConnectionEnded: to close the connection.
    """

    __slots__ = ("_name", "_scope", "_topic")

    def __init__(self, name: str, scope: Scope, topic: str = "") -> None:
        self._name = name
        self._scope = scope
        self._topic = topic

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            refusal = as_refusal(error, self._name, self._scope, self._topic)
            if refusal is not error:
                raise refusal from None


def as_refusal(error: Exception, name: str, scope: Scope, topic: str = "") -> Exception:
    """Log what a command has raised, and return what to raise instead; maybe the same.

    The arguments and results are those of ``errors_as_refusals``.
    """
    if isinstance(error, Refused):
        if not error.reason:
            return error
        log_refusal(name, topic, error, scope)
        return Refused(error.failure, _shown(error.reason, scope))
    if isinstance(error, ConnectionEnded):
        return error
    if isinstance(error, Refuse):
        return Refused(error.failure)
    if isinstance(error, UnknownTopic):
        log_refusal(name, topic, error, scope)
        return Refused(codes.UNKNOWN_TOPIC, _shown(str(error), scope))
    if isinstance(error, LayerUnavailable):
        logger.warning("a command %s failed: %s", name, error)
        return Refused(codes.INTERNAL, _shown(str(error), scope))
    logger.error("a command %s failed (%s)", name, describe(scope), exc_info=error)
    return Refused(codes.INTERNAL, _shown(repr(error), scope))


def log_refusal(
    command: str, topic: str, error: Refused | UnknownTopic, scope: Scope
) -> None:
    """Log why a command is refused: as a warning under ``DEBUG``, else at level INFO."""
    if isinstance(error, Refused):
        failure, reason = error.failure, error.reason or "no reason is given"
    else:
        failure, reason = codes.UNKNOWN_TOPIC, str(error)
    logger.log(
        logging.WARNING if settings.DEBUG else logging.INFO,
        "%s%s is refused with %d (%s): %s (%s)",
        command,
        f" {topic[:_SHOWN_TOPIC]!r}" if topic else "",
        failure.code,
        failure.message,
        reason,
        describe(scope),
    )


_SHOWN_TOPIC = 80


def _shown(reason: str, scope: Scope) -> str:
    # The key is set by test clients; nothing that a client sends can set it.
    return reason if settings.DEBUG or scope.get("tiderace.testing") else ""
