"""Lists the connections of every process, and ends those of a user or a topic everywhere.

Each process lists its connections only for such a request.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import msgspec

from tiderace import cluster
from tiderace.layers.stats import LayerStats
from tiderace.monitoring.connections import (
    ProcessReport,
    close_topic,
    disconnect_user,
    report,
)
from tiderace.protocol import codes
from tiderace.protocol.codes import Unsubscription

logger = logging.getLogger("tiderace.monitoring")

# Seconds in which other processes have to answer.
_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class ConnectionSurvey:
    """The connections of all processes that have answered."""

    reports: tuple[ProcessReport, ...]
    silent: tuple[str, ...]
    """Host and process id of the processes that have not answered in time."""
    stats: LayerStats
    whole: bool = True
    """Whether the layer can ask other processes at all."""


@dataclass(frozen=True, slots=True)
class EndedConnections:
    """The number of connections, or subscriptions, that were ended."""

    count: int
    silent: tuple[str, ...]
    """Host and process id of the processes that have not answered in time."""


async def survey_connections(
    *, limit: int = 100, user: str = "", topic: str = ""
) -> ConnectionSurvey:
    """Ask all processes for their connections.

    Args:
        limit: connections that each process lists, the newest ones; the numbers are
            exact whatever the limit.
        user: list only connections of the user with this primary key.
        topic: list only connections that are subscribed to this topic.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    bus = cluster.current()
    payload = {"limit": limit, "user": user, "topic": topic}
    answers = await bus.ask("connections.list", payload, timeout=_TIMEOUT)
    reports = []
    for each in answers.by_process.values():
        try:
            reports.append(msgspec.convert(each, ProcessReport))
        except msgspec.ValidationError as error:
            logger.warning("a process of another release answers otherwise: %s", error)
    reports.sort(key=lambda each: (each.host, each.pid))
    return ConnectionSurvey(
        tuple(reports), _silent(answers), answers.stats, bus.can_ask
    )


async def disconnect_user_everywhere(user: str, reason: str) -> EndedConnections:
    """Close all connections of a user, of topic clients and of consumers.

    The user may connect again: deactivate the account to prevent that.

    Args:
        user: its primary key.
        reason: the close reason; at most 123 bytes.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    return await _end("connections.disconnect", {"user": user, "reason": reason})


async def close_topic_everywhere(topic: str) -> EndedConnections:
    """End all subscriptions to a topic, as ``topics.close_topic`` does, and count them.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
    """
    why = codes.UNSUBSCRIBED_BY_SERVER
    payload = {"topic": topic, "code": why.code, "reason": why.reason}
    return await _end("topics.close", payload)


async def _end(kind: str, payload: dict[str, Any]) -> EndedConnections:
    answers = await cluster.current().ask(kind, payload, timeout=_TIMEOUT)
    return EndedConnections(sum(answers.by_process.values()), _silent(answers))


def _silent(answers: cluster.Answers) -> tuple[str, ...]:
    return tuple(f"{each.host}:{each.pid}" for each in answers.silent)


@cluster.handler("connections.list")
def _list(payload: dict[str, Any]) -> ProcessReport:
    return report(cluster.current().process, **payload)


@cluster.handler("connections.disconnect")
async def _disconnect(payload: dict[str, Any]) -> int:
    return await disconnect_user(payload["user"], payload["reason"])


@cluster.handler("topics.close")
def _close_topic(payload: dict[str, Any]) -> int:
    why = Unsubscription(payload["code"], payload["reason"])
    return close_topic(payload["topic"], why)


@cluster.on_gap
def _warn_of_gap() -> None:
    logger.warning(
        "this process may have missed that a user was disconnected or a topic closed; "
        "do it again if it was"
    )
