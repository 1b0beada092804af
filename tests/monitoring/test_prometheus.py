"""Prometheus: the metrics of one process, and the sums of several behind one port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
from django.test import AsyncRequestFactory, RequestFactory
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families

from support.servers.asgi_process import AsgiProcess
from support.waiting import wait_until
from tiderace import metrics
from tiderace.layers import InMemoryChannelLayer, channel_layers
from tiderace.monitoring import multiprocess_metrics, prometheus
from tiderace.monitoring.multiprocess_metrics import Folder
from tiderace.monitoring.prometheus import TideraceCollector, metrics_view, register
from tiderace.monitoring.snapshot import Snapshot, take


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by the name of the sample and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def scrape():
    """Return the samples of a registry of the test's own."""
    collectors = CollectorRegistry()
    collectors.register(TideraceCollector())
    return lambda: samples(generate_latest(collectors).decode())


# One process


def test_every_measurement_is_exported(scrape):
    names = {sample[0] for sample in scrape()}

    for each in metrics.measurements():
        suffix = "_total" if each.kind == "counter" else ""
        assert f"tiderace_{each.name}{suffix}" in names
    for each in metrics.histograms():
        assert f"tiderace_{each.name}_{each.unit}_bucket" in names


def test_values_are_read_at_the_scrape(scrape):
    before = scrape()["tiderace_messages_sent_total",]

    metrics.MESSAGES_SENT.add(3)

    assert scrape()["tiderace_messages_sent_total",] == before + 3


def test_close_codes_are_labels(scrape):
    before = scrape().get(("tiderace_closes_sent_total", "4711"), 0)

    metrics.CLOSES_SENT.add(4711)

    assert scrape()["tiderace_closes_sent_total", "4711"] == before + 1


def test_the_buckets_of_a_histogram_are_cumulative(scrape):
    name = "tiderace_connection_duration_seconds"
    before = scrape()

    for seconds in (0.5, 30, 200_000):
        metrics.CONNECTION_DURATION.observe(seconds)
    after = scrape()

    def grown(*sample: str) -> float:
        return after[sample] - before[sample]

    assert grown(f"{name}_bucket", "1.0") == 1
    assert grown(f"{name}_bucket", "60.0") == 2
    assert grown(f"{name}_bucket", "86400.0") == 2
    assert grown(f"{name}_bucket", "+Inf") == grown(f"{name}_count") == 3
    assert grown(f"{name}_sum") == 200_030.5


async def test_gauges_of_layers_have_their_alias_as_label(scrape, monkeypatch):
    layer = InMemoryChannelLayer()
    monkeypatch.setattr(channel_layers, "backends", {"second": layer, "other": None})
    await layer.group_add("tea", await layer.new_channel())

    exported = scrape()

    assert exported["tiderace_layer_groups", "second"] == 1
    assert exported["tiderace_layer_channels", "second"] == 1
    assert ("tiderace_layer_groups", "other") not in exported


async def test_the_view_answers_in_the_text_format():
    response = await metrics_view(AsyncRequestFactory().get("/metrics"))

    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=")
    exported = samples(response.content.decode())
    assert ("tiderace_connections_open",) in exported
    assert any(name.startswith("python_") for name, *_ in exported)


