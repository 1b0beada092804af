"""``manage.py tiderace_doctor``: what is found, how bad it is, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import io
import json
import resource
from datetime import timedelta
from unittest import mock

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from support.servers.brokers import Server
from tiderace.layers import BaseChannelLayer
from tiderace.layers.redis import RedisChannelLayer
from tiderace.monitoring.doctor import Level, diagnose
from tiderace.outbox.lease import Lease
from tiderace.outbox.models import WaitingPublication

MEMORY = {"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}}
HEALTHY = {
    "ALLOWED_HOSTS": ["example.com"],
    "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
    "ASGI_APPLICATION": "sites.live_site.application",
    "CHANNEL_LAYERS": MEMORY,
    "SILENCED_SYSTEM_CHECKS": ["tiderace.W012", "tiderace.W013"],
}


def found(topic: str, *, brokers: bool = False, **changed):
    """The findings about one topic, of a healthy project with something changed."""
    with (
        override_settings(**{**HEALTHY, **changed}),
        mock.patch.dict("os.environ", {"FORWARDED_ALLOW_IPS": "10.0.0.1"}),
    ):
        return diagnose(brokers=brokers, timeout=1.0)[topic]


def only(findings, level: Level):
    """The one finding of this level, which must say what to do if it is bad."""
    [finding] = [each for each in findings if each.level is level]
    assert finding.advice or level in (Level.FINE, Level.NOTE)
    return finding


def redis_layers(url: str):
    backend = "tiderace.layers.redis.RedisChannelLayer"
    config = {"hosts": [url], "publish_timeout": 0.5}
    return {"default": {"BACKEND": backend, "CONFIG": config}}


# Versions


def test_versions_are_reported():
    lines = [finding.text for finding in found("versions")]

    assert lines[0].startswith("Tiderace ")
    assert "Django" in lines[0]
    assert f"uvicorn {importlib.metadata.version('uvicorn')}" in lines


@pytest.fixture
def without():
    """Some packages that are not installed."""
    missing = set()
    real = importlib.metadata.version

    def version(name):
        if name in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    with mock.patch.object(importlib.metadata, "version", version):
        yield missing


def test_a_missing_package_for_speed_is_a_note(without):
    without.add("uvloop")

    note = only(found("versions"), Level.NOTE)

    assert note.text == "uvloop is not installed (a faster event loop)"
    assert note.advice == 'pip install "tiderace[server]"'


def test_a_missing_package_of_the_layer_is_an_error(without):
    without.add("hiredis")

    layers = redis_layers("redis://127.0.0.1:1")
    error = only(found("versions", CHANNEL_LAYERS=layers), Level.ERROR)

    assert error.advice == 'pip install "tiderace[redis]"'


def test_a_missing_package_that_is_not_needed_is_not_reported(without):
    without.add("hiredis")

    assert not [each for each in found("versions") if "hiredis" in each.text]


# System checks


def test_system_checks_are_findings_with_their_number_and_hint():
    error = only(found("system checks", TIDERACE={"SYNC_THREAD": 1}), Level.ERROR)

    assert error.text.startswith("(tiderace.E009) ")
    assert "every setting has a default" in error.advice


def test_deployment_checks_are_included():
    warning = only(
        found("system checks", SILENCED_SYSTEM_CHECKS=["tiderace.W013"]), Level.WARNING
    )

    assert warning.text.startswith("(tiderace.W012) ")


def test_a_project_without_faults_has_a_finding_that_says_so():
    assert only(found("system checks"), Level.FINE).text == "no messages"


# Routes


def test_routes_are_counted():
    text = only(found("routes"), Level.FINE).text

    assert text == "WebSocket routes: 3; manage.py tiderace_routes lists them"


def test_an_application_that_cannot_be_imported_is_an_error():
    error = only(found("routes", ASGI_APPLICATION="nowhere.application"), Level.ERROR)

    assert "nowhere.application cannot be imported" in error.text


def test_an_application_without_websockets_is_warned_of():
    name = "test_tiderace_commands.pages_alone"

    warning = only(found("routes", ASGI_APPLICATION=name), Level.WARNING)

    assert "get_application()" in warning.advice


def test_hidden_routes_are_noted():
    name = "test_tiderace_commands.hidden"

    assert "hides" in only(found("routes", ASGI_APPLICATION=name), Level.NOTE).text


def test_a_missing_application_is_reported_by_the_system_check():
    assert found("routes", ASGI_APPLICATION=None) == []


# Tickets

LOCAL = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
SHARED = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache"}}
BROKER = redis_layers("redis://127.0.0.1:1")


# The proxy


def test_a_correct_proxy_configuration_has_no_findings():
    assert found("proxy") == []


def test_the_proxy_is_not_checked_with_debug():
    assert "DEBUG is on" in only(found("proxy", DEBUG=True), Level.NOTE).text


def test_every_host_allowed_is_warned_of():
    warning = only(found("proxy", ALLOWED_HOSTS=["*"]), Level.WARNING)

    assert "pages of every site" in warning.text


def test_no_host_allowed_is_an_error():
    error = only(found("proxy", ALLOWED_HOSTS=[]), Level.ERROR)

    assert "every WebSocket is refused" in error.text


def test_a_missing_secure_proxy_header_is_a_note():
    note = only(found("proxy", SECURE_PROXY_SSL_HEADER=None), Level.NOTE)

    assert "HTTP_X_FORWARDED_PROTO" in note.advice


def test_a_missing_forwarded_allow_ips_is_a_note(monkeypatch):
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    with override_settings(**HEALTHY):
        [note] = diagnose(brokers=False)["proxy"]

    assert "all clients have its address" in note.text


# The system


@pytest.mark.parametrize(
    ("limit", "level"),
    [
        (256, Level.WARNING),
        (20_000, Level.FINE),
        (resource.RLIM_INFINITY, Level.FINE),
    ],
)
def test_few_open_files_are_warned_of(limit, level):
    with mock.patch.object(resource, "getrlimit", return_value=(limit, 65_536)):
        finding = only(found("system"), level)

    assert "open files" in finding.text


# Layers and their servers


def test_a_working_layer_is_reported_with_its_times():
    texts = [finding.text for finding in found("layer default", brokers=True)]

    assert [text.partition(":")[0] for text in texts] == [
        "send and receive",
        "group",
        "recovery",
    ]


def test_a_layer_that_does_not_work_is_an_error():
    layers = redis_layers("redis://127.0.0.1:1")

    findings = found("layer default", brokers=True, CHANNEL_LAYERS=layers)

    assert "could not be reached" in only(findings, Level.ERROR).text


@pytest.fixture(scope="module")
def server():
    with Server(lines=("maxmemory 100mb",)) as server:
        yield server


def test_the_version_of_the_layers_server_is_reported(server):
    layers = redis_layers(server.url)

    findings = found("layer default", brokers=True, CHANNEL_LAYERS=layers)

    assert all(finding.level is Level.FINE for finding in findings)
    assert findings[-1].text.endswith(" in use")


def test_a_server_that_evicts_is_warned_of(server):
    layers = redis_layers(server.url)
    server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        findings = found("layer default", brokers=True, CHANNEL_LAYERS=layers)
    finally:
        server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")

    assert "allkeys-lru" in only(findings, Level.WARNING).text


def test_a_server_that_has_evicted_is_warned_of(server):
    layers = redis_layers(server.url)
    client = mock.AsyncMock()
    client.info.return_value = {"redis_version": "7.2", "evicted_keys": 12}
    with mock.patch.object(RedisChannelLayer, "connection", return_value=client):
        findings = found("layer default", brokers=True, CHANNEL_LAYERS=layers)

    assert only(findings, Level.WARNING).text == "it has evicted 12 keys"
    assert client.aclose.await_count == 1


def test_a_server_that_refuses_info_is_a_note(server):
    layers = redis_layers(server.url)
    client = mock.AsyncMock()
    client.info.side_effect = PermissionError("NOPERM")
    with mock.patch.object(RedisChannelLayer, "connection", return_value=client):
        findings = found("layer default", brokers=True, CHANNEL_LAYERS=layers)

    assert "NOPERM" in only(findings, Level.NOTE).text


class Elsewhere(BaseChannelLayer):
    """A layer of another project, which only sends and receives."""

    messages = []

    async def send(self, channel, message):
        self.messages.append(message)

    async def receive(self, channel):
        return self.messages.pop(0)

    async def new_channel(self):
        return "specific!x"


def test_the_server_of_another_projects_layer_is_not_queried():
    layers = {"default": {"BACKEND": f"{__name__}.Elsewhere"}}

    findings = found("layer default", brokers=True, CHANNEL_LAYERS=layers)

    assert {finding.level for finding in findings} == {Level.FINE}


# The command


def run(*arguments: str, **changed) -> str:
    output = io.StringIO()
    with override_settings(**{**HEALTHY, **changed}):
        call_command("tiderace_doctor", *arguments, stdout=output, no_color=True)
    return output.getvalue()


def test_findings_are_written_under_their_topic_with_what_to_do():
    output = run("--offline", ALLOWED_HOSTS=["*"])

    assert "\nproxy\n  warning  ALLOWED_HOSTS" in output
    assert "\n           → Name the hosts of the site" in output


def test_findings_can_be_written_as_json():
    told = json.loads(run("--offline", "--json"))

    assert told[0]["topic"] == "versions"
    assert told[0]["level"] == "ok"


def test_no_layer_is_tested_offline():
    away = redis_layers("redis://127.0.0.1:1")

    assert "layer default" not in run("--offline", CHANNEL_LAYERS=away)


def test_an_error_makes_the_command_fail():
    with pytest.raises(
        CommandError, match=r"^1 of \d+ findings needs attention"
    ) as failed:
        run("--offline", ALLOWED_HOSTS=[])

    assert failed.value.returncode == 1


def test_a_warning_makes_the_command_fail_with_fail_level():
    run("--offline", ALLOWED_HOSTS=["*"])

    with pytest.raises(CommandError):
        run("--offline", "--fail-level", "warning", ALLOWED_HOSTS=["*"])


def test_a_project_without_layers_has_no_layer_findings():
    with override_settings(**{**HEALTHY, "CHANNEL_LAYERS": {}}):
        findings = diagnose(timeout=1.0)

    assert not [subject for subject in findings if subject.startswith("layer ")]


def test_an_in_memory_layer_is_a_note_in_development():
    finding = only(found("layers", DEBUG=True), Level.NOTE)

    assert "'default' is in memory" in finding.text
    assert "tiderace.layers.database.DatabaseChannelLayer" in finding.advice


def test_layers_that_processes_share_are_no_finding():
    assert found("layers", DEBUG=True, CHANNEL_LAYERS={}) == []


# The outbox


@pytest.fixture
def outbox(tmp_path, django_db_blocker, own_lifespan):
    """The findings about an outbox in a database of its own, and its relay's lease."""
    database = {
        **connections.databases["default"],
        "NAME": str(tmp_path / "outbox.sqlite3"),
    }
    connections.databases["outbox"] = database
    apps = [*settings.INSTALLED_APPS, "tiderace.outbox"]
    with django_db_blocker.unblock(), override_settings(INSTALLED_APPS=apps):
        yield lambda: found("outbox outbox", brokers=True)
        connections["outbox"].close()
    del connections["outbox"], connections.databases["outbox"]


