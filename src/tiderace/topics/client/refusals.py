"""What a client is answered when its command fails, and what a developer reads of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from tiderace.asgi import Scope, describe
from tiderace.exceptions import LayerUnavailable
from tiderace.protocol import codes
from tiderace.protocol.session import ConnectionEnded, Refused
from tiderace.topics.topic import Refuse, UnknownTopic

logger = logging.getLogger("tiderace.topics")


@contextmanager
def errors_as_refusals(name: str, scope: Scope, topic: str = "") -> Iterator[None]:
    """Turn what a command raises into the error of its reply, and log it.

    Args:
        name: of the command.
        scope: of the connection.
        topic: the one that the command is about, for the log.

    Raises:
        Refused: to answer with an error. Its message contains the reason for developers
            only while ``DEBUG`` is on, and for test clients.
        ConnectionEnded: to close the connection.
    """
    try:
        yield
    except Refused as refused:
        if not refused.reason:
            raise
        log_refusal(name, topic, refused, scope)
        raise Refused(refused.failure, _shown(refused.reason, scope)) from None
    except ConnectionEnded:
        raise
    except Refuse as refuse:
        raise Refused(refuse.failure) from None
    except UnknownTopic as unknown:
        log_refusal(name, topic, unknown, scope)
        raise Refused(codes.UNKNOWN_TOPIC, _shown(str(unknown), scope)) from None
    except LayerUnavailable as error:
        logger.warning("a command %s failed: %s", name, error)
        raise Refused(codes.INTERNAL, _shown(str(error), scope)) from None
    except Exception as error:
        logger.exception("a command %s failed (%s)", name, describe(scope))
        raise Refused(codes.INTERNAL, _shown(repr(error), scope)) from None


def log_refusal(
    command: str, topic: str, error: Refused | UnknownTopic, scope: Scope
) -> None:
    """Log why a command is refused: a warning while ``DEBUG`` is on, else for ``INFO``."""
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
    # The key is that of a test client; what a client sends cannot set it.
    return reason if settings.DEBUG or scope.get("tiderace.testing") else ""