async def test_the_view_answers_in_open_metrics_on_request():
    request = AsyncRequestFactory().get(
        "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )

    response = await metrics_view(request)

    assert response["Content-Type"].startswith("application/openmetrics-text")
    families = {each.name for each in open_metrics(response.content.decode())}
    assert "tiderace_messages_sent" in families


async def test_the_view_takes_no_post():
    response = await metrics_view(AsyncRequestFactory().post("/metrics"))

    assert response.status_code == 405


def test_the_view_works_under_wsgi():
    from asgiref.sync import async_to_sync

    response = async_to_sync(metrics_view)(RequestFactory().get("/metrics"))

    assert b"tiderace_info{" in response.content


def test_a_second_registration_changes_nothing():
    collectors = CollectorRegistry()

    register(collectors)
    register(collectors)

    exported = generate_latest(collectors)
    assert exported.count(b"# TYPE tiderace_messages_sent_total") == 1


# Adding up


def test_the_measurements_of_two_processes_are_added():
    one = Snapshot(
        {"a": {"": 1}, "closes": {"1000": 1}, "h": {"1.0": 1, "inf": 0, "sum": 0.5}},
        {
            "g": {"": 2},
            "layer_groups": {"default": 2},
            "layer_lag_seconds": {"default": 0.2},
        },
    )
    two = Snapshot(
        {
            "a": {"": 2},
            "b": {"": 5},
            "closes": {"1000": 1, "1001": 4},
            "h": {"1.0": 0, "inf": 3, "sum": 7.0},
        },
        {
            "g": {"": 1},
            "layer_groups": {"default": 3},
            "layer_lag_seconds": {"default": 0.1},
        },
    )

    one.add(two)

    assert one == Snapshot(
        {
            "a": {"": 3},
            "b": {"": 5},
            "closes": {"1000": 2, "1001": 4},
            "h": {"1.0": 1, "inf": 3, "sum": 7.5},
        },
        {
            "g": {"": 3},
            "layer_groups": {"default": 5},
            "layer_lag_seconds": {"default": 0.2},
        },
    )


def test_a_histogram_with_other_bounds_counts_in_the_next_larger_bucket(monkeypatch):
    """A file of another release that was left in the folder has such bounds."""
    name = "connection_duration"
    old = Snapshot({name: {"0.5": 1, "20.0": 2, "inf": 3, "sum": 9.0}})
    monkeypatch.setattr(prometheus, "take", lambda: old)
    collectors = CollectorRegistry()
    collectors.register(TideraceCollector())

    exported = samples(generate_latest(collectors).decode())

    bucket = f"tiderace_{name}_seconds_bucket"
    assert exported[bucket, "1.0"] == exported[bucket, "10.0"] == 1
    assert exported[bucket, "60.0"] == exported[bucket, "86400.0"] == 3
    assert exported[bucket, "+Inf"] == 6


# Several processes that share a folder

OTHER = """
import sys
from pathlib import Path
from tiderace import metrics
from tiderace.monitoring.multiprocess_metrics import Folder

folder = Folder(Path(sys.argv[1]))
metrics.MESSAGES_SENT.add(100)
metrics.CONNECTIONS_OPEN.add(7)
folder.write()
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that has sent 100 messages and has 7 connections."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "written\n"
        yield process
        process.kill()


def test_the_counters_of_another_process_are_exported_too(tmp_path, other):
    folder = Folder(tmp_path)
    before = folder.own()

    total = folder.total()

    sent, connections = "messages_sent", "connections_open"
    assert total.counters[sent][""] == before.counters[sent][""] + 100
    assert total.gauges[connections][""] == before.gauges[connections][""] + 7


def test_the_counters_of_a_killed_process_stay_and_its_gauges_go(tmp_path, other):
    folder = Folder(tmp_path)
    before = folder.own()

    other.kill()
    other.wait()
    totals = [folder.total() for _ in range(3)]

    for total in totals:
        sent, connections = "messages_sent", "connections_open"
        assert total.counters[sent][""] == before.counters[sent][""] + 100
        assert total.gauges[connections] == before.gauges[connections]
    assert len(list(tmp_path.glob("*.lock"))) == 1


def test_a_file_that_cannot_be_read_counts_nothing(tmp_path, other):
    [file] = tmp_path.glob("*.json")
    file.write_text('{"counters": "of another release"}')
    folder = Folder(tmp_path)

    assert folder.total().counters == folder.own().counters


FORKED = """
import os, sys
from pathlib import Path
from tiderace import metrics
from tiderace.monitoring import multiprocess_metrics

metrics.MESSAGES_SENT.add(1000)
folder = multiprocess_metrics.share(Path(sys.argv[1]))
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    metrics.MESSAGES_SENT.add(1)
    folder.write()
    os.write(writing, b"x")
    os.read(0, 1)
    os._exit(0)
os.read(reading, 1)
print(int(folder.total().counters["messages_sent"][""]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_its_counters_at_zero(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path)],
        input="",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.stdout == "1001\n", done.stderr


@pytest.fixture
def site(tmp_path):
    """Two worker processes behind one port."""
    environment = {
        "WEB_CONCURRENCY": "2",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        "DJANGO_SETTINGS_MODULE": "",
    }
    with AsgiProcess(
        "uvicorn", "sites.metrics_site:application", env=environment
    ) as server:
        yield server


def fetched(server: AsgiProcess, where: str) -> str:
    with urllib.request.urlopen(f"{server.http}/{where}", timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.servers
def test_two_workers_behind_one_port_export_their_sum(site):
    answers: list[str] = []

    def both():
        answers.append(fetched(site, "work"))
        return len(set(answers)) == 2

    wait_until(both, what="an answer of each worker")

    def sent() -> float:
        return samples(fetched(site, "metrics"))["tiderace_messages_sent_total",]

    # Whichever of them is asked.
    expected = {len(answers)}
    wait_until(lambda: {sent() for _ in range(10)} == expected, what="the sum of both")

    os.kill(int(answers[0]), signal.SIGKILL)

    def another():
        answers.append(fetched(site, "work"))
        return len(set(answers)) == 3

    def answered_again():
        try:
            return another()
        except OSError:  # what the killed one had accepted
            return False

    wait_until(answered_again, what="an answer of a third worker")
    wait_until(lambda: sent() == len(answers), what="the sum with the dead one's")


def test_the_view_uses_the_folder_of_the_environment_variable(tmp_path):
    """Also in a project that does not list us as an app."""
    program = textwrap.dedent(
        """
        import asyncio, os, sys
        from pathlib import Path
        from django.conf import settings
        settings.configure()
        from django.test import AsyncRequestFactory
        from tiderace.monitoring import multiprocess_metrics
        from tiderace.monitoring.prometheus import metrics_view
        assert multiprocess_metrics.shared() is None
        response = asyncio.run(metrics_view(AsyncRequestFactory().get("/")))
        assert multiprocess_metrics.shared().path == Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        assert b"tiderace_messages_sent_total 0.0" in response.content
        """
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    [left] = tmp_path.glob("tiderace-*.json")
    assert b"messages_sent" in left.read_bytes()


def test_without_the_variable_there_is_no_folder():
    assert multiprocess_metrics.FOLDER_VARIABLE not in os.environ
    assert multiprocess_metrics.shared() is None
    assert take().counters


def test_the_error_without_prometheus_client_names_the_extra(tmp_path):
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not there')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import tiderace.monitoring.prometheus"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert 'pip install "tiderace[prometheus]"' in done.stderr


def test_the_folder_is_made(tmp_path):
    Folder(tmp_path / "new" / "folder")

    assert (Path(tmp_path) / "new" / "folder").is_dir()
