"""A diagnosis of a project: settings, packages, layers, brokers, the system; with advice."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import django
from django.apps import apps
from django.conf import settings
from django.core.checks import ERROR, run_checks
from django.db import DatabaseError

from tiderace import __version__
from tiderace.checks.application import installed_version, layers_in_memory
from tiderace.layers.isolation import ADVICE
from tiderace.layers.manager import channel_layers, layer_attribute
from tiderace.monitoring.probe import any_failed, probe_layer
from tiderace.outbox.rows import OutboxRows, databases
from tiderace.route_inspection import websocket_routes
from tiderace.routing import get_default_application

try:
    import resource
except ImportError:  # pragma: no cover (Windows)
    resource = None  # type: ignore[assignment]

# The limit of open files that even a small site needs.
_FEW_FILES = 4096
# Seconds after which a relay that has not renewed its lease is not at work, and after which
# a publication in an outbox has waited for long.
_SILENT_RELAY = 15.0
_LONG_WAIT = 10.0
# Packages that are reported, and what each is for.
_PACKAGES = {
    "uvicorn": "the server of runserver and of most deployments",
    "uvloop": "a faster event loop",
    "httptools": "a faster HTTP parser",
    "redis": "the layer over Redis",
    "hiredis": "the layer over Redis",
}


class Level(StrEnum):
    """The severity of a finding, the mildest first."""

    FINE = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: the severity.
        text: the result.
        advice: what to do; empty where nothing is to be done.
    """

    level: Level
    text: str
    advice: str = ""


def diagnose(*, brokers: bool = True, timeout: float = 5.0) -> dict[str, list[Finding]]:
    """Run all checks; return their findings by subject, in order.

    Args:
        brokers: whether to send messages through the layers and query their servers.
        timeout: seconds for each step of that.
    """
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "versions": _versions,
        "routes": _routes,  # it imports the consumers, which a system check examines
        "layers": _layers_in_memory,
        "system checks": _system_checks,
        "proxy": _proxy,
        "system": _open_files,
    }
    findings = {topic: list(check()) for topic, check in checks.items()}
    if brokers:
        if apps.is_installed("tiderace.outbox"):
            for alias in databases():
                findings[f"outbox {alias}"] = list(_outbox(OutboxRows(alias)))
        for alias in channel_layers.configs:
            findings[f"layer {alias}"] = asyncio.run(_layer(alias, timeout))
    return findings


def _versions() -> Iterator[Finding]:
    yield Finding(
        Level.FINE,
        f"Tiderace {__version__}, Django {django.get_version()}, "
        f"Python {platform.python_version()} on {platform.system()}",
    )
    backends = [
        str(each.get("BACKEND", "")) for each in channel_layers.configs.values()
    ]
    over_redis = any("redis" in backend for backend in backends)
    for name, purpose in _PACKAGES.items():
        missing = f"{name} is not installed"
        if (version := installed_version(name)) is not None:
            yield Finding(Level.FINE, f"{name} {version}")
        elif "redis" not in name:
            if name != "uvloop" or sys.platform != "win32":
                advice = 'pip install "tiderace[server]"'
                yield Finding(Level.NOTE, f"{missing} ({purpose})", advice)
        elif over_redis:
            text = f"{missing}: {purpose} needs it"
            yield Finding(Level.ERROR, text, 'pip install "tiderace[redis]"')


def _layers_in_memory() -> Iterator[Finding]:
    if (in_memory := layers_in_memory()) and settings.DEBUG:  # else tiderace.W012
        yield Finding(
            Level.NOTE,
            f"the channel layer {', '.join(in_memory)} is in memory: what a shell, a "
            "command or a worker publishes, the pages of the server do not get",
            f"{ADVICE[0].upper()}{ADVICE[1:]}.",
        )


def _system_checks() -> Iterator[Finding]:
    messages = [
        message
        for message in run_checks(tags=["tiderace"], include_deployment_checks=True)
        if not message.is_silenced()
    ]
    for message in messages:
        level = Level.ERROR if message.level >= ERROR else Level.WARNING
        yield Finding(level, f"({message.id}) {message.msg}", message.hint or "")
    if not messages:
        yield Finding(Level.FINE, "no messages")


def _routes() -> Iterator[Finding]:
    if not getattr(settings, "ASGI_APPLICATION", None):
        return  # reported as tiderace.W001
    try:
        routes = websocket_routes(get_default_application())
    except Exception as error:
        # An asgi.py may raise anything.
        yield Finding(
            Level.ERROR,
            f"{settings.ASGI_APPLICATION} cannot be imported: "
            f"{type(error).__name__}: {error}",
            "Correct it; no server can start with it.",
        )
        return
    if routes is None:
        yield Finding(Level.NOTE, "a wrapper hides which WebSocket routes there are")
    elif not routes:
        yield Finding(
            Level.WARNING,
            f"{settings.ASGI_APPLICATION} serves no WebSockets",
            'Give ProtocolTypeRouter a "websocket" application, or build all of it with '
            "tiderace.routing.get_application().",
        )
    else:
        count = len(routes)
        yield Finding(
            Level.FINE,
            f"WebSocket routes: {count}; manage.py tiderace_routes lists them",
        )


