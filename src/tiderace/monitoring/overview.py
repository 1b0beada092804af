"""Makes the context of the admin's page from the reports of the processes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
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
from tiderace.monitoring.top import drops_text
from tiderace.runtime import sync_bridge

SIZE = 50
"""Connections on a page."""
_PAGES = 20

# The groups of topics, of their users, and of processes.
_INTERNAL = re.compile(r"(topic|topic-events|topic-user|tiderace-process)\.|tiderace\b")
# Topics, groups and records on a page.
_LISTED = 25


def overview(user: str, topic: str, page: int) -> dict[str, Any]:
    """Return the context of the template.

    Args:
        user: only connections of the user with this primary key; empty for all.
        topic: only connections that are subscribed to this topic; empty for all.
        page: which fifty of the connections, from 1 to 20.
    """
    page = max(1, min(page, _PAGES))
    away = ""
    try:
        survey = sync_bridge.call(
            survey_connections, limit=page * SIZE, user=user, topic=topic
        )
    except LayerUnavailable as error:
        away = str(error)
        own = report("", limit=page * SIZE, user=user, topic=topic)
        survey = ConnectionSurvey((own,), (), LayerStats(()))
    matching = sum(each.matching for each in survey.reports)
    rows = _rows(survey.reports)[(page - 1) * SIZE : page * SIZE]
    return {
        "away": away,
        "whole": survey.whole,
        "silent": survey.silent,
        "totals": _totals(survey),
        "processes": _processes(survey),
        "rows": rows,
        "matching": matching,
        "first": (page - 1) * SIZE + 1,
        "last": (page - 1) * SIZE + len(rows),
        "previous": page - 1,
        "next": page + 1 if matching > page * SIZE and page < _PAGES else 0,
        "topics": _topics(survey.reports),
        "groups": _groups(survey.stats.members),
        "records": _records(survey.reports),
    }


def _rows(reports: tuple[ProcessReport, ...]) -> list[dict[str, Any]]:
    listed = [(each, report.name) for report in reports for each in report.connections]
    listed.sort(key=lambda pair: pair[0].since, reverse=True)
    return [
        {
            "connection": each,
            "since": _moment(each.since),
            "process": name,
            "more_topics": each.topic_count - len(each.topics),
        }
        for each, name in listed
    ]


def _totals(survey: ConnectionSurvey) -> list[tuple[str, str]]:
    stats, reports = survey.stats, survey.reports
    names = {name for each in reports for name in each.topics}
    # Each process lists its largest topics, so this is a lower bound.
    topics = max([len(names), *(each.topic_count for each in reports)])
    return [
        ("connections", f"{sum(each.open for each in reports):,}"),
        ("topic clients", f"{sum(each.topic_clients for each in reports):,}"),
        ("topics", f"{topics:,}"),
        ("groups", f"{stats.groups:,}"),
        ("messages in per second", f"{stats.sent_per_second:,.1f}"),
        ("messages out per second", f"{stats.delivered_per_second:,.1f}"),
        ("dropped", drops_text(stats) or "0"),
        ("slow clients closed", f"{stats.slow_clients:,}"),
        ("errors", f"{stats.errors:,}"),
    ]


def _processes(survey: ConnectionSurvey) -> list[dict[str, Any]]:
    reports = {each.process: each for each in survey.reports}
    rows = [
        _process(each, reports.pop(each.process, None))
        for each in survey.stats.processes
    ]
    # Processes that have just started, or whose layer has no statistics.
    rows += [
        {"name": each.name, "open": each.open, "ready": True}
        for each in reports.values()
    ]
    return rows


def _process(stats: ProcessStats, report: ProcessReport | None) -> dict[str, Any]:
    return {
        "name": f"{stats.host}:{stats.pid}",
        "since": _moment(stats.started),
        "open": report.open if report else None,
        "groups": stats.groups,
        "sent": f"{stats.sent_per_second:,.1f}",
        "delivered": f"{stats.delivered_per_second:,.1f}",
        "dropped": drops_text(stats) or "0",
        "errors": stats.errors,
        "lag": "" if stats.lag is None else f"{stats.lag * 1000:,.1f} ms",
        "memory": "" if stats.memory is None else f"{stats.memory / 1e6:,.0f} MB",
        "ready": stats.ready,
    }


def _groups(members: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the largest groups of the application, without those of Tiderace."""
    own = (pair for pair in members.items() if not _INTERNAL.match(pair[0]))
    return list(own)[:_LISTED]


def _topics(reports: tuple[ProcessReport, ...]) -> list[tuple[str, int]]:
    together: Counter[str] = Counter()
    for each in reports:
        together.update(each.topics)
    return together.most_common(_LISTED)


def _records(reports: tuple[ProcessReport, ...]) -> list[dict[str, Any]]:
    together = [(record, each.name) for each in reports for record in each.recent]
    together.sort(key=lambda pair: pair[0].at, reverse=True)
    return [
        {"record": record, "at": _moment(record.at), "process": name}
        for record, name in together[:_LISTED]
    ]


def _moment(seconds: float) -> datetime:
    """Return a time as templates show it."""
    return datetime.fromtimestamp(seconds, UTC if settings.USE_TZ else None)