def migrate():
    call_command("migrate", "tiderace_outbox", database="outbox", verbosity=0)


def test_an_outbox_without_tables_is_reported_with_the_command(outbox):
    assert "migrate --database=outbox" in only(outbox(), Level.WARNING).advice


def test_an_outbox_without_a_relay_is_an_error_when_publications_wait(outbox):
    migrate()
    assert "no relay is at work" in only(outbox(), Level.WARNING).text

    WaitingPublication.objects.using("outbox").create(topic="room:a", data="1")

    assert "no relay is at work" in only(outbox(), Level.ERROR).text


def test_the_relay_of_an_outbox_and_what_waits_are_reported(outbox):
    migrate()
    assert Lease("outbox").acquire()
    rows = WaitingPublication.objects.using("outbox")
    rows.create(topic="room:a", data="1")

    relay, waiting = outbox()

    assert relay.text.startswith("the relay is ")
    assert waiting.text == "1 wait"

    rows.update(created=timezone.now() - timedelta(minutes=1))
    assert "the oldest for 60 s" in only(outbox(), Level.WARNING).text


def test_publications_that_are_set_aside_are_reported(outbox):
    migrate()
    assert Lease("outbox").acquire()
    rows = WaitingPublication.objects.using("outbox")
    rows.create(topic="room:a", data="1", failed=timezone.now(), error="TypeError")

    assert "1 are set aside" in only(outbox(), Level.WARNING).text
