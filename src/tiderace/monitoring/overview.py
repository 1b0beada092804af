"""What the admin's page shows, put together from what the processes have answered.

It knows values to show, and neither requests nor permissions.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from tiderace.exceptions import LayerUnavailable
from tiderace.layers.stats import LayerStats, ProcessStats
from tiderace.monitoring.cluster_connections import (
    ConnectionSurvey,
    survey_connections,
)
from tiderace.monitoring.connections import ProcessReport, report
from tiderace.monitoring.recent_logs import Record
from tiderace.runtime import sync_bridge

__all__ = ["SIZE", "overview"]

SIZE = 50
"""Connections on a page."""
_PAGES = 20

_TOPICS = 25
_GROUPS = 25
_RECORDS = 25


def overview(user: str, topic: str, page: int) -> dict[str, Any]:
    """What there is to show, as the context of a template.

    Args:
        user: only connections of the user with this primary key; empty for all.
        topic: only connections that hear this topic; empty for all.
        page: which fifty of the connections, from 1 to 20.
    """
    page = max(1, min(page, _PAGES))
    away = ""
    try:
        call = sync_bridge.call(
            survey_connections, limit=page * SIZE, user=user, topic=topic
        )
    except LayerUnavailable as error:
        away = str(error)
        own = report("", limit=page * SIZE, user=user, topic=topic)
        call = ConnectionSurvey((own,), (), LayerStats(()))
    matching = sum(each.matching for each in call.reports)
    rows = _rows(call.reports)[(page - 1) * SIZE : page * SIZE]
    return {
        "away": away,
        "whole": call.whole,
        "silent": call.silent,
        "totals": _totals(call),
        "processes": _processes(call),
        "rows": rows,
        "matching": matching,
        "first": (page - 1) * SIZE + 1,
        "last": (page - 1) * SIZE + len(rows),
        "previous": page - 1,
        "next": page + 1 if matching > page * SIZE and page < _PAGES else 0,
        "topics": _topics(call.reports),
        "groups": list(call.stats.members.items())[:_GROUPS],
        "records": _records(call.reports),
    }


def _rows(answers: tuple[ProcessReport, ...]) -> list[dict[str, Any]]:
    seen = [(each, answer.name) for answer in answers for each in answer.connections]
    seen.sort(key=lambda pair: pair[0].since, reverse=True)
    return [
        {
            "connection": each,
            "since": _moment(each.since),
            "process": name,
            "more_topics": each.topic_count - len(each.topics),
        }
        for each, name in seen
    ]


def _totals(call: ConnectionSurvey) -> list[tuple[str, str]]:
    stats, answers = call.stats, call.reports
    names = {name for each in answers for name in each.topics}
    # Each names its largest alone, so this is at least so many.
    topics = max([len(names), *(each.topic_count for each in answers)])
    return [
        ("connections", f"{sum(each.open for each in answers):,}"),
        ("topic clients", f"{sum(each.topic_clients for each in answers):,}"),
        ("topics", f"{topics:,}"),
        ("groups", f"{stats.groups:,}"),
        ("messages in per second", f"{stats.sent_per_second:,.1f}"),
        ("messages out per second", f"{stats.delivered_per_second:,.1f}"),
        ("dropped", _drops(stats.dropped)),
        ("slow clients closed", f"{stats.slow_clients:,}"),
        ("errors", f"{stats.errors:,}"),
    ]


def _drops(dropped: dict[str, int]) -> str:
    told = [f"{count:,} {reason}" for reason, count in dropped.items() if count]
    return ", ".join(told) or "0"


def _processes(call: ConnectionSurvey) -> list[dict[str, Any]]:
    answers = {each.process: each for each in call.reports}
    told = {each.process for each in call.stats.processes}
    rows = [_process(each, answers.get(each.process)) for each in call.stats.processes]
    # One that has begun just now, or whose layer counts nothing.
    rows += [
        {"name": each.name, "open": each.open, "ready": True}
        for each in call.reports
        if each.process not in told
    ]
    return rows


def _process(stats: ProcessStats, answer: ProcessReport | None) -> dict[str, Any]:
    return {
        "name": f"{stats.host}:{stats.pid}",
        "since": _moment(stats.started),
        "open": answer.open if answer else None,
        "groups": stats.groups,
        "sent": f"{stats.sent_per_second:,.1f}",
        "delivered": f"{stats.delivered_per_second:,.1f}",
        "dropped": _drops(stats.dropped),
        "errors": stats.errors,
        "lag": "" if stats.lag is None else f"{stats.lag * 1000:,.1f} ms",
        "memory": "" if stats.memory is None else f"{stats.memory / 1e6:,.0f} MB",
        "ready": stats.ready,
    }


def _topics(answers: tuple[ProcessReport, ...]) -> list[tuple[str, int]]:
    together: Counter[str] = Counter()
    for each in answers:
        together.update(each.topics)
    return together.most_common(_TOPICS)


def _records(answers: tuple[ProcessReport, ...]) -> list[dict[str, Any]]:
    together: list[tuple[Record, str]] = [
        (record, each.name) for each in answers for record in each.recent
    ]
    together.sort(key=lambda pair: pair[0].at, reverse=True)
    return [
        {"record": record, "at": _moment(record.at), "process": name}
        for record, name in together[:_RECORDS]
    ]


def _moment(seconds: float) -> datetime:
    """A time as templates show it."""
    if settings.USE_TZ:
        return datetime.fromtimestamp(seconds, UTC)
    return datetime.fromtimestamp(seconds)
