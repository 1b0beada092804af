"""``manage.py tiderace_doctor``: a diagnosis of the project, with advice."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tiderace.monitoring.doctor import Finding, Level, diagnose
from tiderace.monitoring.site_check import examine_site


class Command(BaseCommand):
    """Examines settings, routes, versions, proxy, system and brokers."""

    help = (
        "Looks at settings, WebSocket routes, versions, the proxy's settings, limits of "
        "the system and every layer's broker, and says for each finding what to do. "
        "Exit code 1 when something is wrong."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        reach = parser.add_mutually_exclusive_group()
        reach.add_argument(
            "--offline",
            action="store_true",
            help="Send nothing through the layers and ask no server.",
        )
        reach.add_argument(
            "--url",
            metavar="URL",
            help="Try the running site at this address too: the client's script, and a "
            "WebSocket handshake with the site's own origin for every route without "
            "parameters, or for the path of the address.",
        )
        parser.add_argument(
            "--timeout",
            type=float,
            default=5.0,
            metavar="SECONDS",
            help="Seconds for each step of trying a layer or a site (default: 5).",
        )
        parser.add_argument(
            "--fail-level",
            choices=["error", "warning"],
            default="error",
            help="What makes the exit code 1 (default: error).",
        )
        parser.add_argument(
            "--json", action="store_true", help="Write the findings as JSON."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the findings.

        Raises:
            CommandError: when a finding is as bad as ``--fail-level``, or worse; when
                ``--url`` is not the address of a site.
        """
        findings = diagnose(brokers=not options["offline"], timeout=options["timeout"])
        if url := options["url"]:
            try:
                findings["site"] = examine_site(url, timeout=options["timeout"])
            except ValueError as error:
                raise CommandError(f"--url: {error}") from error
        if options["json"]:
            results = [
                {"topic": topic, **asdict(each)}
                for topic, of_topic in findings.items()
                for each in of_topic
            ]
            self.stdout.write(json.dumps(results, indent=2))
        else:
            self._write(findings)
        order = list(Level)
        worst = order.index(Level(options["fail_level"]))
        levels = [each.level for of_topic in findings.values() for each in of_topic]
        bad = sum(order.index(level) >= worst for level in levels)
        if bad:
            needs = "needs" if bad == 1 else "need"
            raise CommandError(f"{bad} of {len(levels)} findings {needs} attention")

    def _write(self, findings: dict[str, list[Finding]]) -> None:
        styles = {
            Level.FINE: self.style.SUCCESS,
            Level.NOTE: self.style.NOTICE,
            Level.WARNING: self.style.WARNING,
            Level.ERROR: self.style.ERROR,
        }
        for topic, of_topic in findings.items():
            if of_topic:
                self.stdout.write(self.style.MIGRATE_HEADING(topic))
            for finding in of_topic:
                word = styles[finding.level](f"{finding.level.value:<7}")
                self.stdout.write(f"  {word}  {finding.text}")
                if finding.advice:
                    self.stdout.write(f"           → {finding.advice}")