def _proxy() -> Iterator[Finding]:
    """Check the settings and the environment for a deployment behind a proxy."""
    if settings.DEBUG:
        yield Finding(Level.NOTE, "not looked at, since DEBUG is on")
        return
    if "*" in settings.ALLOWED_HOSTS:
        yield Finding(
            Level.WARNING,
            'ALLOWED_HOSTS has "*": pages of every site may open the WebSockets of '
            "consumers with a visitor's cookies",
            "Name the hosts of the site, or the origins in get_application(origins=…).",
        )
    elif not settings.ALLOWED_HOSTS:
        yield Finding(
            Level.ERROR,
            "ALLOWED_HOSTS is empty and DEBUG is off: every WebSocket is refused",
            "Name the hosts of the site in ALLOWED_HOSTS.",
        )
    if settings.SECURE_PROXY_SSL_HEADER is None:
        yield Finding(
            Level.NOTE,
            "SECURE_PROXY_SSL_HEADER is not set: behind a proxy that ends TLS, Django "
            "treats every request as plain HTTP",
            "If a proxy ends TLS and sets the header itself: SECURE_PROXY_SSL_HEADER = "
            '("HTTP_X_FORWARDED_PROTO", "https").',
        )
    if not os.environ.get("FORWARDED_ALLOW_IPS"):
        yield Finding(
            Level.NOTE,
            "FORWARDED_ALLOW_IPS is not set here: uvicorn accepts X-Forwarded-For from "
            "127.0.0.1 alone, so behind a proxy elsewhere all clients have its address",
            "Where the server is started, set it to the proxy's address.",
        )


def _open_files() -> Iterator[Finding]:
    if resource is None:  # pragma: no cover (Windows)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"a process may have {soft:,} open files, and each socket is one"
    if 0 <= soft < _FEW_FILES:
        yield Finding(
            Level.WARNING,
            text,
            f"Raise it where the server is started: ulimit -n {max(hard, 65_536)}, "
            "LimitNOFILE= in a systemd unit.",
        )
    else:
        yield Finding(Level.FINE, text)


def _outbox(rows: OutboxRows) -> Iterator[Finding]:
    """Check that a relay is at work, and what waits for it."""
    try:
        if not rows.exist():
            yield Finding(
                Level.WARNING,
                "the database has no tables of tiderace.outbox: publish() in its "
                "transactions raises an error",
                f"Run manage.py migrate --database={rows.database}, or let a router's "
                "allow_migrate() refuse the app there.",
            )
            return
        relay, statistics = rows.relay(), rows.statistics()
    except DatabaseError as error:
        advice = "Do what the database's error advises."
        yield Finding(Level.ERROR, f"it cannot be read: {error}", advice)
        return
    if relay is None or relay[1] > _SILENT_RELAY:
        yield Finding(
            Level.ERROR if statistics.waiting else Level.WARNING,
            "no relay is at work: what is committed is not published",
            "Start a server, whose lifespan starts one unless RELAY_IN_SERVERS is off, "
            "or manage.py tiderace_relay.",
        )
    else:
        yield Finding(Level.FINE, f"the relay is {relay[0]}")
    text = f"{statistics.waiting} wait"
    if statistics.oldest > _LONG_WAIT:
        yield Finding(
            Level.WARNING,
            f"{text}, the oldest for {statistics.oldest:.0f} s",
            "Look at the log of tiderace.outbox, and at the layers below.",
        )
    else:
        yield Finding(Level.FINE, text)
    if statistics.set_aside:
        yield Finding(
            Level.WARNING,
            f"{statistics.set_aside} are set aside, since they cannot be published",
            "Look at their errors on the admin page of the outbox, and delete them or "
            "try them again.",
        )


async def _layer(alias: str, timeout: float) -> list[Finding]:
    steps = await probe_layer(alias, timeout=timeout)
    findings: list[Finding] = []
    for step in steps:
        note = f"{step.name}: {step.note}".rstrip(": ")
        if step.passed is False:
            advice = "Do what the text advises; check_channels repeats the tests."
            findings.append(Finding(Level.ERROR, note, advice))
        elif step.seconds is None:
            findings.append(Finding(Level.FINE, note))
        else:
            findings.append(
                Finding(Level.FINE, f"{step.name}: {step.seconds * 1000:.1f} ms")
            )
    if not any_failed(steps) and repr(alias) not in layers_in_memory():
        findings += await _servers_of(alias)
    return findings


async def _servers_of(alias: str) -> list[Finding]:
    """Check the Redis or Valkey servers behind a layer."""
    layer = channel_layers.make_backend(alias)
    connection = layer_attribute(layer, "connection")
    ring_size = layer_attribute(layer, "ring_size")
    if connection is None or ring_size is None:
        return []
    findings: list[Finding] = []
    for index in range(ring_size):
        client = connection(index)
        try:
            findings += _of_server(await client.info())
        except Exception as error:
            # The Redis user may lack the permission; the layer works without it.
            findings.append(Finding(Level.NOTE, f"INFO of its server failed: {error}"))
        finally:
            await client.aclose()
    return findings


def _of_server(information: dict[str, Any]) -> Iterator[Finding]:
    name = "Valkey" if "valkey_version" in information else "Redis"
    version = information.get("valkey_version") or information.get("redis_version")
    used = information.get("used_memory_human", "?")
    yield Finding(Level.FINE, f"{name} {version}, {used} in use")
    policy = information.get("maxmemory_policy", "noeviction")
    if information.get("maxmemory") and policy != "noeviction":
        yield Finding(
            Level.WARNING,
            f"its maxmemory-policy is {policy}: when memory is short it evicts messages "
            "that disconnected processes have not fetched yet",
            "Set maxmemory-policy to noeviction, and give caches a server of their own.",
        )
    if information.get("evicted_keys"):
        yield Finding(
            Level.WARNING,
            f"it has evicted {information['evicted_keys']} keys",
            "Give it more memory, or this layer a server of its own.",
        )
